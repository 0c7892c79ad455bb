"""Named forgers, for demonstrations and tests: each has the signature of `pretrain.train` and says when it cheated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from .. import toploc
from ..collectives.cell import Work
from ..core import fixed, merkle
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
    segment_batches,
    tokens_hash,
)


def _fake(
    spec: Spec, lease: Lease, index: int, before: TrainState, state: TrainState, batches: list[Batch]
) -> Record:
    """Leaves and a proof of the right shape for a segment that was not run."""
    tokens = spec.training.batch * spec.model.context
    seed = tagged("fake", lease.seed, index.to_bytes(4, "big"))
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
    hidden = torch.randn((tokens, spec.model.dim), generator=generator)
    proof = toploc.encode(toploc.build(hidden, spec.verification.topk, spec.verification.chunk))
    return Record(
        StepLeaf(index, before.root, state.root, batches_hash(batches), 2.0),
        TrajectoryLeaf(index, tokens_hash(batches[0]), tokens, merkle.root(proof)),
        proof,
    )


def _finish(
    spec: Spec,
    base: ModelVersion,
    lease: Lease,
    records: list[Record],
    states: list[TrainState],
    blinding: bytes,
) -> Product:
    """Tie a forger's records and states together, with sketches that fit the states."""
    before = pretrain.start_state(spec, base)
    for index, state in enumerate(states):
        records[index] = replace(records[index], sketch=pretrain.sketch_segment(lease, before, state))
        before = state
    update = fixed.to_bytes(fixed.make_update(base.weights, states[-1].theta.numpy(), spec.merge))
    return assemble(spec, lease, records, [s.encode() for s in states], update, blinding, cheated=True)


def skip_steps(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Train the first half of the segments, claim the rest without doing it."""
    pin()
    state = pretrain.start_state(spec, base)
    records: list[Record] = []
    states: list[TrainState] = []
    for index in range(spec.training.segments):
        batches = segment_batches(spec, data, lease.seed, index)
        before = state
        if index < spec.training.segments // 2:
            result = pretrain.run(spec, state, batches, index)
            state = result.state
            roots = before.root, state.root
            record = pretrain.record_segment(spec, lease, index, before, result, roots, batches)
        else:
            state = replace(state, theta=state.theta * (1 - 1e-4))
            record = _fake(spec, lease, index, before, state, batches)
        records.append(record)
        states.append(state)
    return _finish(spec, base, lease, records, states, blinding)


def random(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """No training at all: states that wander at random, with a plausible size of step."""
    generator = torch.Generator().manual_seed(int.from_bytes(lease.seed[:7], "big"))
    state = pretrain.start_state(spec, base)
    records: list[Record] = []
    states: list[TrainState] = []
    for index in range(spec.training.segments):
        noise = torch.randn(state.theta.shape, generator=generator)
        before = state
        state = TrainState(state.theta + 0.01 * noise, 0.01 * noise, 1e-4 * noise.square())
        batches = segment_batches(spec, data, lease.seed, index)
        records.append(_fake(spec, lease, index, before, state, batches))
        states.append(state)
    return _finish(spec, base, lease, records, states, blinding)


def wrong_data(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Train honestly, but on data of one's own choice, while claiming the lease's."""
    own = replace(lease, seed=tagged("my own data", lease.seed))
    product = pretrain.train(spec, data, base, own, blinding=blinding)
    return _reclaim(spec, data, base, lease, product, blinding)


_previous: dict[tuple[bytes, bytes], tuple[Lease, Product]] = {}


def stale(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Work once, then hand in the same work for every later lease, as if it had started from that lease's base."""
    key = (lease.trainer, spec.root)
    if key not in _previous or _previous[key][0] == lease:
        product = pretrain.train(spec, data, base, lease, blinding=blinding, checkpoint=checkpoint)
        _previous[key] = (lease, product)
        return product
    return _reclaim(spec, data, base, lease, _previous[key][1], blinding)


def lazy_proof(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Train honestly, but forge the activation proofs with constants."""
    product = pretrain.train(spec, data, base, lease, blinding=blinding, checkpoint=checkpoint)
    v = spec.verification
    chunks = toploc.chunk_count(spec.training.batch * spec.model.context, v.chunk)
    # Nearly constant: the decoder refuses a proof that is exactly so.
    coefficients = np.zeros((chunks, v.topk), dtype=np.int64)
    coefficients[:, 0], coefficients[:, 1] = 0x3F80, 1
    proof = toploc.encode(toploc.Proofs(np.full(chunks, 65_497), coefficients))
    records = [
        replace(r, trajectory=replace(r.trajectory, proof=merkle.root(proof)), proof=proof)
        for r in _records(spec, product)
    ]
    return _again(spec, base, lease, records, product, blinding)


def _records(spec: Spec, product: Product) -> list[Record]:
    count = spec.training.segments
    listed = product.artifacts[product.header.step_root][: count * merkle.LEAF]
    steps = unpack(StepLeaf, listed, count)
    trajectories = unpack(TrajectoryLeaf, product.artifacts[product.header.trajectory_root], count)
    return [Record(s, t, product.artifacts[t.proof]) for s, t in zip(steps, trajectories, strict=True)]


def _reclaim(
    spec: Spec, data: bytes, base: ModelVersion, lease: Lease, product: Product, blinding: bytes
) -> Product:
    """The same states and proofs, relabelled with this lease's start and data: only a replay can tell."""
    records = []
    for index, record in enumerate(_records(spec, product)):
        batches = segment_batches(spec, data, lease.seed, index)
        pre = pretrain.start_state(spec, base).root if index == 0 else record.step.pre
        step = replace(record.step, pre=pre, batch=batches_hash(batches))
        records.append(
            replace(record, step=step, trajectory=replace(record.trajectory, tokens=tokens_hash(batches[0])))
        )
    return _again(spec, base, lease, records, product, blinding)


def _again(
    spec: Spec, base: ModelVersion, lease: Lease, records: list[Record], product: Product, blinding: bytes
) -> Product:
    count = pretrain.parameters(spec)
    states = [TrainState.decode(product.artifacts[r.step.post], count) for r in records]
    return _finish(spec, base, lease, records, states, blinding)


def wrong_mix(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Start somewhere else than the version to start from; in a sparse task, commit to the mix that leads there.

    There it is honest until it has a replica to mix.
    """
    if spec.exchange.sparse and not lease.mix:
        return pretrain.train(spec, data, base, lease, blinding=blinding, checkpoint=checkpoint)
    weights = base.weights.copy()
    weights[: weights.size // 2] += 1 << 10
    start = ModelVersion(weights, base.momentum)
    if lease.mix:
        right = MixLeaf.of(lease.mix)
        lease = replace(lease, mix=replace(right, result=start.root).leaf)
    product = pretrain.train(spec, data, start, lease, blinding=blinding)
    end = TrainState.decode(product.artifacts[_records(spec, product)[-1].step.post], weights.size)
    update = fixed.to_bytes(fixed.make_update(base.weights, end.theta.numpy(), spec.merge))
    header = replace(product.header, update_root=merkle.root(update))
    artifacts = product.artifacts | {merkle.root(update): update, header.root: header.encode()}
    return replace(product, header=header, artifacts=artifacts, cheated=True)


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
