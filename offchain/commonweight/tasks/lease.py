"""A lease as everybody can derive it, the batches it prescribes, and what a trainer delivers for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..core import codec, fixed, merkle, seeds
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.hashing import tagged
from ..core.spec import Spec
from ..core.works import NONE, Header, Meta, StepLeaf, TrajectoryLeaf, pack
from ..shardcast.packing import Packed, pack_update
from ..toploc.steps import SKETCH_BYTES, Sketch

Batch = npt.NDArray[np.uint8]
STEP_LEAF_BYTES = 108
TRAJECTORY_LEAF_BYTES = 72
NO_UPDATE = Packed(b"")


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot of a round, claimed; ``seed`` decides its data (see `core.seeds.lease_seed`).

    ``base`` names the version that training starts from: the round's, or in a sparse task the trainer's own replica.
    ``mix`` is the leaf of the mixing step that led to that replica, and empty where there was none.
    A ``rollout`` lease delivers trajectories only. ``sources`` are the accepted rollout works that another one also
    learns from, ``contents`` their trajectories, one artifact per source and segment, where they were fetched already.
    ``previous``: root of the trainer's work in the version that this round trains from, whose residual the update may
    carry; ``carried``: that residual's artifact, with the trainer itself.
    """

    chain_id: int
    tasks: bytes
    task: int
    round: int
    slot: int
    trainer: bytes
    base: bytes
    seed: bytes
    mix: bytes = b""
    rollout: bool = False
    sources: tuple[bytes, ...] = ()
    contents: tuple[bytes, ...] = field(default=(), repr=False, compare=False)
    previous: bytes = NONE
    carried: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """What a trainer notes of one segment: two leaves, the TOPLOC proof of its first forward pass, its sketch."""

    step: StepLeaf
    trajectory: TrajectoryLeaf
    proof: bytes
    sketch: bytes = bytes(SKETCH_BYTES)

    def encode(self) -> bytes:
        """For the trainer's own checkpoint."""
        return codec.encode(self.step) + codec.encode(self.trajectory) + self.sketch + self.proof

    @staticmethod
    def decode(data: bytes) -> Record:
        """Inverse of `encode`."""
        cut = STEP_LEAF_BYTES + TRAJECTORY_LEAF_BYTES
        step = codec.decode(StepLeaf, data[:STEP_LEAF_BYTES])
        trajectory = codec.decode(TrajectoryLeaf, data[STEP_LEAF_BYTES:cut])
        sketch, proof = data[cut : cut + SKETCH_BYTES], data[cut + SKETCH_BYTES :]
        if merkle.root(proof) != trajectory.proof:
            raise EncodingError("a checkpoint's proof is not the one it names")
        return Record(step, trajectory, proof, Sketch.decode(sketch).encode())


class Checkpoint(Protocol):
    """Where finished segments of a lease are kept across crashes."""

    def save(self, index: int, state: bytes, record: bytes) -> None:
        """Keep the state after segment ``index``."""

    def load(self) -> list[tuple[bytes, bytes]]:
        """(state, record) of finished segments, in order."""


@dataclass(frozen=True, slots=True)
class Product:
    """A finished work: its header, every artifact behind it, mean loss of the last segment (nats per token).

    ``notes``: what else the kind has to tell its trainer.
    """

    header: Header
    artifacts: dict[bytes, bytes]
    loss: float
    cheated: bool = False
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def root(self) -> bytes:
        """The work root."""
        return self.header.root


def require_text(spec: Spec) -> None:
    """Raise E1004 unless training text and validation text each hold at least one sequence."""
    size = spec.model.context + 1
    training = spec.data_length - spec.validation_length
    if min(training, spec.validation_length) < size:
        raise CommonweightError(
            "E1004",
            f"sequences of {size} bytes do not fit {training} bytes of training and "
            f"{spec.validation_length} of validation text",
            "use more text, or a smaller model.context",
        )


def batch(spec: Spec, data: bytes, seed: bytes, step: int) -> Batch:
    """Tokens of one inner step, uint8 ``(batch, context + 1)``: windows of the training text at seeded offsets."""
    size = spec.model.context + 1
    span = spec.data_length - spec.validation_length - size + 1
    text = np.frombuffer(data, dtype=np.uint8)
    offsets = seeds.batch_offsets(seed, step, spec.training.batch, span)
    return np.stack([text[o : o + size] for o in offsets])


def segment_batches(spec: Spec, data: bytes, seed: bytes, index: int) -> list[Batch]:
    """Batches of the steps of one segment."""
    first = index * spec.training.segment
    return [batch(spec, data, seed, first + i) for i in range(spec.training.segment)]


def shares(segments: int, members: int) -> tuple[range, ...]:
    """The segments of a lease shared out among the machines of a cell; each starts its own from the base version."""
    return tuple(range(segments * k // members, segments * (k + 1) // members) for k in range(members))


def batches_hash(batches: list[Batch]) -> bytes:
    """What a step leaf says of its segment's data."""
    return tagged("batches", *(b.tobytes() for b in batches))


def tokens_hash(first: Batch) -> bytes:
    """What a trajectory leaf says of the observed sequence: the model's inputs of the segment's first step."""
    return tagged("tokens", np.ascontiguousarray(first[:, :-1]).tobytes())


def update_lanes(spec: Spec, base: ModelVersion, trained: npt.NDArray[np.float32]) -> fixed.Lanes:
    """Where ``trained`` leads from the base version; of a cell's machines, one row each, the floor mean."""
    rows = np.atleast_2d(trained)
    total = np.zeros(base.weights.size, dtype=np.int64)
    for row in rows:
        total += fixed.make_update(base.weights, row, spec.merge)
    lanes: fixed.Lanes = (total // len(rows)).astype(np.int32)
    return lanes


def make_update(spec: Spec, base: ModelVersion, trained: npt.NDArray[np.float32], lease: Lease) -> Packed:
    """The update of a lease whose training ended at weights ``trained``. Raises `EncodingError`.

    Shape ``(n,)``, or ``(machines, n)`` where a cell trained it.
    """
    lanes = update_lanes(spec, base, trained)
    carried = fixed.from_bytes(lease.carried, lanes.size) if lease.carried else None
    return pack_update(spec.merge.codec, lanes, carried)


def assemble(
    spec: Spec,
    lease: Lease,
    records: list[Record],
    states: list[bytes],
    update: Packed,
    blinding: bytes,
    cheated: bool = False,
    profile: str = "",
) -> Product:
    """Tie records, states (after each segment) and update into one work.

    ``profile``: the numeric profile it was computed in, the spec's if empty.
    """
    steps, trajectories = [r.step for r in records], [r.trajectory for r in records]
    sketches = b"".join(r.sketch for r in records)
    named = {r.step.post: state for r, state in zip(records, states, strict=True)}
    named |= {r.trajectory.proof: r.proof for r in records}
    named[merkle.root(sketches)] = sketches
    return assemble_leaves(
        spec, lease, steps, trajectories, named, update, blinding, cheated, profile, merkle.root(sketches)
    )


def assemble_leaves(
    spec: Spec,
    lease: Lease,
    steps: list[StepLeaf],
    trajectories: list[TrajectoryLeaf],
    named: dict[bytes, bytes],
    update: Packed,
    blinding: bytes,
    cheated: bool = False,
    profile: str = "",
    sketches: bytes = bytes(32),
) -> Product:
    """Tie leaves, the artifacts ``named`` in them, and the update into one work.

    ``sketches`` is the root of the segments' sketches, zero for kinds that replay exactly and have none. An empty
    update is none: such a work is paid and never merged.
    """
    step_list, trajectory_list = pack(steps) + lease.mix, pack(trajectories)
    named |= {merkle.root(piece): piece for piece in (update.wire, update.residual) if piece}
    meta = codec.encode(
        Meta(
            chain_id=lease.chain_id,
            tasks=lease.tasks,
            task=lease.task,
            round=lease.round,
            slot=lease.slot,
            trainer=lease.trainer,
            spec=spec.root,
            base=lease.base,
            seed=lease.seed,
            end_state=steps[-1].post,
            blinding=blinding,
            profile=profile or spec.verification.profile,
            sketches=sketches,
            sources=lease.sources,
            wire=merkle.root(update.wire) if update.wire else NONE,
            residual=merkle.root(update.residual) if update.residual else NONE,
            previous=lease.previous if lease.carried else NONE,
        )
    )
    pieces = [step_list, trajectory_list, meta, *([update.lanes] if update.lanes else [])]
    artifacts = {merkle.root(piece): piece for piece in pieces} | named
    header = Header(
        update_root=merkle.root(update.lanes) if update.lanes else NONE,
        update_length=len(update.lanes),
        trajectory_root=merkle.root(trajectory_list),
        trajectory_count=len(trajectories),
        step_root=merkle.root(step_list),
        step_count=len(step_list) // merkle.LEAF,
        meta_root=merkle.root(meta),
    )
    artifacts[header.root] = header.encode()
    return Product(header, artifacts, steps[-1].loss, cheated)
