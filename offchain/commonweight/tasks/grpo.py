"""The `grpo` kind: reinforcement learning whose every choice is derived, recorded or replayed.

A lease is a chain of segments. Segment j plays prompts that the lease's seed names with the policy of ``lag`` segments
before, and learns from all of these trajectories in their order; the next segment starts where it ended. Nothing is
left for a trainer to choose: prompts, noise, policy version, order and advantages are functions of the lease. A
rollout lease is the same without the learning: the base version plays all its segments, which end where they began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..chain.faults import fault
from ..core import codec, fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.hashing import tagged
from ..core.spec import DecoderSpec, Spec, TaskFile
from ..core.works import StepLeaf, TrajectoryLeaf
from ..diloco.inner import TrainState
from ..models import initial_parameters, numeric_profile, pin, require_profile
from ..models.architecture import Architecture, parameter_count
from ..models.decoder import policy
from ..rl.adapters import Trainable, trainable, trainable_count
from ..rl.engine import Policy, Proving, RolloutEngine, Sampling
from ..rl.environments import OWN, pinned
from ..rl.learner import Learned, StepStats, learn, minibatches
from ..rl.rollout import Scene, episodes, play
from ..rl.trajectories import Columns, Trajectory
from ..rl.warmup import accuracy, warm_start
from . import rl_sources
from .lease import NO_UPDATE, STEP_LEAF_BYTES, Checkpoint, Lease, Product, assemble_leaves, make_update
from .rl_bundle import Bundle, scene
from .rl_sources import rows_per_segment

PROBE_BATCH = 4
SEGMENT_POINTS = ("played", "learnt", "kept")
"""Where a test can kill a trainer, at ``segment:N`` of a lease: see `chain.faults`."""
SLOTS = 1024


def architecture(spec: Spec) -> Architecture:
    """The model's architecture."""
    return Architecture.of(spec.model, spec.decoder)


def parameters(spec: Spec) -> int:
    """Number of weights of the task's model."""
    return parameter_count(architecture(spec))


def state_count(spec: Spec) -> int:
    """Length of the optimised vector: the weights, or the low-rank corrections."""
    return trainable_count(architecture(spec), spec.rl.lora_rank)


def load_data(task: TaskFile, folder: Path) -> bytes:
    """The environment bundle; the tokenizer comes with the initial model's folder, if there is one."""
    if task.start.folder:
        from ..models.folder import read_tokenizer

        tokenizer, stop = read_tokenizer(folder / task.start.folder)
        return replace(_environments(task.data.source, folder), tokenizer=tokenizer, stop=stop).encode()
    return _environments(task.data.source, folder).encode()


def _environments(source: str, folder: Path) -> Bundle:
    """The bundle of a mixture in which one may be a Python file of the publisher's own."""
    from ..rl.sandbox import read_code

    files = [i.split("*")[0].strip() for i in source.split(",") if i.split("*")[0].strip().endswith(".py")]
    if not files:
        return Bundle(pinned(source))
    if len(files) > 1:
        raise CommonweightError("E1007", f"{' and '.join(files)}: one environment of your own fits in a task")
    return Bundle(pinned(source.replace(files[0], OWN)), code=read_code(folder / files[0]))


def initial_version(task: TaskFile, folder: Path) -> ModelVersion:
    """Weights of the given folder, or seeded ones; then the warm start, if the task file asks for one."""
    pin()
    arch = Architecture.of(task.model, task.decoder)
    if task.start.folder:
        from ..models.folder import read_folder

        found, flat = read_folder(folder / task.start.folder, task.model.context)
        if found != arch:
            raise CommonweightError(
                "E1009",
                f"the folder {task.start.folder} holds another architecture than [model] and [decoder] say",
                "`commonweight rl describe FOLDER` prints the right sections",
            )
    else:
        flat = initial_parameters(task.model)
    if task.start.warm_steps:
        bundle = Bundle.decode(load_data(task, folder))
        stage = Scene(bundle.mixture(), bundle.tokens(), task.rl.group, task.rl.max_new, task.model.context)
        flat, _ = warm_start(arch, flat, stage, task.start)
    weights = fixed.quantise_weights(flat.numpy(), task.merge.weight_bits)
    return ModelVersion(weights, np.zeros_like(weights))


def build_spec(task: TaskFile, data: bytes, initial: ModelVersion) -> Spec:
    """Freeze a task file: name bundle and initial model, pin the profile ``auto`` to this machine's."""
    verification = task.verification
    if verification.profile == "auto":
        verification = replace(
            verification, profile=numeric_profile(task.model, PROBE_BATCH, library=_library(task.decoder))
        )
    spec = Spec(
        name=task.name,
        kind=task.kind,
        model=task.model,
        training=task.training,
        merge=task.merge,
        verification=verification,
        data_root=merkle.root(data),
        data_length=len(data),
        validation_length=0,
        initial_model=initial.root,
        decoder=task.decoder,
        rl=task.rl,
    )
    scene(spec, data)
    return Spec.decode(spec.encode())


def require_trainable(spec: Spec) -> None:
    """Raise E1601 in another numeric profile; pins this thread's numerics."""
    pin()
    library = _library(spec.decoder)
    require_profile(spec.verification.profile, spec.model, PROBE_BATCH, library=library)


def _library(decoder: DecoderSpec) -> str:
    """The library that computes the model, with its release: another one may round otherwise."""
    if not decoder.library:
        return ""
    from ..models.library import release

    return f"transformers-{release()}"


def evaluate(spec: Spec, data: bytes, version: ModelVersion) -> float:
    """Share of held-out tasks that greedy decoding does not solve."""
    pin()
    flat = torch.from_numpy(fixed.dequantise_weights(version.weights, spec.merge.weight_bits))
    return 1.0 - accuracy(architecture(spec), flat, scene(spec, data))


def groups_of(spec: Spec, index: int) -> range:
    """Prompts of a segment, numbered through the lease."""
    count = rows_per_segment(spec) // spec.rl.group
    return range(index * count, (index + 1) * count)


def rows_of(spec: Spec, index: int) -> range:
    """Trajectory leaves of a segment."""
    count = rows_per_segment(spec)
    return range(index * count, (index + 1) * count)


def blocks(spec: Spec) -> int:
    """Pieces that a segment's rollouts are drawn in."""
    return -(-rows_per_segment(spec) // spec.rl.block)


def units(spec: Spec) -> int:
    """What a seat can draw of a work: the learning of each segment, then each block of each segment's rollouts."""
    return spec.training.segments * (1 + blocks(spec))


def unit(spec: Spec, number: int, rollout: bool = False) -> tuple[int, range | None]:
    """(segment, rows of the block within it) of a unit; None instead of rows for the learning.

    A rollout lease has nothing to learn: where another one's learning would be drawn, it is a block of its rollouts.
    """
    if number < spec.training.segments:
        if not rollout:
            return number, None
        index, block = number, number % blocks(spec)
    else:
        index, block = divmod(number - spec.training.segments, blocks(spec))
    return index, range(block * spec.rl.block, min(rows_per_segment(spec), (block + 1) * spec.rl.block))


def behaviour(spec: Spec, lease: Lease, index: int) -> int:
    """The policy that plays segment ``index``: the state after so many segments of the lease, 0 for the base."""
    return 0 if lease.rollout else max(0, index - spec.rl.lag)


def consumed(digests: Sequence[bytes], sources: dict[bytes, list[Trajectory]]) -> bytes:
    """What a step leaf says of its segment's data: exactly these trajectories, and those of the sources, in order."""
    named = [tagged("source", root, *(row.digest() for row in part)) for root, part in sources.items()]
    return tagged("consumed", *digests, *named)


def leaves(first: int, rows: Sequence[Trajectory], columns: bytes) -> list[TrajectoryLeaf]:
    """One leaf per trajectory; ``columns`` is the artifact that holds the segment's trajectories and proofs."""
    root = merkle.root(columns)
    return [TrajectoryLeaf(first + i, r.digest(), int(r.mask.sum()), root) for i, r in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that a lease's segments share."""

    spec: Spec
    lease: Lease
    scene: Scene
    arch: Architecture
    trainable: Trainable
    start: TrainState

    @staticmethod
    def of(spec: Spec, data: bytes, base: ModelVersion, lease: Lease) -> Setting:
        """Derived by everybody alike from the lease, whose sources are gathered."""
        arch = architecture(spec)
        flat = torch.from_numpy(fixed.dequantise_weights(base.weights, spec.merge.weight_bits))
        part = trainable(arch, flat, spec.rl.lora_rank)
        start = TrainState.start(part.start().numpy())
        return Setting(spec, lease, scene(spec, data), arch, part, start)

    def policy(self, vector: Tensor) -> Policy:
        """The policy of an optimised vector."""
        with torch.no_grad():
            return policy(self.arch, self.trainable.full(vector))

    def sources(self, index: int) -> dict[bytes, list[Trajectory]]:
        """What other leases give to segment ``index``, by the roots of their works."""
        return dict(zip(self.lease.sources, rl_sources.of_segment(self.spec, self.lease, index), strict=True))

    def consumed(self, index: int, digests: Sequence[bytes]) -> bytes:
        """What the step leaf of segment ``index`` has to say of its data: trajectories with these digests."""
        return consumed(digests, self.sources(index))

    def learn(self, index: int, state: TrainState, rows: Sequence[Trajectory]) -> Learned:
        """Segment ``index`` from ``state``; a rollout lease learns nothing."""
        spec = self.spec
        if self.lease.rollout:
            return Learned(state, 0.0, ())
        batches = minibatches(spec.training, spec.rl, [rows, *self.sources(index).values()])
        first = index * spec.training.segment
        return learn(self.arch, self.trainable, spec.training, spec.rl, state, batches, first)


class Training:
    """One lease being trained; a forger overrides one of the small methods."""

    cheats = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.states: list[TrainState] = [setting.start]
        self.stats: list[StepStats] = []
        v = setting.spec.verification
        rule = Sampling(setting.scene.tokens.stop, setting.spec.rl.max_new, setting.spec.rl.temperature)
        self.engine = RolloutEngine(rule, SLOTS, Proving(v.topk, v.chunk))

    def played_by(self, index: int) -> Tensor:
        """Optimised vector of the policy that plays a segment."""
        return self.states[behaviour(self.setting.spec, self.setting.lease, index)].theta

    def policy(self, vector: Tensor) -> Policy:
        """What plays with an optimised vector."""
        return self.setting.policy(vector)

    def rollouts(self, index: int) -> list[Trajectory]:
        """The segment's trajectories."""
        setting = self.setting
        self.engine.load(self.engine.version + 1, self.policy(self.played_by(index)))
        todo = episodes(setting.scene, setting.lease.seed, groups_of(setting.spec, index))
        version = behaviour(setting.spec, setting.lease, index)
        return [replace(row, version=version) for row in play(self.engine, setting.scene, todo)]

    def claimed(self, index: int, rows: list[Trajectory]) -> list[Trajectory]:
        """What is committed as the segment's trajectories."""
        return rows

    def taught(self, index: int, rows: list[Trajectory]) -> list[Trajectory]:
        """What the segment really learns from."""
        return rows

    def learn(self, index: int, before: TrainState, rows: Sequence[Trajectory]) -> Learned:
        """The segment's learning."""
        return self.setting.learn(index, before, rows)

    def segment(self, index: int) -> tuple[StepLeaf, bytes, bytes]:
        """(step leaf, columns, encoded state) of one segment. Raises E1604 when training diverges."""
        before = self.states[-1]
        rows = self.claimed(index, self.rollouts(index))
        fault("played", f"segment:{index}")
        learned = self.learn(index, before, self.taught(index, rows))
        if not learned.finite:
            raise CommonweightError(
                "E1604", "training diverged: weights are not finite", "the task needs a lower training.lr"
            )
        fault("learnt", f"segment:{index}")
        self.states.append(learned.state)
        self.stats += learned.steps
        encoded = learned.state.encode()
        named = self.setting.consumed(index, [row.digest() for row in rows])
        step = StepLeaf(index, before.root, merkle.root(encoded), named, learned.loss)
        return step, Columns.of(rows).encode(), encoded


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

    The product is the same whether or not it was interrupted. Raises E1601 in another numeric profile, E1604 when
    training diverges.
    """
    return run(Training, spec, data, base, lease, blinding, checkpoint)


def run(
    training: type[Training],
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    blinding: bytes,
    checkpoint: Checkpoint | None,
) -> Product:
    """`train` with another way of training."""
    require_trainable(spec)
    run_ = training(Setting.of(spec, data, base, lease))
    done = _resume(run_, checkpoint)
    for index in range(len(done), spec.training.segments):
        step, columns, encoded = run_.segment(index)
        if checkpoint:
            checkpoint.save(index, encoded, codec.encode(step) + columns)
            fault("kept", f"segment:{index}")
        done.append((step, columns, encoded))
    return finish(run_, base, done, blinding)


def finish(
    run_: Training, base: ModelVersion, done: list[tuple[StepLeaf, bytes, bytes]], blinding: bytes
) -> Product:
    """Tie finished segments into one work."""
    setting = run_.setting
    spec = setting.spec
    trajectories: list[TrajectoryLeaf] = []
    for _, columns, _ in done:
        trajectories += leaves(len(trajectories), Columns.decode(columns).rows(), columns)
    named = {merkle.root(columns): columns for _, columns, _ in done}
    update = NO_UPDATE
    if not setting.lease.rollout:
        with torch.no_grad():
            end = setting.trainable.full(run_.states[-1].theta)
        update = make_update(spec, base, end.numpy(), setting.lease)
        named |= {merkle.root(state): state for _, _, state in done}
    steps = [step for step, _, _ in done]
    product = assemble_leaves(
        spec, setting.lease, steps, trajectories, named, update, blinding, type(run_).cheats
    )
    return replace(product, notes=notes(run_.stats))


def notes(stats: Sequence[StepStats]) -> dict[str, float]:
    """What the steps of this process saw: rewards, importance ratios, and how many trajectories taught something."""
    if not stats:
        return {}
    mean = {
        name: sum(getattr(s, name) for s in stats) / len(stats)
        for name in ("reward", "kl", "masked", "clipped")
    }
    return {
        **{name: round(value, 5) for name, value in mean.items()},
        "ratio_max": round(max(s.ratio_max for s in stats), 4),
        "taught": sum(s.used for s in stats),
    }


def _resume(run_: Training, checkpoint: Checkpoint | None) -> list[tuple[StepLeaf, bytes, bytes]]:
    """What of a checkpoint belongs to this lease and hangs together; training repeats the rest."""
    setting = run_.setting
    done: list[tuple[StepLeaf, bytes, bytes]] = []
    for encoded, record in checkpoint.load() if checkpoint else []:
        try:
            step = codec.decode(StepLeaf, record[:STEP_LEAF_BYTES])
            columns = Columns.decode(record[STEP_LEAF_BYTES:])
            state = TrainState.decode(encoded, state_count(setting.spec))
        except EncodingError:
            break
        expected = (len(done), run_.states[-1].root, merkle.root(encoded))
        if (step.index, step.pre, step.post) != expected or len(done) == setting.spec.training.segments:
            break
        todo = episodes(setting.scene, setting.lease.seed, groups_of(setting.spec, step.index))
        rows = columns.rows()
        named = setting.consumed(step.index, [row.digest() for row in rows])
        if step.batch != named or [r.key for r in rows] != [e.key for e in todo]:
            break
        run_.states.append(state)
        done.append((step, record[STEP_LEAF_BYTES:], encoded))
    return done
