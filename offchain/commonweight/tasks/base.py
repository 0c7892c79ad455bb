"""The one interface of a task kind: everything a node does with a task, it does through these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ..collectives.cell import Cell
from ..core.fixed import ModelVersion
from ..core.spec import Spec, TaskFile
from ..core.verdict import Verdict
from .lease import Checkpoint, Lease, Product

Fetch = Callable[[bytes, int], bytes]


class TrainFunction(Protocol):
    """Train one lease and commit to it; cheats have the same signature."""

    def __call__(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        *,
        blinding: bytes,
        checkpoint: Checkpoint | None = None,
    ) -> Product: ...


class ShareFunction(Protocol):
    """Train one lease with the machines of a cell and commit to it."""

    def __call__(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        *,
        blinding: bytes,
        checkpoint: Checkpoint | None = None,
        cell: Cell,
    ) -> Product: ...


CheckFunction = Callable[[Spec, bytes, ModelVersion, Lease, bytes, Iterable[int], Fetch], Verdict]
"""Spec, data, base, lease, work root, drawn segments, fetch: a seat's verdict on a work."""


class TaskKind(Protocol):
    """What is trained, and how anybody checks that it was. Pure but for ``checkpoint`` and ``fetch``."""

    @property
    def train(self) -> TrainFunction:
        """The honest trainer."""

    @property
    def share(self) -> ShareFunction | None:
        """The honest trainer with the machines of a cell; None where one machine has to do a lease alone."""

    @property
    def cheats(self) -> Mapping[str, TrainFunction]:
        """Named forgers, for demonstrations and tests."""

    def parameters(self, spec: Spec) -> int:
        """Number of weights of the task's model."""

    def units(self, spec: Spec) -> int:
        """Pieces of a work that a seat can draw, 0 to this exclusive."""

    def load_data(self, task: TaskFile, folder: Path) -> bytes:
        """The task's data artifact; paths in the task file are relative to ``folder``."""

    def initial_version(self, task: TaskFile, folder: Path) -> ModelVersion:
        """The version that a task starts from."""

    def build_spec(self, task: TaskFile, data: bytes, initial: ModelVersion) -> Spec:
        """Freeze a task file."""

    def evaluate(self, spec: Spec, data: bytes, version: ModelVersion) -> float:
        """Quality of a version, lower is better, in the kind's own unit."""

    def check(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        root: bytes,
        segments: Iterable[int],
        fetch: Fetch,
    ) -> Verdict:
        """A seat's verdict on a work after looking at the drawn segments."""

    def judge_leaf(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        root: bytes,
        tree: int,
        leaf: int,
        fetch: Fetch,
    ) -> Verdict:
        """A juror's verdict: is exactly this leaf valid?"""
