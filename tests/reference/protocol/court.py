"""Disputes of the model."""

from __future__ import annotations

from commonweight.core import merkle
from commonweight.core.hashing import word
from commonweight.core.state import JURIES, Dispute, Phase, WorkState
from commonweight.core.works import WITHHELD, Header

from .panel import item, verdict
from .world import BURN, Contract, Revert

MIN_JURY, LAST = 5, 3


class Court(Contract):
    """Twin of `Court`."""

    def file(self, sender: bytes, *place: int) -> None:
        raise Revert("NotTasks", sender)

    def onVote(self, sender: bytes, poll: int, vote: int) -> None:
        raise Revert("NotPanel", sender)

    def settleVote(self, sender: bytes, poll: int, vote: int, owner: bytes) -> None:
        raise Revert("NotPanel", sender)

    def filed(self, task: int, round_: int, slot: int, tree: int, leaf: int) -> None:
        """``file`` by Tasks; a known accusation is not filed again."""
        place = (task, round_, slot, tree, leaf)
        if place in [(d.task, d.round, d.slot, d.tree, d.leaf) for d in self.state.disputes.values()]:
            return
        id_ = len(self.state.disputes) + 1
        self.world.emit(
            "Court", "Filed", dispute=id_, task=task, round=round_, slot=slot, tree=tree, leaf=leaf
        )

    def answer(self, sender: bytes, id_: int, header: Header, leaf: tuple[bytes, list[bytes]]) -> None:
        d = self._in(id_, Phase.FILED)
        until = self.state.answer_end(d)
        if self.now >= until:
            raise Revert("AnswerOver", id_, until)
        root = self.state.accused(d)[2].root
        if header.root != root:
            raise Revert("WrongHeader", root, header.root)
        self.world.emit("Court", "Answered", dispute=id_, by=sender)
        if d.leaf == WITHHELD or self._shown(header, d, leaf):
            self._convene(d)

    def rule(self, sender: bytes, id_: int) -> None:
        if id_ not in self.state.disputes:
            raise Revert("UnknownDispute", id_)
        d = self.state.disputes[id_]
        if d.phase is Phase.FILED:
            until = self.state.answer_end(d)
            if self.now < until:
                raise Revert("StillVoting", id_, until)
            return self._end(d, WorkState.SOFT if d.leaf == WITHHELD else WorkState.HARD)
        if d.phase is Phase.JURY:
            poll = self.state.polls[d.poll]
            if self.now < poll.reveal_end:
                raise Revert("StillVoting", id_, poll.reveal_end)
            hard, soft, innocent = self.books.jury[id_]
            ruling = self._counted(d)
            counts = {"hard": hard, "soft": soft, "innocent": innocent}
            self.world.emit("Court", "Verdict", dispute=id_, level=d.level, outcome=int(ruling), **counts)
            if d.level < LAST and poll.seats > JURIES[d.level]:
                return None
            return self._end(d, ruling)
        if d.phase is Phase.FINAL:
            raise Revert("WrongPhase", id_, int(d.phase))
        until = self.state.appeal_end(d)
        if self.now < until:
            raise Revert("StillVoting", id_, until)
        return self._end(d, d.ruling or WorkState.NONE)

    def appeal(self, sender: bytes, id_: int) -> None:
        d = self._in(id_, Phase.RULED)
        until = self.state.appeal_end(d)
        if self.now >= until:
            raise Revert("AppealOver", id_, until)
        bond = self.bond(d, d.level + 1)
        self.world.emit("Court", "Appealed", dispute=id_, level=d.level + 1, by=sender, bond=bond)
        self.world.vault.locked("Court", sender, word(id_), bond)
        d.level += 1
        self._convene(d)

    def bond(self, d: Dispute, level: int) -> int:
        """What calling the jury of a level costs."""
        return (self.state.tasks[d.task].params["bond"] << level) // 4

    def on_vote(self, poll: int, vote: int) -> bool:
        """``onVote`` by the Panel."""
        place = {1: 0, WITHHELD: 1, 0: 2}.get(verdict(vote))
        if item(vote) or place is None:
            return False
        self.books.jury[self.state.juries[poll]][place] += 1
        return True

    def settle_vote(self, poll: int, vote: int, owner: bytes) -> tuple[int, None]:
        """``settleVote`` by the Panel."""
        d = self.state.disputes[self.state.juries[poll]]
        if d.phase is not Phase.FINAL:
            raise Revert("NotRuled", d.id)
        v = verdict(vote)
        right = (v == 0) == (d.outcome is WorkState.VALID)
        if item(vote) or v not in (0, 1, WITHHELD) or poll != d.poll or not right:
            return 0, None
        paid = self.books.share[d.id]
        if paid:
            self.world.vault.paid("Court", word(d.id), owner, paid)
        return paid, None

    def _in(self, id_: int, phase: Phase) -> Dispute:
        if id_ not in self.state.disputes:
            raise Revert("UnknownDispute", id_)
        d = self.state.disputes[id_]
        if d.phase is not phase:
            raise Revert("WrongPhase", id_, int(d.phase))
        return d

    def _shown(self, header: Header, d: Dispute, leaf: tuple[bytes, list[bytes]]) -> bool:
        if d.tree == 0:
            return d.leaf == 0
        root, length = (
            (header.update_root, header.update_length),
            (header.trajectory_root, header.trajectory_count * merkle.LEAF),
            (header.step_root, header.step_count * merkle.LEAF),
        )[d.tree - 1]
        if d.leaf >= merkle.leaf_count(length):
            return False
        shown = merkle.Opening(length, d.leaf, leaf[0], tuple(leaf[1]))
        if len(leaf[0]) != merkle.LEAF or not merkle.verify_leaf(root, shown):
            raise Revert("BadOpening", d.leaf)
        return True

    def _convene(self, d: Dispute) -> None:
        p = self.state.tasks[d.task].params
        risk = self.world.host.risk_min if d.level else 0
        poll = self.world.panel.opened("Court", p["sealT"], p["revealT"], JURIES[d.level], risk)
        self.books.jury[d.id] = [0, 0, 0]
        self.world.emit("Court", "Convened", dispute=d.id, level=d.level, poll=poll)

    def _counted(self, d: Dispute) -> WorkState:
        hard, soft, innocent = self.books.jury[d.id]
        votes = hard + soft + innocent
        if hard + soft <= innocent:
            return WorkState.VALID
        slash = votes >= MIN_JURY and 3 * hard >= 2 * votes and d.leaf != WITHHELD
        return WorkState.HARD if slash else WorkState.SOFT

    def _end(self, d: Dispute, outcome: WorkState) -> None:
        hard, soft, innocent = self.books.jury[d.id]
        guilty = hard + soft
        votes = {"guilty": guilty, "innocent": innocent}
        self.world.emit("Court", "Ruled", dispute=d.id, outcome=int(outcome), **votes)
        lost = sum(a.bond for a in d.appeals if a.against is outcome)
        jurors = innocent if outcome is WorkState.VALID else guilty
        share = self.books.share[d.id] = lost // 2 // jurors if jurors else 0
        for a in d.appeals:
            if a.against is not outcome:
                self.world.vault.paid("Court", word(d.id), a.by, a.bond)
        if lost:
            self.world.vault.paid("Court", word(d.id), BURN, lost - share * jurors)
        self.world.tasks.resolved(d.task, d.round, d.slot, outcome)
