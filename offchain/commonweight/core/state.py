"""The fold: what the chain says, as plain data. Same events in, same state out; a node's files can always be rebuilt.

`State` mirrors the contracts' state machines (docs/protocol) and nothing local. Times are chain seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .events import Event
from .seeds import is_drawn


class WorkState(IntEnum):
    """Twin of ``Types.State``."""

    NONE = 0
    CLAIMED = 1
    SUBMITTED = 2
    DISPUTED = 3
    VALID = 4
    SOFT = 5
    HARD = 6
    EXPIRED = 7

    @property
    def final(self) -> bool:
        """No transition leaves it."""
        return self >= WorkState.VALID


@dataclass(slots=True)
class Work:
    """One lease and what became of it; amounts in token wei."""

    slot: int
    trainer: bytes
    seal: bytes
    changed_at: int
    state: WorkState = WorkState.CLAIMED
    root: bytes | None = None
    opened: bool = False
    included: bool = False
    paid: int = 0
    lost: int = 0
    disputes: list[int] = field(default_factory=list)

    @property
    def resolved(self) -> bool:
        """Its place in the round's mask is decided."""
        return self.state.final or self.state is WorkState.DISPUTED


@dataclass(slots=True)
class Proposal:
    """A proposed model version of a round."""

    root: bytes
    by: bytes
    at: int
    contested: bool = False


@dataclass(slots=True)
class Round:
    """One round of a task."""

    index: int
    base: bytes
    claim_end: int
    begun_at: int
    works: dict[int, Work] = field(default_factory=dict)
    beacon: int | None = None
    train_end: int | None = None
    seed: bytes | None = None
    poll: int | None = None
    empty: bool = False
    proposal: Proposal | None = None
    dropped: set[bytes] = field(default_factory=set)
    model: bytes | None = None
    mask: int = 0
    skipped: bool = False

    @property
    def settled(self) -> bool:
        """Advanced or skipped: the model after this round is fixed."""
        return self.model is not None

    @property
    def included(self) -> list[Work]:
        """Works of the mask in slot order."""
        return [w for slot, w in sorted(self.works.items()) if w.included]


@dataclass(slots=True)
class Task:
    """One published task."""

    id: int
    publisher: bytes
    spec: bytes
    initial: bytes
    params: Mapping[str, int]
    uri: str
    rounds: dict[int, Round] = field(default_factory=dict)
    closed: bool = False
    reclaimed: int | None = None

    @property
    def reward(self) -> int:
        """Token wei per accepted lease."""
        return self.params["reward"]

    def base_of(self, index: int) -> bytes | None:
        """Model version that round ``index`` trains from, or None while it is not known yet."""
        source = index - self.params["lag"]
        if source < 0:
            return self.initial
        return self.rounds[source].model if source in self.rounds else None

    def model_before(self, index: int) -> bytes | None:
        """Model version that round ``index`` is merged into."""
        if index == 0:
            return self.initial
        return self.rounds[index - 1].model if index - 1 in self.rounds else None

    @property
    def latest(self) -> bytes:
        """Root of the newest settled model version."""
        models = [self.rounds[i].model for i in sorted(self.rounds)]
        return next((m for m in reversed(models) if m is not None), self.initial)

    @property
    def finished(self) -> bool:
        """No round is left to begin, every begun one is settled and every work has its final state."""
        over = self.closed or len(self.rounds) == self.params["rounds"]
        return over and all(
            r.settled and all(w.state.final for w in r.works.values()) for r in self.rounds.values()
        )


@dataclass(slots=True)
class Seat:
    """A validator's staked place."""

    id: int
    owner: bytes
    since: int
    exit_at: int | None = None
    left: bool = False


@dataclass(slots=True)
class Poll:
    """One sealed poll of the panel."""

    id: int
    asker: bytes
    opened_at: int
    seal_end: int
    reveal_end: int
    want: int
    risk: int
    seats: int
    beacon: int
    members: tuple[int, ...]
    seed: bytes | None = None
    sealed: dict[int, int] = field(default_factory=dict)
    revealed: dict[int, list[tuple[int, bool]]] = field(default_factory=dict)
    settled: dict[int, tuple[int, int]] = field(default_factory=dict)

    def drawn(self, item: int) -> tuple[int, ...]:
        """Seats drawn for ``item``, ascending; empty while the seed is unknown."""
        if self.seed is None:
            return ()
        return tuple(s for s in self.members if is_drawn(self.seed, item, s, self.seats, self.want))


@dataclass(slots=True)
class Dispute:
    """Is this leaf valid? Or, with ``merge``, is the round's proposal right?"""

    id: int
    task: int
    round: int
    slot: int
    tree: int
    leaf: int
    poll: int
    merge: bool = False
    outcome: WorkState | None = None


@dataclass(slots=True)
class State:
    """Everything a node knows from the chain."""

    tasks: dict[int, Task] = field(default_factory=dict)
    seats: dict[int, Seat] = field(default_factory=dict)
    polls: dict[int, Poll] = field(default_factory=dict)
    disputes: dict[int, Dispute] = field(default_factory=dict)
    endpoints: dict[bytes, str] = field(default_factory=dict)
    free: dict[bytes, int] = field(default_factory=dict)
    received: dict[bytes, int] = field(default_factory=dict)
    deposits: dict[bytes, int] = field(default_factory=dict)
    withdrawals: dict[bytes, int] = field(default_factory=dict)
    events: int = 0

    def poll_work(self, poll: int) -> tuple[Task, Round] | None:
        """The task and round that a work poll belongs to, or None for a dispute's poll."""
        for task in self.tasks.values():
            for round_ in task.rounds.values():
                if round_.poll == poll:
                    return task, round_
        return None


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """State after ``events``, in chain order, continuing from ``state`` when given."""
    state = state or State()
    for event in events:
        handler = _HANDLERS.get((event.contract, event.name))
        if handler:
            handler(state, event, event.args)
        state.events += 1
    return state


Handler = Callable[[State, Event, Mapping[str, Any]], None]
_HANDLERS: dict[tuple[str, str], Handler] = {}


def _on(contract: str, name: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _HANDLERS[contract, name] = handler
        return handler

    return register


def _round(s: State, a: Mapping[str, Any]) -> Round:
    return s.tasks[a["task"]].rounds[a["round"]]


def _work(s: State, a: Mapping[str, Any], e: Event) -> Work:
    work = _round(s, a).works[a["slot"]]
    work.changed_at = e.timestamp
    return work


def _credit(s: State, who: bytes, amount: int) -> None:
    s.free[who] = s.free.get(who, 0) + amount


@_on("Vault", "Deposited")
def _deposited(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["who"], a["amount"])
    s.deposits[a["who"]] = s.deposits.get(a["who"], 0) + 1


@_on("Vault", "Withdrawn")
def _withdrawn(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["who"], -a["amount"])
    s.withdrawals[a["who"]] = s.withdrawals.get(a["who"], 0) + 1


@_on("Vault", "Locked")
def _locked(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["from"], -a["amount"])


@_on("Vault", "Paid")
def _paid(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["to"], a["amount"])
    s.received[a["to"]] = s.received.get(a["to"], 0) + a["amount"]


@_on("Tasks", "Published")
def _published(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]] = Task(
        a["task"], a["publisher"], a["specHash"], a["model"], dict(a["params"]), a["uri"]
    )
    s.endpoints.setdefault(a["publisher"], a["uri"])


@_on("Tasks", "Endpoint")
def _endpoint(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.endpoints[a["who"]] = a["uri"]


@_on("Tasks", "RoundBegun")
def _begun(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].rounds[a["round"]] = Round(a["round"], a["base"], a["claimEnd"], e.timestamp)


@_on("Tasks", "Claimed")
def _claimed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _round(s, a).works[a["slot"]] = Work(a["slot"], a["trainer"], a["seal"], e.timestamp)


@_on("Tasks", "Drawn")
def _drawn(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    r.beacon, r.train_end = a["beacon"], a["trainEnd"]


@_on("Tasks", "Seeded")
def _task_seeded(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _round(s, a).seed = a["seed"]


@_on("Tasks", "Submitted")
def _submitted(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.root = WorkState.SUBMITTED, a["root"]


@_on("Tasks", "Checking")
def _checking(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    r.poll, r.empty = a["poll"] or None, not a["poll"]


@_on("Tasks", "Opened")
def _opened(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.opened = True
    if w.state is WorkState.SUBMITTED:
        w.state, w.included, w.paid = WorkState.VALID, a["included"], a["paid"]


@_on("Tasks", "Expired")
def _expired(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.lost = WorkState.EXPIRED, a["lost"]


@_on("Tasks", "Disputed")
def _disputed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state = WorkState.DISPUTED
    if a["dispute"] not in w.disputes:
        w.disputes.append(a["dispute"])


@_on("Tasks", "Resolved")
def _resolved(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.paid, w.lost = WorkState(a["state"]), a["paid"], a["lost"]


@_on("Tasks", "Proposed")
def _proposed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _round(s, a).proposal = Proposal(a["root"], a["by"], e.timestamp)


@_on("Tasks", "Contested")
def _contested(s: State, e: Event, a: Mapping[str, Any]) -> None:
    proposal = _round(s, a).proposal
    if proposal:
        proposal.contested = True
    s.disputes[a["dispute"]].merge = True


@_on("Tasks", "ProposalDropped")
def _dropped(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    if r.proposal:
        r.dropped.add(r.proposal.root)
    r.proposal = None


@_on("Tasks", "Advanced")
def _advanced(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    r.model, r.mask, r.skipped = a["model"], a["mask"], a["skipped"]


@_on("Tasks", "Closed")
def _closed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].closed = True


@_on("Tasks", "Reclaimed")
def _reclaimed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].reclaimed = a["amount"]


@_on("Panel", "Seated")
def _seated(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]] = Seat(a["seat"], a["owner"], e.block)


@_on("Panel", "Exiting")
def _exiting(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]].exit_at = a["exitAt"]


@_on("Panel", "Left")
def _left(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]].left = True


@_on("Panel", "PollOpened")
def _poll_opened(s: State, e: Event, a: Mapping[str, Any]) -> None:
    members = tuple(i for i, seat in sorted(s.seats.items()) if seat.exit_at is None)
    s.polls[a["poll"]] = Poll(
        id=a["poll"],
        asker=a["asker"],
        opened_at=e.timestamp,
        seal_end=a["sealEnd"],
        reveal_end=a["revealEnd"],
        want=a["want"],
        risk=a["risk"],
        seats=a["seats"],
        beacon=a["beacon"],
        members=members,
    )


@_on("Panel", "Armed")
def _armed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].beacon = a["beacon"]


@_on("Panel", "Seeded")
def _poll_seeded(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].seed = a["seed"]


@_on("Panel", "Sealed")
def _sealed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].sealed[a["seat"]] = a["n"]


@_on("Panel", "PollPhase")
def _phase(s: State, e: Event, a: Mapping[str, Any]) -> None:
    poll = s.polls[a["poll"]]
    poll.seal_end, poll.reveal_end = a["sealEnd"], a["revealEnd"]


@_on("Panel", "Voted")
def _voted(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].revealed.setdefault(a["seat"], []).append((a["vote"], a["counted"]))


@_on("Panel", "Settled")
def _settled(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].settled[a["seat"]] = (a["paid"], a["lost"])


@_on("Panel", "Forfeited")
def _forfeited(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].settled[a["seat"]] = (0, a["lost"])


@_on("Court", "Filed")
def _filed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.disputes[a["dispute"]] = Dispute(
        a["dispute"], a["task"], a["round"], a["slot"], a["tree"], a["leaf"], a["poll"]
    )


@_on("Court", "Ruled")
def _ruled(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.disputes[a["dispute"]].outcome = WorkState(a["outcome"])
