"""Model versions of a task as this node knows them: fetched by name, or recomputed from the accepted updates.

The merge is a pure function of the round's mask, so every node recomputes the root that the chain was told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import codec, fixed
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.state import Round, Task, Work
from ..core.works import META_BYTES, NONE, Header, Meta
from ..shardcast.deltas import Upgrade, delta_bytes, gathered, merge_version, whole
from ..shardcast.fetch import Library
from ..shardcast.packing import wire_size
from ..shardcast.versions import KIND, Record, VersionBook, WirePart

MAX_SPEC = 64 * 1024
MAX_DATA = 1 << 30


class Lineage:
    """Spec, data and versions of one task, read through ``library``, with a record of each merge in ``book``."""

    def __init__(self, library: Library, book: VersionBook, parameters: Callable[[Spec], int]) -> None:
        self.library = library
        self._store, self._book = library.store, book
        self._get = library.get
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

    def meta(self, work: Work) -> Meta:
        """The meta record of a submitted work."""
        return codec.decode(Meta, self._get(self.header(work).meta_root, META_BYTES))

    def residual(self, task: Task, root: bytes) -> bytes:
        """The residual that the work of this root left, as an artifact of lanes. Raises as `Library.get`."""
        header = Header.decode(self._get(root, 1024))
        meta = codec.decode(Meta, self._get(header.meta_root, META_BYTES))
        return self._get(meta.residual, 4 * fixed.padded(self._parameters(self.spec(task))))

    def update(self, task: Task, work: Work) -> bytes:
        """The lanes of an update, from its wire form where there is one."""
        part = self._part(task, work, NONE)
        with gathered(self.library, [part], self._parameters(self.spec(task)), Upgrade(NONE, ""), True):
            return self._store.get(part.update)

    def merged(self, task: Task, round_: Round) -> Upgrade:
        """Have the version after ``round_`` in the store: recomputed from the updates, in bounded memory.

        Once the chain has settled the round, the version is fetched whole where that takes fewer bytes.
        """
        before = task.model_before(round_.index)
        if before is None:
            raise CommonweightError(
                "E1603", f"round {round_.index}: the version before it is not settled yet"
            )
        if round_.skipped:
            return Upgrade(before, "kept")
        spec = self.spec(task)
        count = self._parameters(spec)
        result = Upgrade(NONE, "delta", full=8 * fixed.padded(count))
        parts = [self._part(task, work, round_.base) for work in round_.included]
        if round_.model is not None and self._whole_is_cheaper(round_.model, before, parts, count, result):
            return result
        self.library.ensure(before, result.full)
        parent = Record(KIND, before, result.full, count, NONE, task.id, 0, spec.merge, 0, (), ())
        with gathered(self.library, parts, count, result, or_lanes=True):
            trim = len(parts) * spec.merge.trim // 100
            result.root = merge_version(self._store, self._book, parent, parts, round_.index, trim).root
        return result

    def _whole_is_cheaper(
        self, model: bytes, before: bytes, parts: list[WirePart], count: int, result: Upgrade
    ) -> bool:
        """Take a settled version as it is, where it was merged here before, or costs less so; True when done."""
        if self._store.has(model) and self._book.get(model) is not None:
            result.root, result.via = model, "kept"
            return True
        if self._store.has(before) and delta_bytes(self._store, parts, count) <= result.full:
            return False
        try:
            whole(self.library, model, result)
        except CommonweightError as error:
            if error.code == "E1404":
                raise
            result.problems.append(str(error))
            result.via = "delta"
            return False
        return True

    def needless(self, task: Task, index: int) -> bool:
        """Nobody needs the settled version after this round here: a later one is here, or comes whole for less."""
        settled = [i for i, round_ in sorted(task.rounds.items()) if round_.settled]
        if not settled or index >= settled[-1]:
            return False
        spec = self.spec(task)
        count = self._parameters(spec)
        each, cost = wire_size(spec.merge.codec, count), 0
        for at in reversed(settled):
            round_ = task.rounds[at]
            if round_.model is not None and self._store.has(round_.model):
                return index < at or (index > at and cost > 8 * fixed.padded(count))
            cost += each * len(round_.included)
        return not self._store.has(task.initial) or cost > 8 * fixed.padded(count)

    def _part(self, task: Task, work: Work, base: bytes) -> WirePart:
        """An update as it is merged; ``base``: the version it started from, unless the work came late."""
        through, update = self.spec(task).merge.codec, self.header(work).update_root
        wire = update
        if through != "none":
            try:
                wire = self.meta(work).wire
            except EncodingError:
                through = "none"
        start = task.rounds[work.origin[0]].base if work.origin else base
        return WirePart(update, wire, through, start, int(work.origin is not None))


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
