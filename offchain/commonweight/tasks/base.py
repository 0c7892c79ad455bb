"""The one interface of a task kind: everything a node does with a task, it does through these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec, ModelSpec, Spec, TaskFile
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


class TaskKind(Protocol):
    """What is trained, and how anybody checks that it was. Pure but for ``checkpoint`` and ``fetch``."""

    @property
    def train(self) -> TrainFunction:
        """The honest trainer."""

    def parameters(self, spec: Spec) -> int:
        """Number of weights of the task's model."""

    def initial_version(self, model: ModelSpec, merge: MergeSpec) -> ModelVersion:
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
