"""What the chain says, as plain data; `fold` makes it from events.

`State` mirrors the contracts' state machines (docs/protocol.md) and nothing local. Times are chain seconds, amounts
token wei.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .seeds import is_drawn

JURIES = (7, 15, 31, 2**16 - 1)
"""Expected jurors of each level of a dispute (contracts: ``Court.want``); the last one is everybody."""


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
    DECOY = 8

    @property
    def final(self) -> bool:
        """No transition leaves it."""
        return self >= WorkState.VALID


@dataclass(slots=True)
class Work:
    """One lease and what became of it.

    ``origin``: (round, slot) of the lease, where the work entered one round late; ``late_as``: (round, slot) of such a
    work, at the lease that it came from. ``patience``: until when a trainer who said that he will be late may be.
    """

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
    origin: tuple[int, int] | None = None
    late_as: tuple[int, int] | None = None
    patience: int | None = None
    given_back: bool = False

    @property
    def resolved(self) -> bool:
        """Its place in the round's mask is decided: never submitted, opened, or rejected by somebody."""
        return self.root is None or self.opened or bool(self.disputes)

    @property
    def carried_out(self) -> bool:
        """A lease that was neither given back nor moved to another round."""
        return not self.given_back and self.late_as is None


@dataclass(slots=True)
class Contest:
    """A bonded demand that one lane of a proposal be shown."""

    by: bytes
    leaf: int
    lane: int
    until: int


@dataclass(slots=True)
class Proposal:
    """A proposed model version of a round; ``moved_at``: when it was made, or its last contest was cleared."""

    root: bytes
    by: bytes
    at: int
    moved_at: int
    contest: Contest | None = None
    refuted_by: bytes | None = None


@dataclass(slots=True)
class Round:
    """One round of a task."""

    index: int
    base: bytes
    claim_end: int
    begun_at: int
    works: dict[int, Work] = field(default_factory=dict)
    late: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(round, slot) of works that are just entering late, by their place."""
    beacon: int | None = None
    train_end: int | None = None
    seed: bytes | None = None
    poll: int | None = None
    empty: bool = False
    proposal: Proposal | None = None
    dropped: set[bytes] = field(default_factory=set)
    fines: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(who lost a merge bond, who got half of it)"""
    moved_at: int = 0
    model: bytes | None = None
    mask: int = 0
    skipped: bool = False

    @property
    def settled(self) -> bool:
        """Advanced or skipped: the model after this round is fixed."""
        return self.model is not None

    @property
    def claimed(self) -> int:
        """Leases that are held: what was given back is free again, and what enters late is no lease."""
        return sum(w.origin is None and not w.given_back for w in self.works.values())

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
    rule: Mapping[str, int]
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
    leaked: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Seats whose votes somebody gave away before sealing ended: to whom, and what it cost."""

    def drawn(self, item: int) -> tuple[int, ...]:
        """Seats drawn for ``item``, ascending; empty while the seed is unknown."""
        if self.seed is None:
            return ()
        return tuple(s for s in self.members if is_drawn(self.seed, item, s, self.seats, self.want))


class Phase(IntEnum):
    """Twin of ``Types.Phase``: the leaf is to be shown, a jury votes, its ruling can be appealed, over."""

    FILED = 0
    JURY = 1
    RULED = 2
    FINAL = 3


@dataclass(slots=True)
class Appeal:
    """A bonded appeal against a ruling; the bond is lost when the dispute ends as it stood."""

    level: int
    by: bytes
    bond: int
    against: WorkState


@dataclass(slots=True)
class Dispute:
    """Is this leaf of this work bad? ``outcome`` is the final answer, ``ruling`` the last jury's.

    ``poll``: the jury's, 0 before there is one. ``counts``: hard, soft and innocent votes of the last ruling.
    """

    id: int
    task: int
    round: int
    slot: int
    tree: int
    leaf: int
    phase: Phase = Phase.FILED
    level: int = 0
    poll: int = 0
    answered_by: bytes | None = None
    ruling: WorkState | None = None
    ruled_at: int | None = None
    counts: tuple[int, int, int] = (0, 0, 0)
    appeals: list[Appeal] = field(default_factory=list)
    outcome: WorkState | None = None


@dataclass(slots=True)
class State:
    """Everything a node knows from the chain."""

    tasks: dict[int, Task] = field(default_factory=dict)
    seats: dict[int, Seat] = field(default_factory=dict)
    polls: dict[int, Poll] = field(default_factory=dict)
    disputes: dict[int, Dispute] = field(default_factory=dict)
    juries: dict[int, int] = field(default_factory=dict)
    """Dispute of each jury's poll."""
    endpoints: dict[bytes, str] = field(default_factory=dict)
    payouts: dict[bytes, bytes] = field(default_factory=dict)
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

    def jury_dispute(self, poll: int) -> Dispute | None:
        """The dispute that a poll judges, or None for a poll about works."""
        return self.disputes.get(self.juries.get(poll, 0))

    def accused(self, dispute: Dispute) -> tuple[Task, Round, Work]:
        """The work that a dispute is about, with its round and task."""
        task = self.tasks[dispute.task]
        return task, task.rounds[dispute.round], task.rounds[dispute.round].works[dispute.slot]

    def answer_end(self, dispute: Dispute) -> int:
        """Until when an accused leaf can be shown (contracts: ``Tasks.accused``)."""
        task, round_, _ = self.accused(dispute)
        return (self.polls[round_.poll].reveal_end if round_.poll else 0) + task.params["openT"]

    def appeal_end(self, dispute: Dispute) -> int:
        """Until when the last ruling can be appealed; 0 when it cannot."""
        if dispute.phase is not Phase.RULED or dispute.ruled_at is None:
            return 0
        return dispute.ruled_at + self.tasks[dispute.task].params["openT"]
