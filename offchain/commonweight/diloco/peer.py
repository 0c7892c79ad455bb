"""A member of a swarm as a process of its own: rounds over a collective, with deaths, hangs and joiners on the way.

Between anchors members are replicas that talk to neighbours only (`gossip`). Every ``epoch`` rounds they drop an
anchor:
the mean of the replicas, the same bits for all, by an all-reduce. The anchor is what a joiner recovers from a neighbour
and checks by its root, what every round is settled on, and where public copies and a freshly drawn graph start.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..collectives.codecs import codec as named_codec
from ..collectives.interface import Collective, Dropped
from ..core import codec, merkle
from ..core.codec import U32
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec
from . import outer
from .compress import Compressor
from .gossip import GossipWorker
from .local import InnerLoop
from .rounds import Int64, Plan, Report, Round
from .topology import Topology, build

EXCHANGES = 8
MAX_HEAD = 1 << 16
MAX_DROPS = 100
_VITALS = struct.Struct("<I?")
Observe = Callable[..., None]


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """What all members agree on before they meet.

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
    patience: float = 5.0
    pace: float = 0.0
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


class Peer:
    """One member; `run` returns when the plan is done. ``observe(event, **fields)`` is told what happens."""

    def __init__(
        self, collective: Collective, inner: InnerLoop, start: ModelVersion, plan: SwarmPlan, observe: Observe
    ) -> None:
        self.collective, self.inner, self.plan, self.observe = collective, inner, plan, observe
        self.anchor = Anchor(AnchorHead(0, 0, ()), start)
        self.worker: GossipWorker | None = None
        self.version = start
        self.round = 0
        self._trained = False  # since the last anchor

    def run(self) -> ModelVersion:
        """Take part until the last round; the version returned is the same for everybody who was in at the end.

        Raises what the collective raises when no session can be found (E1514), or E1712 after too many ejections.
        """
        drops = 0
        while True:
            try:
                if self._take_part():
                    return self.anchor.version
            except Dropped as dropped:
                drops += 1
                self.observe("dropped", reason=dropped.message)
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
        self.round = max(number for number, _ in vitals.values())
        over = self.round >= self.plan.rounds
        if over or not self.anchor.head.members or self.round - self.anchor.head.round >= self.plan.epoch:
            self._drop_anchor({name for name, (_, trained) in vitals.items() if trained})
        report = None if over else self._train(set(begun.members))
        settled = self.collective.settle(self.anchor.root, self.anchor.encode)
        if settled.recovered is not None:
            self._adopt(settled.recovered, 0.0)
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

    def _vitals(self) -> dict[str, tuple[int, bool]]:
        """What everybody says about themselves: their round, and whether they have trained since the anchor."""
        out = {}
        for name, blob in self.collective.gather(_VITALS.pack(self.round, self._trained)).items():
            try:
                out[name] = _VITALS.unpack(blob)
            except struct.error:
                out[name] = (0, False)
        return out

    def _adopt(self, data: bytes, seconds: float) -> None:
        """Go on from the agreed state, which the collective has checked against its root."""
        self.anchor = Anchor.decode(data, self.version.weights.size)
        self._restart()
        self.observe("adopted", root=self.anchor.root.hex(), bytes=len(data), seconds=round(seconds, 3))

    def _restart(self) -> None:
        """Start from the anchor: version, public copies, a graph drawn for this epoch."""
        self.version, self._trained = self.anchor.version, False
        members = self.anchor.head.members
        if self.collective.name in members:
            self.worker = GossipWorker(
                members.index(self.collective.name),
                self.inner,
                self.version,
                self.plan.rule,
                self.graph(),
                Compressor.named(self.plan.codec, self.plan.rule.weight_bits),
            )
        else:
            self.worker = None

    def graph(self) -> Topology:
        """This epoch's graph over the anchor's members."""
        head = self.anchor.head
        return build(self.plan.topology, len(head.members), degree=self.plan.degree, seed=head.number)

    def _drop_anchor(self, trained: set[str]) -> None:
        """Mean of the replicas that have trained: differences to the last anchor, summed to the same bits for all."""
        base = self.anchor.version
        values = np.concatenate([_gap(self.version, base, "weights"), _gap(self.version, base, "momentum")])
        scale = np.float32(2.0**-self.plan.rule.weight_bits)
        total = self.collective.all_reduce(
            values.astype(np.float32) * scale, named_codec(self.plan.anchor_codec)
        )
        share = max(1, len(trained & set(total.members)))
        moved = np.rint(total.values.astype(np.float64) / (share * float(scale))).astype(np.int64)
        weights, momentum = np.split(moved, 2)
        version = ModelVersion(_move(base.weights, weights), _move(base.momentum, momentum))
        distance = _distance(self.version, version) if self._trained else 0.0
        head = AnchorHead(self.round, self.anchor.head.number + 1, tuple(sorted(total.members)))
        self.anchor = Anchor(head, version)
        self._restart()
        self.observe(
            "anchor",
            round=self.round,
            members=list(head.members),
            root=self.anchor.root.hex(),
            model=version.root.hex(),
            distance=distance,
            loss=self.inner.text.loss(outer.weights_of(version, self.plan.rule)),
            sent=total.sent_bytes,
            attempts=total.attempts,
        )

    def _train(self, alive: set[str]) -> Report | None:
        """A round with the neighbours that are there; a joiner waits for the next anchor to get neighbours."""
        if self.worker is None:
            return None
        names = self.anchor.head.members
        members = tuple(i for i, name in enumerate(names) if name in alive)
        span = (self.round / self.plan.rounds, (self.round + 1) / self.plan.rounds)
        report = self._drive(self.worker.round(Plan(self.round, members, self.plan.steps, span)), names)
        self.version, self._trained = self.worker.version, True
        return report

    def _drive(self, run: Round, names: tuple[str, ...]) -> Report:
        """Carry the messages of one round."""
        places = {name: i for i, name in enumerate(names)}
        outgoing, tag = next(run), self.round * EXCHANGES
        while True:
            letters = {names[i]: payload for i, payload in outgoing.items()}
            arrived = self.collective.exchange(tag, letters, letters.keys(), self.plan.patience)
            self.observe(
                "exchanged",
                round=self.round,
                sent=sum(map(len, letters.values())),
                silent=len(letters) - len(arrived),
            )
            try:
                outgoing, tag = (
                    run.send({places[name]: payload for name, payload in arrived.items()}),
                    tag + 1,
                )
            except StopIteration as stop:
                report: Report = stop.value
                return report


def _gap(version: ModelVersion, base: ModelVersion, part: str) -> Int64:
    gap: Int64 = getattr(version, part).astype(np.int64) - getattr(base, part)
    return gap


def _move(lanes: np.ndarray, by: Int64) -> np.ndarray:
    return np.clip(lanes + by, -(2**31), 2**31 - 1).astype(np.int32)


def _distance(version: ModelVersion, centre: ModelVersion) -> float:
    """Distance from the mean, relative to the mean's norm."""
    gap = float(np.linalg.norm(_gap(version, centre, "weights").astype(np.float64)))
    return gap / max(float(np.linalg.norm(centre.weights.astype(np.float64))), 1e-30)
