"""The task kinds of this version, by the name that a spec gives; `core.spec.KINDS` lists the same names."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.spec import Spec, TaskFile
from . import cheats, checking, data, grpo, pretrain, rl_cheats, rl_checking
from .base import TaskKind


class Pretrain:
    """Next-byte prediction from scratch."""

    train = staticmethod(pretrain.train)
    cheats = cheats.CHEATS
    parameters = staticmethod(pretrain.parameters)
    build_spec = staticmethod(pretrain.build_spec)
    evaluate = staticmethod(pretrain.evaluate)
    check = staticmethod(checking.check)
    judge_leaf = staticmethod(checking.judge_leaf)

    def units(self, spec: Spec) -> int:
        """A unit is a segment of inner steps."""
        return spec.training.segments

    def load_data(self, task: TaskFile, folder: Path) -> bytes:
        """The text of the task's source."""
        return data.load(task.data, folder)

    def initial_version(self, task: TaskFile, folder: Path) -> ModelVersion:
        """Seeded weights, no momentum."""
        return pretrain.initial_version(task.model, task.merge)


class Grpo:
    """Reinforcement learning from rollouts that others can replay."""

    train = staticmethod(grpo.train)
    cheats = rl_cheats.CHEATS
    parameters = staticmethod(grpo.parameters)
    load_data = staticmethod(grpo.load_data)
    initial_version = staticmethod(grpo.initial_version)
    build_spec = staticmethod(grpo.build_spec)
    evaluate = staticmethod(grpo.evaluate)
    check = staticmethod(rl_checking.check)
    judge_leaf = staticmethod(rl_checking.judge_leaf)
    units = staticmethod(grpo.units)


_KINDS: dict[str, TaskKind] = {"pretrain": Pretrain(), "grpo": Grpo()}


def task_kind(name: str) -> TaskKind:
    """The kind of this name. Raises E1004 for one that this version does not know."""
    if name not in _KINDS:
        raise CommonweightError("E1004", f"unknown task kind `{name}`", f"known: {', '.join(sorted(_KINDS))}")
    return _KINDS[name]


def parameters(spec: Spec) -> int:
    """Number of weights of a task's model, whatever its kind."""
    return task_kind(spec.kind).parameters(spec)


def cheat_names() -> tuple[str, ...]:
    """Every named forger of every kind."""
    return tuple(sorted({name for kind in _KINDS.values() for name in kind.cheats}))
