"""A member of a swarm as a process of its own: rounds over a collective, with deaths, hangs and joiners on the way.

Every round is settled on an anchor, the state that all agree on by root; a joiner, or a member that strayed, recovers
it from a neighbour and checks it. What a round is differs: see `gossip_peer` (replicas) and `cohort_peer` (one state).
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from ..collectives.interface import Collective, Dropped, Standing
from ..core import codec, merkle
from ..core.codec import B32, U32, U64
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec
from . import outer
from .local import InnerLoop
from .rounds import Report, Round

EXCHANGES = 8
MAX_HEAD = 1 << 16
MAX_DROPS = 100
MAX_ROUND = 2**31
PAST = 32  # anchors that the next ones name
NO_SESSION = "E1515"
_VITALS = struct.Struct("<I???")
Observe = Callable[..., None]


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """What all members agree on before they meet.

    ``rounds``: length of the learning-rate schedule. The swarm ends there, or, if ``open_ended``, when most ask.
    ``patience``: seconds to wait for neighbours in one exchange; ``pace``: seconds that a round takes at least, so that
    a machine in use for other things is not taken whole.
    """

    rounds: int
    steps: int
    epoch: int = 4
    topology: str = "expander"
    degree: int = 4
    codec: str = "int4:1024"
    anchor_codec: str = "int8"
    aggregator: str = "clip-cosine"
    patience: float = 5.0
    pace: float = 0.0
    open_ended: bool = False
    rule: MergeSpec = field(default_factory=lambda: outer.NESTEROV)


@dataclass(frozen=True, slots=True)
class AnchorHead:
    """The round in which an anchor was dropped, who was there (ascending), and what came before it.

    ``number``: how many anchors; ``work``: how many members they had together, which decides between two histories;
    ``past``: the roots of the latest of them, oldest first.
    """

    round: U32
    number: U32
    members: tuple[str, ...]
    work: U64 = 0
    past: tuple[B32, ...] = ()


@dataclass(frozen=True, slots=True)
class Anchor:
    """The agreed state of a swarm; `root` names it and, through the roots before it, its history."""

    head: AnchorHead
    version: ModelVersion

    def encode(self) -> bytes:
        """Length of the head, head, model version."""
        head = codec.encode(self.head)
        return len(head).to_bytes(4, "big") + head + self.version.encode()

    @staticmethod
    def first(version: ModelVersion) -> Anchor:
        """Where a swarm starts from: no round, no members."""
        return Anchor(AnchorHead(0, 0, ()), version)

    def next(self, round_: int, members: tuple[str, ...], version: ModelVersion) -> Anchor:
        """The anchor that follows this one; ``members`` ascending."""
        past = (*self.head.past, self.root)[-PAST:]
        return Anchor(
            AnchorHead(round_, self.head.number + 1, members, self.head.work + len(members), past), version
        )

    def leads_to(self, other: Anchor) -> bool:
        """Whether ``other`` goes on from here. After more than `PAST` anchors nobody can tell: then it counts as so."""
        steps = other.head.number - self.head.number
        if self.head.number == 0 or other.root == self.root or steps > len(other.head.past):
            return True
        return steps > 0 and other.head.past[-steps] == self.root

    @property
    def standing(self) -> Standing:
        """What decides whether a swarm goes on from here."""
        return Standing(self.head.work, self.head.members)

    @property
    def root(self) -> bytes:
        """Merkle root of the encoding."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes, count: int) -> Anchor:
        """Strict inverse of `encode` for a model of ``count`` parameters. Raises `EncodingError`."""
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size or size > MAX_HEAD:
            raise EncodingError("an anchor's head is longer than the anchor")
        head = codec.decode(AnchorHead, data[4 : 4 + size])
        if list(head.members) != sorted(set(head.members)) or len(head.past) > PAST:
            raise EncodingError(f"an anchor names its members once, ascending, and at most {PAST} before it")
        return Anchor(head, ModelVersion.decode(data[4 + size :], count))


@dataclass(frozen=True, slots=True)
class Vitals:
    """A member's round; whether it has trained since the anchor, was away in the round before, and has had enough."""

    round: int
    trained: bool
    away: bool
    enough: bool

    @staticmethod
    def decode(blob: bytes) -> Vitals:
        """Total: junk is a member that has just begun."""
        try:
            number, trained, away, done = _VITALS.unpack(blob)
        except struct.error:
            number, trained, away, done = 0, False, True, False
        return Vitals(number if number <= MAX_ROUND else 0, trained, away, done)


class Peer(ABC):
    """One member; `run` returns when the plan is done.

    ``observe(event, **fields)`` is told what happens; ``keep`` gets every anchor, so that a restart goes on from it;
    ``enough`` says whether this member wants an open-ended swarm to end.
    """

    def __init__(
        self,
        collective: Collective,
        inner: InnerLoop,
        start: Anchor,
        plan: SwarmPlan,
        observe: Observe,
        enough: Callable[[], bool] = lambda: False,
        keep: Callable[[Anchor], None] = lambda _: None,
    ) -> None:
        self.collective, self.inner, self.plan, self.observe = collective, inner, plan, observe
        self.anchor, self.enough, self.keep = start, enough, keep
        self.round = start.head.round
        self.trained = False  # since the last anchor
        self.away = True  # in the round before

    @abstractmethod
    def restart(self) -> None:
        """Go on from the anchor."""

    @abstractmethod
    def prepare(self, trained: set[str], over: bool) -> None:
        """Before a round: drop an anchor if one is due. ``trained``: members who have trained since the last one."""

    @abstractmethod
    def train(self, alive: set[str], returning: set[str]) -> Report | None:
        """One round with those who are there, some of whom were not in the round before; None when there was nobody to
        talk to or it failed."""

    def run(self) -> ModelVersion:
        """Take part until the last round; the version returned is the same for everybody who was in at the end.

        Who holds a history waits for the others, however long that takes, until it is `enough`. Raises E1515 when a
        newcomer finds no session, or E1712 after too many ejections.
        """
        drops = 0
        while True:
            try:
                if self._take_part():
                    return self.anchor.version
            except Dropped as dropped:
                drops, self.away = drops + 1, True
                self.observe("put_out", reason=dropped.message)
                if drops > MAX_DROPS:
                    raise CommonweightError(
                        "E1712", f"put out of the swarm {drops} times", "this machine may be too slow for it"
                    ) from dropped
            except CommonweightError as error:
                if error.code != NO_SESSION or self.anchor.head.number == 0 or self.enough():
                    raise
                self.observe("still_waiting", reason=error.message)

    def _take_part(self) -> bool:
        """One round; True after the last."""
        began = time.monotonic()
        begun = self.collective.begin(self.anchor.root, self.anchor.standing)
        if begun.recovered is not None:
            self._adopt(begun.recovered, time.monotonic() - began)
        vitals = self._vitals()
        self.round = max(v.round for v in vitals.values())
        over = 2 * sum(v.enough for v in vitals.values()) > len(vitals)
        self.prepare({name for name, v in vitals.items() if v.trained}, over)
        returning = {name for name, v in vitals.items() if v.away}
        report = None if over else self.train(set(begun.members), returning)
        self.away = report is None
        settled = self.collective.settle(self.anchor.root, self.anchor.encode, self.anchor.standing)
        if settled.recovered is not None:
            self._adopt(settled.recovered, 0.0)
        self.keep(self.anchor)
        if report is not None:
            self.observe(
                "round",
                round=self.round,
                loss=report.loss,
                tokens=report.tokens,
                members=sorted(begun.members),
                dropped=len(report.dropped),
                root=settled.root.hex(),
                agreed=settled.agreed,
                seconds=round(time.monotonic() - began, 3),
            )
        self.round += 1
        time.sleep(max(0.0, 0.0 if over else self.plan.pace - (time.monotonic() - began)))
        return over

    def _vitals(self) -> dict[str, Vitals]:
        """What everybody says of itself."""
        enough = self.enough() or (self.round >= self.plan.rounds and not self.plan.open_ended)
        mine = _VITALS.pack(self.round, self.trained, self.away, enough)
        return {name: Vitals.decode(blob) for name, blob in self.collective.gather(mine).items()}

    def _adopt(self, data: bytes, seconds: float) -> None:
        """Go on from the agreed state, which the collective has checked against its root."""
        old, self.anchor = self.anchor, Anchor.decode(data, self.anchor.version.weights.size)
        self.trained, self.away = False, True
        self.restart()
        self.observe("adopted", root=self.anchor.root.hex(), bytes=len(data), seconds=round(seconds, 3))
        if not old.leads_to(self.anchor):
            self.observe(
                "history_left",
                left=old.root.hex(),
                number=old.head.number,
                work=old.head.work,
                joined=self.anchor.root.hex(),
                joined_work=self.anchor.head.work,
            )

    def announce(self, distance: float, sent: int) -> None:
        """Tell about a new anchor; ``distance`` from it before, relative to its norm."""
        version, head = self.anchor.version, self.anchor.head
        self.observe(
            "anchor",
            round=self.round,
            members=list(head.members),
            root=self.anchor.root.hex(),
            model=version.root.hex(),
            distance=distance,
            loss=self.inner.text.loss(outer.weights_of(version, self.plan.rule)),
            sent=sent,
        )

    def span(self) -> tuple[float, float]:
        """This round's stretch of the schedule."""
        return self.round / self.plan.rounds, (self.round + 1) / self.plan.rounds

    def drive(self, run: Round, names: tuple[str, ...]) -> Report:
        """Carry the messages of one round; ``names`` are the members by their number. Who is silent once is not waited
        for again."""
        places = {name: i for i, name in enumerate(names)}
        outgoing, tag, quiet = next(run), self.round * EXCHANGES, set[str]()
        while True:
            letters = {names[i]: payload for i, payload in outgoing.items()}
            arrived: dict[str, bytes] = {}
            if letters:
                senders = letters.keys() - quiet
                arrived = self.collective.exchange(tag, letters, senders, self.plan.patience)
                quiet |= senders - arrived.keys()
                sent = sum(map(len, letters.values()))
                self.observe("mixed", round=self.round, sent=sent, silent=len(quiet))
            try:
                outgoing, tag = (
                    run.send({places[name]: payload for name, payload in arrived.items()}),
                    tag + 1,
                )
            except StopIteration as stop:
                report: Report = stop.value
                return report
