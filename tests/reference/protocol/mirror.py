"""The model beside a chain: one call to both, and everything that can be seen of both compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from commonweight.core.hashing import word
from commonweight.core.state import Phase, Round, Task, Work, WorkState
from commonweight.core.works import Header
from commonweight.nodes.exhibits import fields
from tests.reference.anvil import Chain, Reverted

from .tasks import contest_of
from .world import NOBODY, Revert, World, gone, late, mask, submitted, taken, undecided

View = tuple[str, str, tuple[Any, ...], Any]
"""Contract, view, arguments, what the model says."""
ZERO = bytes(32)


class Differs(AssertionError):
    """Model and contracts disagree."""


class Mirror:
    """Sends each call to a chain and to its model. ``now``: time of the newest block."""

    def __init__(self, chain: Chain, world: World) -> None:
        self.chain, self.world = chain, world
        self.now = chain.now()
        self.block = int(chain.rpc("eth_blockNumber"), 16)
        self.refused = 0

    def mine(self, blocks: int, seconds: int = 0) -> None:
        """Let time pass, then mine."""
        self.chain.mine(blocks, seconds)
        newest = self.chain.rpc("eth_getBlockByNumber", "latest", False)
        self.now, self.block = int(newest["timestamp"], 16), int(newest["number"], 16)

    def call(self, seconds: int, contract: str, verb: str, sender: bytes, *args: Any) -> str:
        """One transaction ``seconds`` after the last block: the error's name, or nothing when both accepted it.

        Raises `Differs` when errors, events or any view that the call may have touched differ.
        """
        self.now, self.block = self.now + max(1, seconds), self.block + 1
        try:
            told = self._model(contract, verb, sender, args)
            want: tuple[Any, ...] = ("", ())
        except Revert as refused:
            told, want = [], (refused.name, refused.values)
        lowered = [fields(a) if isinstance(a, Header) else a for a in args]
        try:
            receipt = self.chain.send_at(self.now, sender, contract, verb, *lowered)
            got: tuple[Any, ...] = ("", ())
            seen = self.chain.events(receipt)
        except Reverted as reverted:
            seen, got = [], (reverted.name, reverted.values)
        if want != got:
            raise Differs(f"{contract}.{verb}: the model says {want}, the contracts {got}")
        _same(f"events of {contract}.{verb}", told, seen)
        if want[0]:
            self.refused += 1
        else:
            self.compare(self._touched(told))
        return str(want[0])

    def would(self, seconds: int, contract: str, verb: str, sender: bytes, *args: Any) -> bool:
        """True when the model accepts the call; nothing happens."""
        books, now, block = self.world.books, self.now, self.block
        self.world.books = copy.deepcopy(books)
        self.now, self.block = now + max(1, seconds), block + 1
        try:
            self._model(contract, verb, sender, args)
        except Revert:
            return False
        finally:
            self.world.books, self.now, self.block = books, now, block
        return True

    def _model(self, contract: str, verb: str, sender: bytes, args: tuple[Any, ...]) -> list[Any]:
        for number in _beacons(self.world):
            if number < self.block and number not in self.world.hashes:
                self.world.hashes[number] = self.chain.hash_of(number)
        return self.world.attempt(self.now, self.block, contract, verb, sender, *args)

    def compare(self, views: Iterator[View] | list[View]) -> None:
        """Every view is what the model says."""
        listed = list(views)
        answers = self.chain.views([(contract, name, args) for contract, name, args, _ in listed])
        for (contract, name, args, want), got in zip(listed, answers, strict=True):
            _same(f"{contract}.{name}{args}", want, got)

    def everything(self) -> list[View]:
        """Every view of everything there is."""
        s = self.world.state
        views = [*self._money(), *self._counts()]
        for task in s.tasks.values():
            views += [*self._task(task)]
            for r in task.rounds.values():
                views += [*self._round(task, r)]
                views += [v for w in r.works.values() for v in self._work(task, r, w)]
        views += [v for seat in s.seats for v in self._seat(seat)]
        views += [v for poll in s.polls for v in self._poll(poll)]
        return views + [v for d in s.disputes for v in self._dispute(d)]

    def _touched(self, told: list[Any]) -> Iterator[View]:
        s = self.world.state
        yield from self._money()
        yield from self._counts()
        seen: set[Any] = set()
        for _, _, args in told:
            for kind, name in (("task", "task"), ("poll", "poll"), ("seat", "seat"), ("dispute", "dispute")):
                if name in args and args[name] and (kind, args[name]) not in seen:
                    seen.add((kind, args[name]))
                    found = s.tasks[args[name]] if kind == "task" else args[name]
                    yield from getattr(self, f"_{kind}")(found)
            if "round" in args and ("round", args["task"], args["round"]) not in seen:
                seen.add(("round", args["task"], args["round"]))
                task = s.tasks[args["task"]]
                yield from self._round(task, task.rounds[args["round"]])
                for w in task.rounds[args["round"]].works.values():
                    yield from self._work(task, task.rounds[args["round"]], w)

    def _counts(self) -> Iterator[View]:
        s = self.world.state
        yield "Tasks", "tasks", (), len(s.tasks)
        yield "Panel", "seats", (), len(s.seats)
        yield "Panel", "active", (), sum(x.exit_at is None for x in s.seats.values())
        yield "Panel", "polls", (), len(s.polls)
        yield "Court", "disputes", (), len(s.disputes)

    def _money(self) -> Iterator[View]:
        books, s = self.world.books, self.world.state
        yield "Vault", "owed", (), sum(s.free.values()) + sum(books.pots.values())
        for who, amount in s.free.items():
            yield "Vault", "free", (who,), amount
        for who, amount in books.tokens.items():
            yield "Token", "balanceOf", (who,), amount
        for (module, id_), amount in books.pots.items():
            yield "Vault", "pot", (self.world.addresses[module], id_), amount

    def _task(self, t: Task) -> Iterator[View]:
        rounds = t.rounds.values()
        want = {
            "publisher": t.publisher,
            "begun": len(t.rounds),
            "settled": sum(r.settled for r in rounds),
            "pending": sum(not w.state.final for r in rounds for w in r.works.values()),
            "closed": t.closed,
            "model": t.initial,
            "params": t.params,
        }
        yield "Tasks", "task", (t.id,), want
        yield "Tasks", "model", (t.id,), t.latest

    def _round(self, t: Task, r: Round) -> Iterator[View]:
        proposal, contest = r.proposal, r.proposal.contest if r.proposal else None
        root = r.model or (proposal.root if proposal else ZERO)
        want = {
            "claimEnd": r.claim_end,
            "trainEnd": r.train_end or 0,
            "claimed": taken(r),
            "submitted": submitted(r),
            "undecided": undecided(r),
            "beacon": r.beacon or 0,
            "poll": r.poll or 0,
            "decidedAt": self.world.books.decided.get((t.id, r.index), 0),
            "movedAt": r.moved_at,
            "contest": contest_of(r) if not r.settled else 0,
            "gone": gone(r),
            "late": late(r),
            "merged": len(r.included),
            "challenger": contest.by if contest else NOBODY,
            "seed": r.seed or ZERO,
            "unmerged": 2**256 - 1 - mask(r) if r.poll else 0,
            "root": root,
            "proposer": proposal.by if proposal else NOBODY,
        }
        yield "Tasks", "round", (t.id, r.index), want
        yield "Tasks", "maskFinalAt", (t.id, r.index), self.world.tasks.mask_final_at(t, r)

    def _work(self, t: Task, r: Round, w: Work) -> Iterator[View]:
        books, s, place = self.world.books, self.world.state, (t.id, r.index, w.slot)
        want = {
            "trainer": w.trainer,
            "state": int(w.state),
            "opened": w.opened,
            "soft": place in books.soft,
            "disputes": sum(s.disputes[d].outcome is None for d in w.disputes),
            "yes": books.yes.get(place, 0),
            "no": books.no.get(place, 0),
            "seal": w.seal,
            "root": books.updates.get(place, w.root or ZERO),
        }
        yield "Tasks", "work", place, want

    def _seat(self, id_: int) -> Iterator[View]:
        seat = self.world.state.seats[id_]
        polls = self.world.state.polls.values()
        if seat.left:
            want = {"owner": NOBODY, "reserved": 0, "firstPoll": 0, "endPoll": 0, "exitAt": 0}
            yield "Panel", "seat", (id_,), want
            return
        yield (
            "Panel",
            "seat",
            (id_,),
            None
            if seat.exit_at
            else {
                "owner": seat.owner,
                "reserved": self.world.books.reserved.get(id_, 0),
                "firstPoll": min((p.id for p in polls if id_ in p.members), default=len(polls) + 1),
                "endPoll": 0,
                "exitAt": 0,
            },
        )

    def _poll(self, id_: int) -> Iterator[View]:
        p, books = self.world.state.polls[id_], self.world.books
        want = {
            "jury": p.asker == self.world.addresses["Court"],
            "seeded": p.seed is not None,
            "sealEnd": p.seal_end,
            "revealEnd": p.reveal_end,
            "want": p.want,
            "seed": p.seed or word(p.beacon),
            "seats": p.seats,
            "unrevealed": books.unrevealed.get(id_, 0),
            "risk": p.risk,
        }
        yield "Panel", "poll", (id_,), want
        for seat in p.members:
            yield "Panel", "sealedOf", (id_, seat), books.batches.get((id_, seat), 0)
            if p.seed:
                drawn = not self.world.state.seats[seat].left and seat in p.drawn(0)
                yield "Panel", "drawn", (id_, 0, seat), drawn

    def _dispute(self, id_: int) -> Iterator[View]:
        d = self.world.state.disputes[id_]
        hard, soft, innocent = self.world.books.jury.get(id_, [0, 0, 0])
        ruled = d.outcome if d.phase is Phase.FINAL else d.ruling
        want = {
            "task": d.task,
            "round": d.round,
            "slot": d.slot,
            "tree": d.tree,
            "leaf": d.leaf,
            "poll": d.poll,
            "outcome": int(ruled or WorkState.NONE),
            "phase": int(d.phase),
            "level": d.level,
            "hard": hard,
            "soft": soft,
            "innocent": innocent,
            "ruledAt": (d.ruled_at or 0) if d.phase is Phase.RULED else None,
            "share": self.world.books.share.get(id_, 0),
        }
        yield "Court", "dispute", (id_,), want
        for a in d.appeals:
            yield "Court", "appealOf", (id_, a.level), {"by": a.by, "against": int(a.against)}


def _beacons(world: World) -> Iterator[int]:
    """Blocks whose hash a call may ask for."""
    for poll in world.state.polls.values():
        if poll.seed is None:
            yield poll.beacon
    for task in world.state.tasks.values():
        for r in task.rounds.values():
            if r.seed is None and r.beacon:
                yield r.beacon


def _same(what: str, want: Any, got: Any) -> None:
    """``None`` in what the model says: it says nothing."""
    if want is None:
        return
    if isinstance(want, dict) and isinstance(got, dict):
        if want.keys() != got.keys():
            raise Differs(f"{what}: the model has {sorted(want)}, the contracts {sorted(got)}")
        for key, value in want.items():
            _same(f"{what} {key}", value, got[key])
    elif isinstance(want, list | tuple) and isinstance(got, list | tuple):
        if len(want) != len(got):
            raise Differs(f"{what}: the model has\n  {want}\nthe contracts\n  {got}")
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            _same(f"{what} [{i}]", a, b)
    elif want != got:
        raise Differs(f"{what}: the model says {want!r}, the contracts {got!r}")
