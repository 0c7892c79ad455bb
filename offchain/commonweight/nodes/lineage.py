"""Model versions of a task as this node knows them: fetched by name, or recomputed from the accepted updates.

The merge is a pure function of the round's mask, so every node recomputes the root that the chain was told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core import fixed
from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.state import Round, Task
from ..core.works import Header
from ..shardcast.deltas import LANES, merge_version
from ..shardcast.fetch import Library
from ..shardcast.versions import KIND, NONE, Record, VersionBook, WirePart


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where versions are fetched, merged and recorded."""

    library: Library
    book: VersionBook


Get = Callable[[bytes, int], bytes]
MAX_SPEC = 64 * 1024
MAX_DATA = 1 << 30


class Lineage:
    """Spec, data and versions of one task; ``get(root, max_bytes)`` returns verified artifact bytes."""

    def __init__(
        self,
        get: Get,
        put: Callable[[bytes], bytes],
        parameters: Callable[[Spec], int],
        shelf: Shelf | None = None,
    ) -> None:
        """With a ``shelf`` versions are merged from store to store in bounded memory, and recorded."""
        self._shelf = shelf
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
        if self._shelf is not None:
            return self._merged_on(self._shelf, task, round_, before)
        updates = (self.update(task, work.root) for work in round_.included if work.root is not None)
        version = fixed.merge(self.version(task, before), updates, self.spec(task).merge)
        return self._put(version.encode())

    def _merged_on(self, shelf: Shelf, task: Task, round_: Round, before: bytes) -> bytes:
        spec = self.spec(task)
        count = self._parameters(spec)
        half = 4 * fixed.padded(count)
        shelf.library.ensure(before, 2 * half)
        parts = []
        for work in round_.included:
            if work.root is not None:
                update = Header.decode(self._get(work.root, 1024)).update_root
                shelf.library.ensure(update, half)
                parts.append(WirePart(update, update, LANES, round_.base, 0))
        length = 2 * half
        parent = Record(KIND, before, length, count, NONE, task.id, 0, spec.merge, 0, (), ())
        return merge_version(shelf.library.store, shelf.book, parent, parts, round_.index).root


def history(task: Task) -> list[dict[str, Any]]:
    """The versions of a task as the chain tells them, oldest first: parent, updates and where each started."""
    rows: list[dict[str, Any]] = [
        {"task": task.id, "round": None, "version": task.initial.hex(), "parent": None, "parts": []}
    ]
    for index, round_ in sorted(task.rounds.items()):
        before = task.model_before(index)
        if round_.model is None or before is None:
            break
        parts = [
            {
                "update": work.root.hex(),
                "base": round_.base.hex(),
                "late": 0,
                "trainer": "0x" + work.trainer.hex(),
            }
            for work in round_.included
            if work.root is not None and not round_.skipped
        ]
        row = {"task": task.id, "round": index, "version": round_.model.hex(), "parent": before.hex()}
        rows.append({**row, "parts": parts})
    return rows
