"""Model versions of a task as this node knows them: fetched by name, or recomputed from the accepted updates.

The merge is a pure function of the round's mask, so every node recomputes the root that the chain was told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import fixed
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.state import Round, Task, Work
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

    def keep(self, version: ModelVersion) -> bytes:
        """Put a version that was derived here into the store; its root."""
        return self._put(version.encode())

    def version(self, task: Task, root: bytes) -> ModelVersion:
        """The model version of this name."""
        count = self._parameters(self.spec(task))
        whole = self.whole(task, root)
        return ModelVersion(whole.weights[:count], whole.momentum[:count])

    def whole(self, task: Task, root: bytes) -> ModelVersion:
        """The same with its padding, which takes part in merges: the chain knows of no end of the weights."""
        size = 4 * fixed.padded(self._parameters(self.spec(task)))
        data = self._get(root, 2 * size)
        if len(data) != 2 * size:
            raise EncodingError(f"a version of this task has {2 * size} bytes, not {len(data)}")
        lanes = np.frombuffer(data, dtype="<i4").astype(np.int32)
        return ModelVersion(lanes[: size // 4], lanes[size // 4 :])

    def header(self, work: Work) -> Header:
        """The header of a submitted work."""
        if work.root is None:
            raise AssertionError("a submitted work has a root")
        return Header.decode(self._get(work.root, 1024))

    def update(self, task: Task, work: Work) -> bytes:
        """The update artifact of an accepted work."""
        return self._get(self.header(work).update_root, 4 * fixed.padded(self._parameters(self.spec(task))))

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
            try:
                return self._merged_on(self._shelf, task, round_, before)
            except EncodingError:
                pass  # lanes that no honest trainer commits to: the chain has an answer, which takes more memory
        updates = (fixed.accepted(self.update(task, w), w.origin is not None) for w in round_.included)
        version = fixed.merge(self.whole(task, before), updates, self.spec(task).merge)
        return self._put(version.encode())

    def _merged_on(self, shelf: Shelf, task: Task, round_: Round, before: bytes) -> bytes:
        spec = self.spec(task)
        count = self._parameters(spec)
        half = 4 * fixed.padded(count)
        shelf.library.ensure(before, 2 * half)
        parts = []
        for work in round_.included:
            update = self.header(work).update_root
            shelf.library.ensure(update, half)
            base = task.rounds[work.origin[0]].base if work.origin else round_.base
            parts.append(WirePart(update, update, LANES, base, int(work.origin is not None)))
        length, trim = 2 * half, len(parts) * spec.merge.trim // 100
        parent = Record(KIND, before, length, count, NONE, task.id, 0, spec.merge, 0, (), ())
        return merge_version(shelf.library.store, shelf.book, parent, parts, round_.index, trim).root


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
                "base": (task.rounds[work.origin[0]] if work.origin else round_).base.hex(),
                "late": int(work.origin is not None),
                "trainer": "0x" + work.trainer.hex(),
            }
            for work in round_.included
            if work.root is not None and not round_.skipped
        ]
        row = {"task": task.id, "round": index, "version": round_.model.hex(), "parent": before.hex()}
        rows.append({**row, "parts": parts})
    return rows
