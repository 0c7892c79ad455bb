"""Model versions of a task as this node knows them: fetched by name, or recomputed from the accepted updates.

The merge is a pure function of the round's mask, so every node recomputes the root that the chain was told.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core import fixed
from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.state import Round, Task
from ..core.works import Header

Get = Callable[[bytes, int], bytes]
MAX_SPEC = 64 * 1024
MAX_DATA = 1 << 30


class Lineage:
    """Spec, data and versions of one task; ``get(root, max_bytes)`` returns verified artifact bytes."""

    def __init__(self, get: Get, put: Callable[[bytes], bytes], parameters: Callable[[Spec], int]) -> None:
        self._get = get
        self._put = put
        self._parameters = parameters
        self._specs: dict[bytes, Spec] = {}

    def spec(self, task: Task) -> Spec:
        """The task's frozen spec."""
        if task.spec not in self._specs:
            spec = Spec.decode(self._get(task.spec, MAX_SPEC))
            if spec.initial_model != task.initial:
                raise CommonweightError(
                    "E1602", f"task {task.id}: the chain's initial model is not the one of its spec"
                )
            self._specs[task.spec] = spec
        return self._specs[task.spec]

    def data(self, task: Task) -> bytes:
        """The task's text."""
        spec = self.spec(task)
        data = self._get(spec.data_root, min(spec.data_length, MAX_DATA))
        if len(data) != spec.data_length:
            raise CommonweightError("E1602", f"task {task.id}: the data's length is not the one of its spec")
        return data

    def version(self, task: Task, root: bytes) -> ModelVersion:
        """The model version of this name."""
        count = self._parameters(self.spec(task))
        return ModelVersion.decode(self._get(root, 8 * fixed.padded(count)), count)

    def update(self, task: Task, work_root: bytes) -> fixed.Lanes:
        """The quantised update of an accepted work."""
        count = self._parameters(self.spec(task))
        header = Header.decode(self._get(work_root, 1024))
        return fixed.decode_update(self._get(header.update_root, 4 * fixed.padded(count)), count)

    def merged(self, task: Task, round_: Round) -> bytes:
        """Recompute the version after ``round_``, keep it in the store and return its root."""
        before = task.model_before(round_.index)
        if before is None:
            raise CommonweightError(
                "E1603", f"round {round_.index}: the version before it is not settled yet"
            )
        if round_.skipped:
            return before
        updates = (self.update(task, work.root) for work in round_.included if work.root is not None)
        version = fixed.merge(self.version(task, before), updates, self.spec(task).merge)
        return self._put(version.encode())
