"""The task kinds of this version, by the name that a spec gives; `core.spec.KINDS` lists the same names."""

from __future__ import annotations

from ..core.errors import CommonweightError
from . import checking, pretrain
from .base import TaskKind


class Pretrain:
    """Next-byte prediction from scratch."""

    train = staticmethod(pretrain.train)
    parameters = staticmethod(pretrain.parameters)
    initial_version = staticmethod(pretrain.initial_version)
    build_spec = staticmethod(pretrain.build_spec)
    evaluate = staticmethod(pretrain.evaluate)
    check = staticmethod(checking.check)
    judge_leaf = staticmethod(checking.judge_leaf)


_KINDS: dict[str, TaskKind] = {"pretrain": Pretrain()}


def task_kind(name: str) -> TaskKind:
    """The kind of this name. Raises E1004 for one that this version does not know."""
    if name not in _KINDS:
        raise CommonweightError("E1004", f"unknown task kind `{name}`", f"known: {', '.join(sorted(_KINDS))}")
    return _KINDS[name]
