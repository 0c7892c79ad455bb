"""A reinforcement-learning task off the chain: the same file, with learner and workers on one machine."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core import fixed
from ..core.errors import CommonweightError
from ..core.hashing import tagged
from ..core.spec import TaskFile, parse_task
from ..models import pin
from ..models.architecture import Architecture, parameter_count
from ..rl.adapters import Trainable, trainable
from ..rl.engine import Proving
from ..rl.exchange import Exchange, write
from ..rl.loops import LearnerLoop, RunPlan, rollout_loop
from ..rl.rollout import Scene
from . import grpo
from .rl_bundle import Bundle

UNITS_PER_STEP = 4


@dataclass(frozen=True, slots=True)
class Local:
    """What every process of a run derives from its folder."""

    task: TaskFile
    scene: Scene
    arch: Architecture
    base: Tensor
    folder: Path
    bundle: Bundle

    @property
    def part(self) -> Trainable:
        """What is trained."""
        return trainable(self.arch, self.base, self.task.rl.lora_rank)

    def plan(self, steps: int, lag: int, seed: int, patience: float) -> RunPlan:
        """Every step consumes `UNITS_PER_STEP` units of whole groups."""
        groups = self.task.training.batch // self.task.rl.group
        units = next(n for n in (UNITS_PER_STEP, 3, 2, 1) if groups % n == 0)
        own = tagged("local", seed.to_bytes(8, "big"))
        return RunPlan(own, groups // units, units, steps, lag, patience)


def prepare(task_path: Path, folder: Path) -> None:
    """Copy task file and bundle into the run's folder and make its initial weights; repeating it changes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "base.i32").exists():
        return
    text = task_path.read_text()
    task = parse_task(text)
    if task.kind != "grpo":
        raise CommonweightError("E1004", f"`{task.kind}` is no reinforcement-learning task", 'kind = "grpo"')
    data = grpo.load_data(task, task_path.resolve().parent)
    version = grpo.initial_version(task, task_path.resolve().parent)
    (folder / "task.toml").write_text(text)
    (folder / "bundle.json").write_bytes(data)
    write(folder / "base.i32", fixed.to_bytes(version.weights))


def load(folder: Path) -> Local:
    """What `prepare` left. Raises E1004 when it has not run."""
    if not (folder / "base.i32").exists():
        raise CommonweightError("E1004", f"{folder} is no prepared run", "start with `commonweight rl run`")
    pin()
    task = parse_task((folder / "task.toml").read_text())
    arch = Architecture.of(task.model, task.decoder)
    lanes = fixed.from_bytes((folder / "base.i32").read_bytes(), parameter_count(arch))
    base = torch.from_numpy(fixed.dequantise_weights(lanes, task.merge.weight_bits))
    bundle = Bundle.decode((folder / "bundle.json").read_bytes())
    scene = Scene(bundle.mixture(), bundle.tokens(), task.rl.group, task.rl.max_new, task.model.context)
    return Local(task, scene, arch, base, folder, bundle)


def run_learner(folder: Path, steps: int, lag: int, seed: int, patience: float) -> None:
    """The learner's process, until all steps are done or SIGTERM."""
    local, stop = load(folder), _stopped()
    plan = local.plan(steps, lag, seed, patience)
    LearnerLoop(Exchange(folder), plan, local.arch, local.part, local.task.training, local.task.rl).run(
        stop.is_set
    )


def run_rollout(
    folder: Path, steps: int, lag: int, seed: int, worker: str, slowness: float, patience: float
) -> None:
    """A worker's process, until the learner says that it is over or SIGTERM."""
    local, stop = load(folder), _stopped()
    v = local.task.verification
    rollout_loop(
        Exchange(folder),
        local.plan(steps, lag, seed, patience),
        local.scene,
        local.arch,
        local.task.rl,
        Proving(v.topk, v.chunk),
        worker,
        stop.is_set,
        slowness,
    )


def _stopped() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
