"""A replica as a process: neighbours only between anchors, and every ``epoch`` rounds an anchor by all-reduce.

The anchor is the mean of the replicas, the same bits for all. Public copies and a freshly drawn graph start from it; a
joiner gets its neighbours at the next one.
"""

from __future__ import annotations

import numpy as np

from ..collectives.codecs import codec
from ..core.fixed import ModelVersion
from .compress import Compressor
from .gossip import GossipWorker
from .peer import Peer
from .rounds import Int64, Plan, Report
from .topology import Topology, build


class GossipPeer(Peer):
    """See the module."""

    worker: GossipWorker | None = None

    @property
    def version(self) -> ModelVersion:
        """This member's replica."""
        return self.worker.version if self.worker is not None else self.anchor.version

    def restart(self) -> None:
        """A new replica at the anchor, with this epoch's neighbours; none for who was not there."""
        members, rule = self.anchor.head.members, self.plan.rule
        self.worker = None
        if self.collective.name in members:
            place, through = (
                members.index(self.collective.name),
                Compressor.named(self.plan.codec, rule.weight_bits),
            )
            self.worker = GossipWorker(place, self.inner, self.anchor.version, rule, self.graph(), through)

    def graph(self) -> Topology:
        """This epoch's graph over the anchor's members."""
        head = self.anchor.head
        return build(self.plan.topology, len(head.members), degree=self.plan.degree, seed=head.number)

    def prepare(self, trained: set[str], over: bool) -> None:
        """An anchor at the start, every ``epoch`` rounds, and at the end."""
        head = self.anchor.head
        if over or not head.members or self.round - head.round >= self.plan.epoch:
            self._drop_anchor(trained)

    def _drop_anchor(self, trained: set[str]) -> None:
        """Mean of the replicas that have trained: differences to the last anchor, summed to the same bits for all."""
        base, mine = self.anchor.version, self.version
        gaps = np.concatenate([gap(mine, base, "weights"), gap(mine, base, "momentum")])
        unit = 2.0**-self.plan.rule.weight_bits
        total = self.collective.all_reduce((gaps * unit).astype(np.float32), codec(self.plan.anchor_codec))
        share = max(1, len(trained & set(total.members)))
        moved = np.rint(total.values.astype(np.float64) / (share * unit)).astype(np.int64)
        weights, momentum = np.split(moved, 2)
        version = ModelVersion(_move(base.weights, weights), _move(base.momentum, momentum))
        self.anchor = self.anchor.next(self.round, tuple(sorted(total.members)), version)
        distance = _distance(mine, version) if self.trained else 0.0
        self.trained = False
        self.restart()
        self.announce(distance, total.sent_bytes)

    def train(self, alive: set[str], returning: set[str]) -> Report | None:
        """A round with the neighbours that are there."""
        if self.worker is None:
            return None
        names = self.anchor.head.members
        members = tuple(i for i, name in enumerate(names) if name in alive)
        back = tuple(i for i in members if names[i] in returning)
        plan = Plan(self.round, members, self.plan.steps, self.span(), back)
        report = self.drive(self.worker.round(plan), names)
        self.trained = True
        return report


def gap(version: ModelVersion, base: ModelVersion, part: str) -> Int64:
    """Difference of two versions' ``weights`` or ``momentum``, int64 ``(n,)``."""
    out: Int64 = getattr(version, part).astype(np.int64) - getattr(base, part)
    return out


def _move(lanes: np.ndarray, by: Int64) -> np.ndarray:
    return np.clip(lanes + by, -(2**31), 2**31 - 1).astype(np.int32)


def _distance(version: ModelVersion, centre: ModelVersion) -> float:
    far = float(np.linalg.norm(gap(version, centre, "weights").astype(np.float64)))
    return far / max(float(np.linalg.norm(centre.weights.astype(np.float64))), 1e-30)
