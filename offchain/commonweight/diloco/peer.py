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

from ..collectives.interface import Collective, Dropped
from ..core import codec, merkle
from ..core.codec import U32
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
_VITALS = struct.Struct("<I??")
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
    """The round in which an anchor was dropped, who was there (ascending), and how many there were before it."""

    round: U32
    number: U32
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The agreed state of a swarm; `root` names it."""

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
        if list(head.members) != sorted(set(head.members)):
            raise EncodingError("an anchor names its members once, ascending")
        return Anchor(head, ModelVersion.decode(data[4 + size :], count))


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

    @abstractmethod
    def restart(self) -> None:
        """Go on from the anchor."""

    @abstractmethod
    def prepare(self, trained: set[str], over: bool) -> None:
        """Before a round: drop an anchor if one is due. ``trained``: members who have trained since the last one."""

    @abstractmethod
    def train(self, alive: set[str]) -> Report | None:
        """One round with those who are there; None when there was nobody to talk to or it failed."""

    def run(self) -> ModelVersion:
        """Take part until the last round; the version returned is the same for everybody who was in at the end.

        Raises what the collective raises when no session can be found, or E1712 after too many ejections.
        """
        drops = 0
        while True:
            try:
                if self._take_part():
                    return self.anchor.version
            except Dropped as dropped:
                drops += 1
                self.observe("put_out", reason=dropped.message)
                if drops > MAX_DROPS:
                    raise CommonweightError(
                        "E1712", f"put out of the swarm {drops} times", "this machine may be too slow for it"
                    ) from dropped

    def _take_part(self) -> bool:
        """One round; True after the last."""
        began = time.monotonic()
        begun = self.collective.begin(self.anchor.root)
        if begun.recovered is not None:
            self._adopt(begun.recovered, time.monotonic() - began)
        vitals = self._vitals()
        self.round = max(number for number, _, _ in vitals.values())
        over = 2 * sum(enough for _, _, enough in vitals.values()) > len(vitals)
        self.prepare({name for name, (_, trained, _) in vitals.items() if trained}, over)
        report = None if over else self.train(set(begun.members))
        settled = self.collective.settle(self.anchor.root, self.anchor.encode)
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

    def _vitals(self) -> dict[str, tuple[int, bool, bool]]:
        """What everybody says: their round, whether they have trained since the anchor, whether it is enough."""
        enough = self.enough() or (self.round >= self.plan.rounds and not self.plan.open_ended)
        out = {}
        for name, blob in self.collective.gather(_VITALS.pack(self.round, self.trained, enough)).items():
            try:
                number, trained, done = _VITALS.unpack(blob)
            except struct.error:
                number, trained, done = 0, False, False
            out[name] = (number if number <= MAX_ROUND else 0, trained, done)
        return out

    def _adopt(self, data: bytes, seconds: float) -> None:
        """Go on from the agreed state, which the collective has checked against its root."""
        self.anchor = Anchor.decode(data, self.anchor.version.weights.size)
        self.trained = False
        self.restart()
        self.observe("adopted", root=self.anchor.root.hex(), bytes=len(data), seconds=round(seconds, 3))

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
        """Carry the messages of one round; ``names`` are the members by their number."""
        places = {name: i for i, name in enumerate(names)}
        outgoing, tag = next(run), self.round * EXCHANGES
        while True:
            letters = {names[i]: payload for i, payload in outgoing.items()}
            arrived = self.collective.exchange(tag, letters, letters.keys(), self.plan.patience)
            sent, silent = sum(map(len, letters.values())), len(letters) - len(arrived)
            self.observe("mixed", round=self.round, sent=sent, silent=silent)
            try:
                outgoing, tag = (
                    run.send({places[name]: payload for name, payload in arrived.items()}),
                    tag + 1,
                )
            except StopIteration as stop:
                report: Report = stop.value
                return report
