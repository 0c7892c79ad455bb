"""The `pretrain` kind as one object behind the interface of `base.TaskKind`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..collectives.cell import Work
from ..core.fixed import ModelVersion
from ..core.spec import Spec, TaskFile
from . import cheats, checking, data, pretrain, sharing


class Pretrain:
    """Next-byte prediction from scratch."""

    train = staticmethod(pretrain.train)
    share = staticmethod(sharing.train)
    assistants: Mapping[str, Work] = {"none": sharing.work, **cheats.ASSISTANTS}
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


KIND = Pretrain()
