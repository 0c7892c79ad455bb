"""Named forgers, for demonstrations and tests: each has the signature of `pretrain.train` and says when it cheated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps

import numpy as np
import torch

from .. import toploc
from ..collectives.cell import Work
from ..core import merkle
from ..core.fixed import ModelVersion
from ..core.hashing import tagged
from ..core.spec import Spec
from ..core.works import StepLeaf, TrajectoryLeaf, unpack
from ..diloco.inner import SegmentResult, TrainState
from ..diloco.mixing import MixLeaf
from ..models import pin
from . import pretrain, sharing
from .base import TrainFunction
from .lease import (
    Batch,
    Checkpoint,
    Lease,
    Product,
    Record,
    assemble,
    batches_hash,
    make_update,
    segment_batches,
    tokens_hash,
)


@dataclass(frozen=True, slots=True)
class Job:
    """What a trainer is given; the arguments of a `TrainFunction`."""

    spec: Spec
    data: bytes
    base: ModelVersion
    lease: Lease
    blinding: bytes
    checkpoint: Checkpoint | None

    def honest(self) -> Product:
        """The work that it asks for."""
        return pretrain.train(
            self.spec, self.data, self.base, self.lease, blinding=self.blinding, checkpoint=self.checkpoint
        )

    def start(self) -> TrainState:
        """The state before the first segment."""
        return pretrain.start_state(self.spec, self.base)

    def batches(self, index: int) -> list[Batch]:
        """What the lease prescribes for a segment."""
        return segment_batches(self.spec, self.data, self.lease.seed, index)


def _forger(cheat: Callable[[Job], Product]) -> TrainFunction:
    @wraps(cheat)
    def train(
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        *,
        blinding: bytes,
        checkpoint: Checkpoint | None = None,
    ) -> Product:
        return cheat(Job(spec, data, base, lease, blinding, checkpoint))

    return train


def _fake(job: Job, index: int, before: TrainState, state: TrainState, batches: list[Batch]) -> Record:
    """Leaves and a proof of the right shape for a segment that was not run."""
    spec = job.spec
    tokens = spec.training.batch * spec.model.context
    seed = tagged("fake", job.lease.seed, index.to_bytes(4, "big"))
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
    hidden = torch.randn((tokens, spec.model.dim), generator=generator)
    proof = toploc.encode(toploc.build(hidden, spec.verification.topk, spec.verification.chunk))
    return Record(
        StepLeaf(index, before.root, state.root, batches_hash(batches), 2.0),
        TrajectoryLeaf(index, tokens_hash(batches[0]), tokens, merkle.root(proof)),
        proof,
    )


def _finish(job: Job, records: list[Record], states: list[TrainState]) -> Product:
    """Tie a forger's records and states together, with sketches that fit the states."""
    before = job.start()
    for index, state in enumerate(states):
        records[index] = replace(records[index], sketch=pretrain.sketch_segment(job.lease, before, state))
        before = state
    update = make_update(job.spec, job.base, states[-1].theta.numpy(), job.lease)
    encoded = [s.encode() for s in states]
    return assemble(job.spec, job.lease, records, encoded, update, job.blinding, cheated=True)


@_forger
def skip_steps(job: Job) -> Product:
    """Train the first half of the segments, claim the rest without doing it."""
    pin()
    spec, state = job.spec, job.start()
    records: list[Record] = []
    states: list[TrainState] = []
    for index in range(spec.training.segments):
        batches = job.batches(index)
        before = state
        if index < spec.training.segments // 2:
            result = pretrain.run(spec, state, batches, index)
            state = result.state
            roots = before.root, state.root
            record = pretrain.record_segment(spec, job.lease, index, before, result, roots, batches)
        else:
            state = replace(state, theta=state.theta * (1 - 1e-4))
            record = _fake(job, index, before, state, batches)
        records.append(record)
        states.append(state)
    return _finish(job, records, states)


@_forger
def random(job: Job) -> Product:
    """No training at all: states that wander at random, with a plausible size of step."""
    generator = torch.Generator().manual_seed(int.from_bytes(job.lease.seed[:7], "big"))
    state = job.start()
    records: list[Record] = []
    states: list[TrainState] = []
    for index in range(job.spec.training.segments):
        noise = torch.randn(state.theta.shape, generator=generator)
        before = state
        state = TrainState(state.theta + 0.01 * noise, 0.01 * noise, 1e-4 * noise.square())
        records.append(_fake(job, index, before, state, job.batches(index)))
        states.append(state)
    return _finish(job, records, states)


@_forger
def wrong_data(job: Job) -> Product:
    """Train honestly, but on data of one's own choice, while claiming the lease's."""
    own = replace(job.lease, seed=tagged("my own data", job.lease.seed))
    return _reclaim(job, replace(job, lease=own, checkpoint=None).honest())


_previous: dict[tuple[bytes, bytes], tuple[Lease, Product]] = {}


@_forger
def stale(job: Job) -> Product:
    """Work once, then hand in the same work for every later lease, as if it had started from that lease's base."""
    key = (job.lease.trainer, job.spec.root)
    if key not in _previous or _previous[key][0] == job.lease:
        product = job.honest()
        _previous[key] = (job.lease, product)
        return product
    return _reclaim(job, _previous[key][1])


@_forger
def lazy_proof(job: Job) -> Product:
    """Train honestly, but forge the activation proofs with constants."""
    product = job.honest()
    spec, v = job.spec, job.spec.verification
    chunks = toploc.chunk_count(spec.training.batch * spec.model.context, v.chunk)
    # Nearly constant: the decoder refuses a proof that is exactly so.
    coefficients = np.zeros((chunks, v.topk), dtype=np.int64)
    coefficients[:, 0], coefficients[:, 1] = 0x3F80, 1
    proof = toploc.encode(toploc.Proofs(np.full(chunks, 65_497), coefficients))
    records = [
        replace(r, trajectory=replace(r.trajectory, proof=merkle.root(proof)), proof=proof)
        for r in _records(spec, product)
    ]
    return _again(job, records, product)


def _records(spec: Spec, product: Product) -> list[Record]:
    count = spec.training.segments
    listed = product.artifacts[product.header.step_root][: count * merkle.LEAF]
    steps = unpack(StepLeaf, listed, count)
    trajectories = unpack(TrajectoryLeaf, product.artifacts[product.header.trajectory_root], count)
    return [Record(s, t, product.artifacts[t.proof]) for s, t in zip(steps, trajectories, strict=True)]


def _reclaim(job: Job, product: Product) -> Product:
    """The same states and proofs, relabelled with this lease's start and data: only a replay can tell."""
    records = []
    for index, record in enumerate(_records(job.spec, product)):
        batches = job.batches(index)
        pre = job.start().root if index == 0 else record.step.pre
        step = replace(record.step, pre=pre, batch=batches_hash(batches))
        records.append(
            replace(record, step=step, trajectory=replace(record.trajectory, tokens=tokens_hash(batches[0])))
        )
    return _again(job, records, product)


def _again(job: Job, records: list[Record], product: Product) -> Product:
    count = pretrain.parameters(job.spec)
    return _finish(job, records, [TrainState.decode(product.artifacts[r.step.post], count) for r in records])


@_forger
def wrong_mix(job: Job) -> Product:
    """Start somewhere else than the version to start from; in a sparse task, commit to the mix that leads there.

    There it is honest until it has a replica to mix.
    """
    lease, base = job.lease, job.base
    if job.spec.exchange.sparse and not lease.mix:
        return job.honest()
    weights = base.weights.copy()
    weights[: weights.size // 2] += 1 << 10
    start = ModelVersion(weights, base.momentum)
    if lease.mix:
        lease = replace(lease, mix=replace(MixLeaf.of(lease.mix), result=start.root).leaf)
    product = replace(job, lease=lease, base=start).honest()
    records = _records(job.spec, product)
    states = [product.artifacts[record.step.post] for record in records]
    end = TrainState.decode(states[-1], weights.size)
    update = make_update(job.spec, base, end.theta.numpy(), lease)
    return assemble(job.spec, lease, records, states, update, job.blinding, cheated=True)


CHEATS: dict[str, TrainFunction] = {
    "skip-steps": skip_steps,
    "stale": stale,
    "wrong-data": wrong_data,
    "random": random,
    "lazy-proof": lazy_proof,
    "wrong-mix": wrong_mix,
}


def frozen_member(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """An assistant of a cell that computes gradients and moments, and never moves the weights."""

    def compute(spec: Spec, state: TrainState, batches: list[Batch], place: int) -> SegmentResult:
        result = pretrain.run(spec, state, batches, place)
        return replace(result, state=replace(result.state, theta=state.theta))

    yield from sharing.work(body, artifacts, compute)


ASSISTANTS: dict[str, Work] = {"frozen-member": frozen_member}
"""Assistants of cells that cheat, by name: each has the signature of `sharing.work`."""
