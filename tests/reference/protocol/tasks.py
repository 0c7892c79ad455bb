"""Tasks, rounds, leases and merges of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields

from commonweight.core import economics, merkle, seeds
from commonweight.core.hashing import abi_sha256, word
from commonweight.core.state import Round, Task, Work, WorkState
from commonweight.core.works import WITHHELD, Header

from . import panel
from .merges import Claim
from .world import BURN, MERGE, Contract, Revert, gone, late, mask, pot_id, submitted, taken, undecided

LAST_TREE = 3
MAX_MERGE = 64
MAX_URI = 200
SKIP_AFTER = 4
FOREVER = 2**40 - 1
ZERO = bytes(32)
Opening = tuple[bytes, list[bytes]]
Place = tuple[int, int, int]


def camel(name: str) -> str:
    """A field's name in Solidity."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


class Tasks(Contract):
    """Twin of `Tasks` and the libraries that run on its storage."""

    # -- publisher ------------------------------------------------------------------------------------------

    def publish(
        self,
        sender: bytes,
        p: Mapping[str, int],
        spec: bytes,
        model: bytes,
        uri: str,
    ) -> None:
        id_ = len(self.state.tasks) + 1
        terms = economics.Terms(*(p[camel(f.name)] for f in fields(economics.Terms)))
        merge = economics.Rule(*(p[camel(f.name)] for f in fields(economics.Rule)))
        for c in economics.complaints(terms, merge, self.world.host):
            raise Revert("OutOfRange", c.what.encode().ljust(32, b"\0"), *astuple(c)[1:])
        if model == ZERO:
            raise Revert("ZeroRoot")
        told = {"specHash": spec, "model": model, "params": p, "uri": uri}
        self.world.emit("Tasks", "Published", task=id_, publisher=sender, **told)
        self.world.vault.locked("Tasks", sender, word(id_), economics.budget(terms))

    def close(self, sender: bytes, task: int) -> None:
        t = self.task_of(task)
        if sender != t.publisher:
            raise Revert("NotPublisher", sender, t.publisher)
        if t.closed:
            raise Revert("TaskClosed", task)
        self.world.emit("Tasks", "Closed", task=task)

    def reclaim(self, sender: bytes, task: int) -> None:
        t = self.task_of(task)
        pending = sum(not w.state.final for r in t.rounds.values() for w in r.works.values())
        settled, begun = self._settled(t), len(t.rounds)
        if not t.closed or pending or settled != begun:
            raise Revert("StillRunning", task, pending, settled, begun)
        rest = self.books.pots["Tasks", word(task)]
        if not rest:
            raise Revert("NothingLeft", task)
        self.world.emit("Tasks", "Reclaimed", task=task, amount=rest)
        self.world.vault.paid("Tasks", word(task), t.publisher, rest)

    # -- trainer --------------------------------------------------------------------------------------------

    def claim(self, sender: bytes, task: int, round_: int, seal: bytes) -> None:
        t = self.task_of(task)
        if round_ >= len(t.rounds):
            self._begin(t, round_)
        r = t.rounds[round_]
        if r.train_end or self.now >= r.claim_end:
            raise Revert("ClaimOver", task, round_)
        slot = taken(r)
        self.world.emit("Tasks", "Claimed", task=task, round=round_, slot=slot, trainer=sender, seal=seal)
        if taken(r) - gone(r) == t.params["slots"]:
            self._close_claims(t, r)
        self.world.vault.locked("Tasks", sender, pot_id(task, round_, slot), t.params["bond"])

    def relinquish(self, sender: bytes, *place: int) -> None:
        t, r, w = self._leased(sender, place)
        self.before(0 if r.train_end else r.claim_end - t.params["claimT"] // 2)
        if gone(r) + t.params["slots"] >= 256:
            raise Revert("NoRoom", *place[:2])
        self._tell("Relinquished", place)
        self.world.vault.paid("Tasks", pot_id(*place), w.trainer, t.params["bond"])

    def submit(self, sender: bytes, task: int, round_: int, slot: int, root: bytes) -> None:
        t, r, _ = self._leased(sender, (task, round_, slot))
        if not r.train_end:
            raise Revert("TooEarly", r.claim_end)
        self.before(r.train_end)
        self._seeded(t, r, root)
        self._tell("Submitted", (task, round_, slot), trainer=sender, root=root)
        if submitted(r) + gone(r) == taken(r):
            self._open_poll(t, r)

    def defer(self, sender: bytes, *place: int) -> None:
        t, r, _ = self._leased(sender, place)
        if not r.train_end:
            raise Revert("TooEarly", r.claim_end)
        self.before(r.train_end)
        self._tell("Deferred", place, until=r.train_end + t.params["claimT"] + t.params["trainT"])

    def submitLate(self, sender: bytes, task: int, round_: int, slot: int, root: bytes) -> None:
        t, r, w = self._leased(sender, (task, round_, slot))
        if not r.train_end or self.now < r.train_end:
            raise Revert("TooEarly", r.train_end or 0)
        self._seeded(t, r, root)
        after = t.rounds.get(round_ + 1)
        if after is None or after.poll or self.now >= (after.train_end or 0):
            raise Revert("RoundNotReady", task, round_ + 1)
        if taken(after) + late(after) >= 256:
            raise Revert("NoRoom", task, round_ + 1)
        place = 255 - late(after)
        new = (task, round_ + 1, place)
        self._tell("Late", (task, round_, slot), place=place)
        self._tell("Claimed", new, trainer=sender, seal=w.seal)
        self._tell("Submitted", new, trainer=sender, root=root)
        self.world.vault.shifted("Tasks", pot_id(task, round_, slot), pot_id(*new), t.params["bond"])

    def openSeal(
        self, sender: bytes, task: int, round_: int, slot: int, secret: bytes, header: Header
    ) -> None:
        place = (task, round_, slot)
        t, r, w = self._opened(place, secret, header)
        if self._is_decoy(t, r, w, secret):
            raise Revert("DecoyDue", *place)
        if w.state is WorkState.DISPUTED:
            return self._tell("Opened", place, included=False, paid=0)
        yes, no = self.books.yes[place], self.books.no[place]
        fits = header.update_length == t.rule["length"] and len(r.included) < MAX_MERGE
        included = not no and yes >= t.params["quorum"] and fits
        reward = self._reward(t, w)
        self._tell("Opened", place, included=included, paid=reward)
        if included:
            self.books.updates[place] = header.update_root
        self._decide(t, r, no)
        return self._accept(t, place, w, reward, yes)

    def openDecoy(
        self,
        sender: bytes,
        task: int,
        round_: int,
        slot: int,
        secret: bytes,
        header: Header,
        proof: tuple[Opening, int, Opening],
    ) -> None:
        place = (task, round_, slot)
        t, r, w = self._opened(place, secret, header)
        poll = self.state.polls[r.poll or 0]
        count = header.trajectory_count
        index = seeds.mandatory(poll.seed, slot, count) if count else 0
        if not self._is_decoy(t, r, w, secret) or not _noise_shown(secret, index, header, proof):
            raise Revert("WrongDecoy", index)
        no = self.books.no[place]
        reward = self._reward(t, w)
        self._tell("Opened", place, included=False, paid=reward)
        self._tell("Decoyed", place, index=index)
        self._decide(t, r, no)
        self._accept(t, place, w, reward, no)

    def expire(self, sender: bytes, *place: int) -> None:
        t, r, w = self._work(place)
        if w.state is WorkState.SUBMITTED:
            due = self._reveal_end(r) + t.params["openT"]
        elif w.state is WorkState.CLAIMED:
            due = (w.patience or r.train_end) if r.train_end else FOREVER
        else:
            raise Revert("WrongState", int(w.state))
        self.not_before(due)
        lost = t.params["bond"] // economics.LATE_SHARE
        self._tell("Expired", place, lost=lost)
        self.world.vault.paid("Tasks", pot_id(*place), BURN, lost)
        self.world.vault.paid("Tasks", pot_id(*place), w.trainer, t.params["bond"] - lost)

    # -- anyone ---------------------------------------------------------------------------------------------

    def touch(self, sender: bytes, task: int, round_: int) -> None:
        r = self.round_of(task, round_)
        t = self.state.tasks[task]
        if r.poll or r.empty:
            raise Revert("NothingDue", task, round_)
        if not r.train_end:
            self.not_before(r.claim_end)
            return self._close_claims(t, r)
        if self.now >= r.train_end:
            if submitted(r) or late(r):
                return self._open_poll(t, r)
            self.books.decided[task, round_] = self.now
            return self.world.emit("Tasks", "Checking", task=task, round=round_, poll=0)
        if r.seed:
            raise Revert("NothingDue", task, round_)
        if not self._draw(t, r):
            told = {"beacon": self.world.block + 1, "trainEnd": r.train_end}
            self.world.emit("Tasks", "Drawn", task=task, round=round_, **told)
        return None

    def announce(self, sender: bytes, uri: str) -> None:
        if len(uri.encode()) > MAX_URI:
            raise Revert("UriTooLong", len(uri.encode()), MAX_URI)
        self.world.emit("Tasks", "Endpoint", who=sender, uri=uri)

    # -- merge ----------------------------------------------------------------------------------------------

    def propose(self, sender: bytes, task: int, round_: int, root: bytes) -> None:
        t, r = self._next(task, round_)
        self._mask_final(t, r)
        if not mask(r):
            raise Revert("EmptyMask", task, round_)
        if r.proposal:
            raise Revert("ProposalLive", r.proposal.root)
        if root == ZERO:
            raise Revert("ZeroRoot")
        self.world.emit("Tasks", "Proposed", task=task, round=round_, root=root, by=sender)
        self.world.vault.locked("Tasks", sender, pot_id(task, round_, MERGE), t.params["aggBond"])

    def contestMerge(self, sender: bytes, task: int, round_: int, leaf: int, lane: int) -> None:
        t, r = self._live(task, round_)
        if contest_of(r):
            raise Revert("UnderContest", contest_of(r))
        self.before(r.moved_at + t.params["aggT"])
        if leaf >= 2 * t.rule["length"] // merkle.LEAF:
            raise Revert("NoSuchLeaf", leaf)
        told = {"by": sender, "leaf": leaf, "lane": lane, "until": self.now + t.params["aggT"]}
        self.world.emit("Tasks", "Contested", task=task, round=round_, **told)
        self.world.vault.locked("Tasks", sender, pot_id(task, round_, MERGE), t.params["aggBond"])

    def proveMerge(self, sender: bytes, task: int, round_: int, leaf: int, lane: int, proof: bytes) -> None:
        t, r = self._live(task, round_)
        roots = [self.books.updates[task, round_, w.slot] for w in r.included]
        proposal, base = r.proposal, t.model_before(round_) or ZERO
        assert proposal
        claim = Claim(
            t.rule, base, proposal.root, roots, [w.origin is not None for w in r.included], leaf, lane
        )
        if not claim.right(proof):
            told = {"leaf": leaf, "lane": lane, "by": sender}
            self.world.emit("Tasks", "Refuted", task=task, round=round_, **told)
            return self._drop(t, r, proposal.contest.by if proposal.contest else sender)
        if contest_of(r) != (leaf << 8 | lane) + 1:
            raise Revert("NotWrong", leaf, lane)
        bond, pot = t.params["aggBond"], pot_id(task, round_, MERGE)
        self.world.emit("Tasks", "Cleared", task=task, round=round_, by=sender)
        return self.world.vault.halved("Tasks", pot, proposal.by, bond)

    def advance(self, sender: bytes, task: int, round_: int) -> None:
        t, r = self._next(task, round_)
        due = r.moved_at + t.params["aggT"]
        if r.proposal is None:
            due = self._mask_final(t, r)
            if mask(r):
                before = t.rounds[round_ - 1].moved_at if round_ else 0
                due = max(due, r.moved_at, before) + SKIP_AFTER * t.params["aggT"]
        self.not_before(due)
        proposal = r.proposal
        if proposal and proposal.contest:
            return self._drop(t, r, proposal.contest.by)
        model = proposal.root if proposal else t.model_before(round_)
        told = {"model": model, "mask": mask(r), "skipped": proposal is None}
        self.world.emit("Tasks", "Advanced", task=task, round=round_, **told)
        if self._settled(t) == t.params["rounds"] and not t.closed:
            self.world.emit("Tasks", "Closed", task=task)
        if proposal is None:
            return None
        self.world.vault.paid("Tasks", pot_id(task, round_, MERGE), proposal.by, t.params["aggBond"])
        if t.params["aggReward"]:
            self.world.vault.paid("Tasks", word(task), proposal.by, t.params["aggReward"])
        return None

    # -- siblings -------------------------------------------------------------------------------------------

    def resolve(self, sender: bytes, task: int, round_: int, slot: int, outcome: int) -> None:
        raise Revert("NotCourt", sender)

    def onVote(self, sender: bytes, poll: int, vote: int) -> None:
        raise Revert("NotPanel", sender)

    def settleVote(self, sender: bytes, poll: int, vote: int, owner: bytes) -> None:
        raise Revert("NotPanel", sender)

    def on_vote(self, poll: int, vote: int) -> bool:
        """``onVote`` by the Panel."""
        place, w = self._item(poll, vote)
        if w is None or w.root is None:
            return False
        if not panel.verdict(vote):
            self.books.yes[place] += 1
            return True
        if panel.tree(vote) > LAST_TREE:
            return False
        v = panel.verdict(vote)
        tree, leaf = (0, v) if v == WITHHELD else (panel.tree(vote), v - 1)
        self.books.no[place] += 1
        self.world.court.filed(*place, tree, leaf)
        t = self.state.tasks[place[0]]
        self._decide(t, t.rounds[place[1]], self.books.no[place] - 1)
        return True

    def settle_vote(self, poll: int, vote: int, owner: bytes) -> tuple[int, bytes | None]:
        """``settleVote`` by the Panel: what was paid, and who gets half of a wrong vote's risk."""
        place, w = self._item(poll, vote)
        if w is None or w.root is None:
            return 0, None
        if not w.state.final:
            raise Revert("NotFinal", poll, panel.item(vote))
        p = self.state.tasks[place[0]].params
        fee, paid = p["reward"] * p["feeBps"] // 10_000, 0
        if not panel.verdict(vote):
            if w.state is WorkState.DECOY:
                return 0, BURN
            if w.state is WorkState.VALID:
                paid = fee // self.books.yes[place]
        elif panel.tree(vote) <= LAST_TREE:
            if w.state in (WorkState.VALID, WorkState.EXPIRED):
                return 0, w.trainer
            paid = fee // self.books.no[place]
            if w.state is WorkState.HARD:
                paid += p["bond"] // 2 // self.books.no[place]
        if paid:
            self.world.vault.paid("Tasks", pot_id(*place), owner, paid)
        return paid, None

    def resolved(self, task: int, round_: int, slot: int, outcome: WorkState) -> None:
        """``resolve`` by the Court, whose dispute is final by now."""
        place = (task, round_, slot)
        t, r, w = self._work(place)
        until = self._reveal_end(r)
        if t.params["decoyOneIn"] and not w.opened:
            self.not_before(until + t.params["openT"])
        open_ = sum(self.state.disputes[d].outcome is None for d in w.disputes)
        if w.state is not WorkState.DISPUTED:
            return
        if outcome is WorkState.SOFT:
            self.books.soft.add(place)
        if outcome is not WorkState.HARD and open_:
            return
        acquitted = WorkState.VALID if w.opened else WorkState.SUBMITTED
        state = WorkState.SOFT if place in self.books.soft else acquitted
        state = outcome if outcome is WorkState.HARD else state
        paid = self._reward(t, w) if state is WorkState.VALID else 0
        lost = t.params["bond"] if state is WorkState.HARD else 0
        self._tell("Resolved", place, state=int(state), paid=paid, lost=lost)
        if state is WorkState.SUBMITTED:
            return
        if state is WorkState.VALID:
            return self._accept(t, place, w, paid, self.books.yes[place])
        bond, no = t.params["bond"], self.books.no[place]
        if state is WorkState.SOFT:
            self.world.vault.paid("Tasks", pot_id(*place), w.trainer, bond)
        else:
            self.world.vault.paid("Tasks", pot_id(*place), BURN, bond - bond // 2 // no * no)
        self._fund(t, place, 0, no)

    # -- internals ------------------------------------------------------------------------------------------

    def _tell(self, name: str, place: tuple[int, ...], /, **args: object) -> None:
        task, round_, slot = place
        self.world.emit("Tasks", name, task=task, round=round_, slot=slot, **args)

    def _settled(self, t: Task) -> int:
        return sum(r.settled for r in t.rounds.values())

    def _work(self, place: tuple[int, ...]) -> tuple[Task, Round, Work]:
        task, round_, slot = place
        w = self.find(task, round_, slot)
        if w is None:
            raise Revert("WrongState", 0)
        t = self.state.tasks[task]
        return t, t.rounds[round_], w

    def _leased(self, sender: bytes, place: tuple[int, ...]) -> tuple[Task, Round, Work]:
        t, r, w = self._work(place)
        if sender != w.trainer:
            raise Revert("NotTrainer", sender, w.trainer)
        if w.state is not WorkState.CLAIMED:
            raise Revert("WrongState", int(w.state))
        return t, r, w

    def _begin(self, t: Task, round_: int) -> None:
        if t.closed:
            raise Revert("TaskClosed", t.id)
        ready = round_ == len(t.rounds) < t.params["rounds"]
        ready = ready and round_ < self._settled(t) + t.params["lag"]
        if ready and round_:
            before = t.rounds[round_ - 1]
            ready = bool(before.poll or before.empty)
        if not ready:
            raise Revert("RoundNotReady", t.id, round_)
        told = {"base": t.base_of(round_), "claimEnd": self.now + t.params["claimT"]}
        self.world.emit("Tasks", "RoundBegun", task=t.id, round=round_, **told)

    def _close_claims(self, t: Task, r: Round) -> None:
        told = {"beacon": self.world.block + 1, "trainEnd": self.now + t.params["trainT"]}
        self.world.emit("Tasks", "Drawn", task=t.id, round=r.index, **told)

    def _open_poll(self, t: Task, r: Round) -> None:
        p = t.params
        fee = p["reward"] * p["feeBps"] // 10_000
        risk = max(self.world.host.risk_min, 2 * fee * (p["decoyOneIn"] or 1) // p["want"])
        poll = self.world.panel.opened("Tasks", p["sealT"], p["revealT"], p["want"], risk)
        self.world.emit("Tasks", "Checking", task=t.id, round=r.index, poll=poll)

    def _draw(self, t: Task, r: Round) -> bool:
        if r.seed is None:
            found = self.world.beacon(r.beacon or 0)
            if found is None:
                return False
            seed = abi_sha256(found, t.id, r.index)
            self.world.emit("Tasks", "Seeded", task=t.id, round=r.index, seed=seed)
        return True

    def _seeded(self, t: Task, r: Round, root: bytes) -> None:
        if root == ZERO:
            raise Revert("ZeroRoot")
        if not self._draw(t, r):
            raise Revert("BeaconMissed", r.beacon)

    def _reveal_end(self, r: Round) -> int:
        if not r.poll:
            raise Revert("TooEarly", r.train_end or 0)
        over = self.state.polls[r.poll].reveal_end
        self.not_before(over)
        return over

    def _opened(self, place: Place, secret: bytes, header: Header) -> tuple[Task, Round, Work]:
        t, r, w = self._work(place)
        if w.opened or w.state not in (WorkState.SUBMITTED, WorkState.DISPUTED):
            raise Revert("WrongState", int(w.state))
        self.before(self._reveal_end(r) + t.params["openT"])
        seal = seeds.seal_of(secret, w.trainer)
        if seal != w.seal:
            raise Revert("WrongSecret", w.seal, seal)
        if header.root != w.root:
            raise Revert("WrongHeader", w.root, header.root)
        return t, r, w

    def _is_decoy(self, t: Task, r: Round, w: Work, secret: bytes) -> bool:
        leased = t.rounds[w.origin[0]] if w.origin else r
        return seeds.is_decoy(secret, leased.seed or ZERO, t.params["decoyOneIn"])

    def _reward(self, t: Task, w: Work) -> int:
        return t.reward // 2 if w.origin else t.reward

    def _decide(self, t: Task, r: Round, rejects: int) -> None:
        """Called after an event that decided a work which had so many rejects before."""
        if not rejects and not undecided(r):
            self.books.decided[t.id, r.index] = self.now

    def _accept(self, t: Task, place: Place, w: Work, amount: int, voters: int) -> None:
        self._fund(t, place, amount, voters)
        self.world.vault.paid("Tasks", pot_id(*place), w.trainer, t.params["bond"] + amount)

    def _fund(self, t: Task, place: Place, amount: int, voters: int) -> None:
        share = t.reward * t.params["feeBps"] // 10_000 // voters if voters else 0
        self.world.vault.shifted("Tasks", word(t.id), pot_id(*place), amount + share * voters)

    def _item(self, poll: int, vote: int) -> tuple[Place, Work | None]:
        found = self.state.poll_work(poll)
        if found is None:
            return (0, 0, 0), None
        t, r = found
        item = panel.item(vote)
        return (t.id, r.index, item), r.works.get(item)

    def mask_final_at(self, t: Task, r: Round) -> int:
        """Twin of ``Tasks.maskFinalAt``."""
        decided = self.books.decided.get((t.id, r.index), 0)
        if not r.poll:
            return decided
        over = self.state.polls[r.poll].reveal_end
        return over + t.params["openT"] if undecided(r) else max(decided, over)

    def _mask_final(self, t: Task, r: Round) -> int:
        since = self.mask_final_at(t, r)
        if not since or self.now < since:
            raise Revert("TooEarly", since)
        return since

    def _next(self, task: int, round_: int) -> tuple[Task, Round]:
        r = self.round_of(task, round_)
        t = self.state.tasks[task]
        if round_ != self._settled(t):
            raise Revert("NotNext", round_, self._settled(t))
        return t, r

    def _live(self, task: int, round_: int) -> tuple[Task, Round]:
        t, r = self._next(task, round_)
        if r.proposal is None:
            raise Revert("NoProposal", task, round_)
        return t, r

    def _drop(self, t: Task, r: Round, finder: bytes) -> None:
        bond, pot = t.params["aggBond"], pot_id(t.id, r.index, MERGE)
        contested = contest_of(r) != 0
        self.world.emit("Tasks", "ProposalDropped", task=t.id, round=r.index)
        if contested:
            self.world.vault.paid("Tasks", pot, finder, bond)
        self.world.vault.halved("Tasks", pot, finder, bond)


def contest_of(r: Round) -> int:
    """Which lane of the live proposal has to be shown, as the contracts store it."""
    contest = r.proposal.contest if r.proposal else None
    return (contest.leaf << 8 | contest.lane) + 1 if contest else 0


def _noise_shown(secret: bytes, index: int, header: Header, proof: tuple[Opening, int, Opening]) -> bool:
    """Twin of ``Exact.decoy``."""
    trajectory, length, first = proof
    listed = merkle.Opening(header.trajectory_count * merkle.LEAF, index, trajectory[0], tuple(trajectory[1]))
    if not merkle.verify_leaf(header.trajectory_root, listed):
        return False
    shown = merkle.Opening(length, 0, first[0], tuple(first[1]))
    if not merkle.verify_leaf(trajectory[0][40:72], shown):
        return False
    noise = b"".join(x.to_bytes(2, "big") for x in seeds.decoy_noise(secret, index))
    return first[0][2:34] == noise
