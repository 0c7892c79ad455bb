"""A validator: holds a seat, re-checks drawn pieces of every work, seals its verdicts, judges disputed leaves.

Votes and salt are journalled write-once before their hash is sealed, so a crash can neither lose nor change a vote.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from itertools import chain as chained
from typing import Any

from ..core import duties
from ..core.duties import Duty, Todo
from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.seeds import audit_segments, is_drawn, mandatory, votes_hash
from ..core.spec import Spec
from ..core.state import Dispute, Poll, Round, Task, Work, WorkState
from ..core.verdict import Outcome, Verdict, vote_word
from ..core.works import WITHHELD, Header
from ..tasks.isolation import isolated
from ..tasks.kinds import task_kind
from ..tasks.lease import Lease
from .node import Kit, Node, Settings


class Validator(Node):
    """The validator role in one task, with one or more seats."""

    role = "validator"

    def __init__(self, kit: Kit, settings: Settings) -> None:
        super().__init__(kit, settings)
        self.handlers |= {
            Duty.CHECK: self.do_check,
            Duty.REVEAL: self.do_reveal,
            Duty.SETTLE: self.do_settle,
            Duty.ANSWER: self.do_answer,
            Duty.APPEAL: self.do_appeal,
        }

    def duties(self) -> Iterator[Todo]:
        """Duties of the own seat, then the cranks."""
        return chained(duties.validator(self.state, self.me, self.now), super().duties())

    def prepare(self) -> None:
        """Take as many seats as the operator wants, and announce where artifacts are served."""
        self.announce()
        owned = sum(seat.owner == self.me for seat in self.state.seats.values())
        asked = sum(self.kit.sender.effect(f"sit:{i}") is not None for i in range(self.settings.seats))
        stake = self.kit.chain.view("Panel", "seatStake") if max(owned, asked) < self.settings.seats else 0
        if stake and self.fund(stake):
            self.call(f"sit:{max(owned, asked)}", "Panel", "sit")

    def done(self) -> bool:
        """Over only when every batch that was sealed is settled too."""
        return super().done() and not duties.unsettled(self.state, self.me)

    # -- sealing ----------------------------------------------------------------------------------------------

    def do_check(self, poll_id: int, seat: int) -> None:
        """Decide the votes of a poll beside the loop, then seal them."""
        poll = self.state.polls[poll_id]
        batch = self._batch(poll_id, seat)
        if batch is None:
            seed = self.poll_seed(poll)
            if seed is None or (poll_id in self.state.juries and not self._is_juror(poll, seat, seed)):
                return
            votes = self.jobs.result(("votes", poll_id, seat), lambda: self._decide(poll, seat, seed))
            if votes is None:
                return
            batch = {"votes": votes, "salt": secrets.token_hex(32)}
            self.kit.journal.remember(f"votes:{poll_id}:{seat}", json.dumps(batch).encode())
        chain = self.kit.chain
        sealed = votes_hash(
            chain.chain_id,
            chain.addresses["Panel"],
            poll_id,
            seat,
            batch["votes"],
            bytes.fromhex(batch["salt"]),
        )
        self.call(f"seal:{poll_id}:{seat}", "Panel", "sealVotes", poll_id, seat, sealed, len(batch["votes"]))

    def _is_juror(self, poll: Poll, seat: int, seed: bytes) -> bool:
        return is_drawn(seed, 0, seat, poll.seats, poll.want)

    def _batch(self, poll: int, seat: int) -> dict[str, Any] | None:
        raw = self.kit.journal.recall(f"votes:{poll}:{seat}")
        return None if raw is None else json.loads(raw)

    def _decide(self, poll: Poll, seat: int, seed: bytes) -> list[int]:
        """Votes of one poll, ascending by item."""
        dispute = self.state.jury_dispute(poll.id)
        if dispute is not None:
            verdict = self._judge(dispute)
            self._be_patient(verdict, poll)
            return self._jury_vote(verdict)
        found = self.state.poll_work(poll.id)
        if found is None:
            raise AssertionError("a poll is about works or about a dispute")
        task, round_ = found
        votes = []
        for slot, work in sorted(round_.works.items()):
            if work.root is not None and is_drawn(seed, slot, seat, poll.seats, poll.want):
                verdict = self._check(task, round_, work, poll, seat, seed)
                self._be_patient(verdict, poll)
                vote = verdict.vote(slot)
                votes += [] if vote is None else [vote]
        return votes

    def _be_patient(self, verdict: Verdict, poll: Poll) -> None:
        """A trainer that restarts is not one that hides: ask again during the first half of the window."""
        if verdict.outcome is Outcome.WITHHELD and 2 * self.now < poll.opened_at + poll.seal_end:
            raise CommonweightError("E1502", verdict.reason)

    def _check(self, task: Task, round_: Round, work: Work, poll: Poll, seat: int, seed: bytes) -> Verdict:
        spec = self.lineage.spec(task)
        drawn = [s for s in poll.members if is_drawn(seed, work.slot, s, poll.seats, poll.want)]
        kind = task_kind(spec.kind)
        segments = audit_segments(seed, work.slot, kind.units(spec), spec.verification.checks, seat, drawn)
        if task.params["decoyOneIn"]:
            segments = tuple(sorted({*segments, self._mandatory(spec, work, seed)}))
        with self.kit.metrics.timed("check", task=task.id, round=round_.index, slot=work.slot) as extra:
            verdict = isolated().check(*self._question(task, round_, work), segments=segments, fetch=self.get)
            extra |= {"segments": segments, "outcome": verdict.outcome.value, "reason": verdict.reason}
            extra |= {"tree": verdict.tree, "leaf": verdict.leaf, "evidence": dict(verdict.evidence)}
            extra |= {"measures": dict(verdict.measures), "child_cpu": isolated().cpu_seconds}
        return verdict

    def _mandatory(self, spec: Spec, work: Work, seed: bytes) -> int:
        """The unit that holds the trajectory which every seat has to look at: decoys show there."""
        count = Header.decode(self.get(work.root or b"", 1024)).trajectory_count
        units = task_kind(spec.kind).units(spec)
        return mandatory(seed, work.slot, count) * units // count if count >= units else 0

    def _question(
        self, task: Task, round_: Round, work: Work
    ) -> tuple[Spec, bytes, ModelVersion, Lease, bytes]:
        """What every judge of a work is given: spec, data, base version, lease and work root."""
        lease = self.lease(task, round_, work)
        if lease is None or work.root is None:
            raise AssertionError("a submitted work has a seed and a root")
        lease, base = self.replicas.lease(task, lease)
        return self.lineage.spec(task), self.lineage.data(task), base, lease, work.root

    def _judge(self, dispute: Dispute) -> Verdict:
        """Is exactly this leaf valid?"""
        task, round_, work = self.state.accused(dispute)
        with self.kit.metrics.timed("judge", dispute=dispute.id, leaf=dispute.leaf) as extra:
            question = self._question(task, round_, work)
            verdict = isolated().judge_leaf(*question, dispute.tree, dispute.leaf, self.get)
            extra |= {"outcome": verdict.outcome.value, "reason": verdict.reason}
        return verdict

    def _jury_vote(self, verdict: Verdict) -> list[int]:
        if verdict.outcome is Outcome.ERROR:
            return []
        value = {Outcome.VALID: 0, Outcome.INVALID: 1, Outcome.WITHHELD: WITHHELD}[verdict.outcome]
        return [vote_word(0, 0, value)]

    # -- watching ---------------------------------------------------------------------------------------------

    def do_answer(self, dispute: int) -> None:
        """Answer for a trainer who is away, when his leaf is right."""
        verdict = self._opinion(dispute)
        if verdict is not None and verdict.outcome is Outcome.VALID:
            self.answer(dispute)

    def do_appeal(self, dispute: int) -> None:
        """Have a ruling that we think wrong judged again."""
        verdict = self._opinion(dispute)
        if verdict is None or verdict.outcome is Outcome.ERROR:
            return
        acquitted = self.state.disputes[dispute].ruling is WorkState.VALID
        if acquitted != (verdict.outcome is Outcome.VALID):
            self.appeal(dispute)

    def _opinion(self, dispute: int) -> Verdict | None:
        found = self.state.disputes[dispute]
        verdict: Verdict | None = self.jobs.result(("opinion", dispute), lambda: self._judge(found))
        return verdict

    # -- revealing and settling -------------------------------------------------------------------------------

    def do_reveal(self, poll: int, seat: int) -> None:
        """Reveal the sealed batch."""
        batch = self._batch(poll, seat)
        if batch is not None:
            self._with_batch("reveal", poll, seat, batch)

    def do_settle(self, poll: int, seat: int) -> None:
        """Collect the fee, or lose the risk, once the items are final."""
        batch = self._batch(poll, seat)
        if batch is not None:
            self._with_batch("settle", poll, seat, batch)

    def _with_batch(self, function: str, poll: int, seat: int, batch: dict[str, Any]) -> None:
        salt = bytes.fromhex(batch["salt"])
        self.call(f"{function}:{poll}:{seat}", "Panel", function, poll, seat, batch["votes"], salt)
