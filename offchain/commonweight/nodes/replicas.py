"""The replicas of a sparse task: where each trainer goes on from, as everybody can derive it from the chain.

A trainer starts from its own replica and commits to its update relative to that. When a round is settled, the trained
state of every accepted work follows from its replica and its update, and the next replica is the integer mix of it with
the trained states of its neighbours (`diloco.mixing`). Mixing weights are doubly stochastic, so the mean of the
replicas takes the very step that the chain takes with the mean of their updates: the task's version stays the merge of
the replicas, and a wrong one is refuted by `Exact` as in any task.

Nobody is believed: this is a pure function of the chain and the artifacts that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..core import fixed
from ..core.fixed import Lanes, ModelVersion
from ..core.spec import Spec
from ..core.state import Task, Work
from ..diloco import mixing
from ..diloco.topology import build
from ..tasks.lease import Lease
from .lineage import Lineage

KEPT = 2  # rounds whose replicas stay in memory


@dataclass(frozen=True, slots=True)
class Replica:
    """A trainer's version and the leaf of the mixing step that led to it; b"" where it started from the task's."""

    version: ModelVersion
    mix: bytes = b""


class Replicas:
    """Derives the replicas of one task, a round at a time."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._known: dict[tuple[int, int], Mapping[bytes, Replica]] = {}

    def start(self, task: Task, index: int, trainer: bytes) -> Replica:
        """Where a trainer's lease of round ``index`` starts: its replica, or the task's version if it has none yet."""
        source = index - task.params["lag"]
        found = self._after(task, source).get(trainer) if source >= 0 else None
        if found is not None:
            return found
        return Replica(self._lineage.version(task, task.rounds[index].base))

    def lease(self, task: Task, lease: Lease) -> tuple[Lease, ModelVersion]:
        """A lease, and the version that it starts from; in a sparse task that is the trainer's replica."""
        if not self._lineage.spec(task).exchange.sparse:
            return lease, self._lineage.version(task, lease.base)
        found = self.start(task, lease.round, lease.trainer)
        return replace(lease, base=found.version.root, mix=found.mix), found.version

    def _after(self, task: Task, index: int) -> Mapping[bytes, Replica]:
        """The replicas of the trainers whose works a settled round accepted, by trainer."""
        key = (task.id, index)
        if key in self._known:
            return self._known[key]
        round_ = task.rounds[index]
        works: dict[bytes, Work] = {}
        for work in round_.included if not round_.skipped else []:
            if work.origin is None:  # one that entered late trained from another round's replica
                works.setdefault(work.trainer, work)
        starts = {who: self.start(task, index, who).version for who in works}
        spec = self._lineage.spec(task)
        trained = [self._trained(task, spec, starts[who], work) for who, work in works.items()]
        mixed = mix_all(spec, index, [starts[who] for who in works], trained)
        found = dict(zip(works, mixed, strict=True))
        self._known[key] = found
        for old in [k for k in self._known if k[0] == task.id and k[1] < index - task.params["lag"] - KEPT]:
            del self._known[old]
        return found

    def _trained(self, task: Task, spec: Spec, start: ModelVersion, work: Work) -> Lanes:
        """Where an accepted work ended, in lanes: its start less its update."""
        update = fixed.accepted(self._lineage.update(task, work), late=False)[: start.weights.size]
        ended = start.weights.astype(np.int64) - (update.astype(np.int64) << spec.merge.update_shift)
        lanes: Lanes = np.clip(ended, -(2**31), 2**31 - 1).astype(np.int32)
        return lanes


def mix_all(spec: Spec, round_: int, starts: list[ModelVersion], trained: list[Lanes]) -> list[Replica]:
    """The next replica of each node of a round's graph; nodes are accepted works in the order of their slots."""
    if not starts:
        return []
    graph = build(spec.exchange.topology, len(starts), degree=spec.exchange.degree, seed=round_)
    out = []
    for node, start in enumerate(starts):
        weights, denominator = graph.integer_row(node)
        states = {j: trained[j] for j in weights}
        leaf, version = mixing.commit(
            round_, node, start, trained[node], states, weights, denominator, spec.merge
        )
        out.append(Replica(version, leaf.leaf))
    return out
