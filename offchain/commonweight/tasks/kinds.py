"""The task kinds of this version, by the name that a spec gives; `core.spec.KINDS` lists the same names.

A kind's module, and torch with it, is loaded when the first task needs it: a relay may never.
"""

from __future__ import annotations

from importlib import import_module

from ..core.errors import CommonweightError
from ..core.spec import Spec
from .base import TaskKind

_MODULES = {"pretrain": "kind_pretrain", "grpo": "kind_grpo"}


def task_kind(name: str) -> TaskKind:
    """The kind of this name. Raises E1004 for one that this version does not know."""
    if name not in _MODULES:
        raise CommonweightError(
            "E1004", f"unknown task kind `{name}`", f"known: {', '.join(sorted(_MODULES))}"
        )
    kind: TaskKind = import_module(f".{_MODULES[name]}", __package__).KIND
    return kind


def parameters(spec: Spec) -> int:
    """Number of weights of a task's model, whatever its kind."""
    return task_kind(spec.kind).parameters(spec)


def cheat_names() -> tuple[str, ...]:
    """Every named forger of every kind."""
    return tuple(sorted({name for kind in _MODULES for name in task_kind(kind).cheats}))


def assistant_cheats() -> tuple[str, ...]:
    """Every named assistant of a cell that cheats."""
    from .cheats import ASSISTANTS

    return tuple(sorted(ASSISTANTS))
