"""The `pretrain` kind: next-byte prediction. Training a lease, and measuring a model version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from .. import toploc
from ..core import fixed, merkle
from ..core.errors import EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec, ModelSpec, Spec, TaskFile
from ..core.works import StepLeaf, TrajectoryLeaf
from ..diloco.inner import SegmentResult, TrainState, run_segment
from ..models import (
    computing,
    forward,
    initial_parameters,
    numeric_profile,
    parameter_count,
    pin,
    require_profile,
)
from ..toploc import steps
from .lease import (
    Batch,
    Checkpoint,
    Lease,
    Product,
    Record,
    assemble,
    batches_hash,
    make_update,
    require_text,
    segment_batches,
    shares,
    tokens_hash,
)

VALIDATION_SEQUENCES = 64


def parameters(spec: Spec) -> int:
    """Number of weights of the task's model."""
    return parameter_count(spec.model)


def initial_version(model: ModelSpec, merge: MergeSpec) -> ModelVersion:
    """The model version that a task starts from: seeded weights, no momentum."""
    weights = fixed.quantise_weights(initial_parameters(model).numpy(), merge.weight_bits)
    return ModelVersion(weights, np.zeros_like(weights))


def build_spec(task: TaskFile, data: bytes, initial: ModelVersion) -> Spec:
    """Freeze a task file: name data and initial model, pin the profile ``auto`` to this machine's.

    Raises E1004 when the text is too short for one sequence of training and one of validation.
    """
    verification = task.verification
    if verification.profile == "auto":
        here = numeric_profile(task.model, task.training.batch, verification.arithmetic)
        verification = replace(verification, profile=here)
    spec = Spec(
        name=task.name,
        kind=task.kind,
        model=task.model,
        training=task.training,
        merge=task.merge,
        verification=verification,
        data_root=merkle.root(data),
        data_length=len(data),
        validation_length=int(len(data) * task.data.validation_fraction),
        initial_model=initial.root,
        exchange=task.exchange,
    )
    require_text(spec)
    return Spec.decode(spec.encode())


def start_state(spec: Spec, base: ModelVersion) -> TrainState:
    """State before the first step of a lease: everybody derives it, so nobody ships it."""
    return TrainState.start(fixed.dequantise_weights(base.weights, spec.merge.weight_bits))


def run(spec: Spec, state: TrainState, batches: list[Batch], place: int) -> SegmentResult:
    """Compute one segment from ``state``, after ``place`` others, in the spec's arithmetic."""
    with computing(spec.verification.arithmetic):
        return run_segment(spec.model, spec.training, state, batches, place * spec.training.segment)


Compute = Callable[[Spec, TrainState, list[Batch], int], SegmentResult]


def plain(state: TrainState) -> steps.State:
    """A state's arrays, without copying."""
    return steps.State(state.theta.numpy(), state.m.numpy(), state.v.numpy())


def sketch_segment(lease: Lease, before: TrainState, after: TrainState) -> bytes:
    """The sketch that a trainer commits for one segment."""
    return steps.sketch(before.theta.numpy(), plain(after), lease.seed).encode()


def record_segment(
    spec: Spec,
    lease: Lease,
    index: int,
    before: TrainState,
    result: SegmentResult,
    roots: tuple[bytes, bytes],
    batches: list[Batch],
) -> Record:
    """Leaves, activation proof and sketch of a segment that was really run; ``roots`` of the states around it."""
    v = spec.verification
    pre, post = roots
    proof = toploc.encode(toploc.build(result.hidden, v.topk, v.chunk))
    first = batches[0]
    return Record(
        StepLeaf(index, pre, post, batches_hash(batches), result.loss),
        TrajectoryLeaf(index, tokens_hash(first), first.shape[0] * (first.shape[1] - 1), merkle.root(proof)),
        proof,
        sketch_segment(lease, before, result.state),
    )


def train(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Train one lease and commit to it; resumes behind the last segment that ``checkpoint`` holds.

    The product is the same whether or not it was interrupted. Raises E1004 for a text too short, E1601 in another
    numeric profile, E1604 when training diverges.
    """
    require_trainable(spec)
    whole = range(spec.training.segments)
    done = _resume(spec, data, base, lease, checkpoint)
    for encoded, record in run_share(spec, data, base, lease, whole, done):
        if checkpoint:
            checkpoint.save(record.step.index, encoded, record.encode())
        done.append((encoded, record))
    return assemble_shares(spec, base, lease, done, 1, blinding)


def run_share(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    share: range,
    done: Sequence[tuple[bytes, Record]] = (),
    compute: Compute | None = None,
) -> Iterator[tuple[bytes, Record]]:
    """(encoded state, record) of every segment of a share that is not ``done``, computed one after the other.

    A share starts from the base version with zero moments, whichever segments it holds. Raises E1604.
    """
    state = start_state(spec, base)
    pre = state.root
    if done:
        state, pre = TrainState.decode(done[-1][0], parameters(spec)), done[-1][1].step.post
    for index in share[len(done) :]:
        batches = segment_batches(spec, data, lease.seed, index)
        result = (compute or run)(spec, state, batches, index - share.start)
        result.require_finite()
        encoded = result.state.encode()
        record = record_segment(spec, lease, index, state, result, (pre, merkle.root(encoded)), batches)
        yield encoded, record
        state, pre = result.state, record.step.post


def assemble_shares(
    spec: Spec,
    base: ModelVersion,
    lease: Lease,
    done: Sequence[tuple[bytes, Record]],
    members: int,
    blinding: bytes,
) -> Product:
    """Commit to (encoded state, record) of all segments, in order, as ``members`` machines computed them."""
    states, records = [state for state, _ in done], [record for _, record in done]
    last = [share[-1] for share in shares(len(states), members)]
    ends = np.stack([TrainState.decode(states[i], parameters(spec)).theta.numpy() for i in last])
    update = make_update(spec, base, ends, lease)
    return assemble(spec, lease, records, states, update, blinding, profile=profile_here(spec))


def _resume(
    spec: Spec, data: bytes, base: ModelVersion, lease: Lease, checkpoint: Checkpoint | None
) -> list[tuple[bytes, Record]]:
    """What of a checkpoint belongs to this lease and hangs together; training repeats the rest."""
    rows = []
    for encoded, raw in checkpoint.load() if checkpoint else []:
        try:
            rows.append((encoded, Record.decode(raw)))
        except EncodingError:
            break
    return own_share(spec, data, base, lease, range(spec.training.segments), rows)


def own_share(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    share: range,
    rows: Sequence[tuple[bytes, Record]],
) -> list[tuple[bytes, Record]]:
    """Those first segments of a share among ``rows`` that belong to this lease and hang together."""
    out: list[tuple[bytes, Record]] = []
    pre = start_state(spec, base).root
    for index, (encoded, record) in zip(share, rows, strict=False):
        step = record.step
        if (step.index, step.pre, step.post) != (index, pre, merkle.root(encoded)):
            break
        if step.batch != batches_hash(segment_batches(spec, data, lease.seed, index)):
            break
        out.append((encoded, record))
        pre = step.post
    return out


def profile_here(spec: Spec) -> str:
    """This machine's numeric profile for a task."""
    return numeric_profile(spec.model, spec.training.batch, spec.verification.arithmetic)


def require_trainable(spec: Spec) -> None:
    """Raise E1601 (another profile, and no tolerance) or E1004 (too little text); pins this thread's numerics."""
    pin()
    require_text(spec)
    v = spec.verification
    if v.tolerance == 0:
        require_profile(v.profile, spec.model, spec.training.batch, v.arithmetic)


def evaluate(spec: Spec, data: bytes, version: ModelVersion) -> float:
    """Mean validation loss in nats per byte over fixed, evenly spaced windows of the text's tail."""
    pin()
    require_text(spec)
    size = spec.model.context + 1
    first = spec.data_length - spec.validation_length
    starts = np.linspace(first, spec.data_length - size, VALIDATION_SEQUENCES).astype(int)
    text = np.frombuffer(data, dtype=np.uint8)
    tokens = torch.from_numpy(np.stack([text[s : s + size] for s in starts]).astype(np.int64))
    flat = torch.from_numpy(fixed.dequantise_weights(version.weights, spec.merge.weight_bits))
    with torch.no_grad():
        logits, _ = forward(spec.model, flat, tokens[:, :-1])
        return float(F.cross_entropy(logits.reshape(-1, spec.model.vocab), tokens[:, 1:].reshape(-1)))
