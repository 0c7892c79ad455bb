"""The lineage of model versions: one canonical record per version, kept beside the store, served to whoever asks.

A record says what a version is (length, quantiser, tensors) and how it came about: its parent and the updates merged
into it, each with the version that it started from and the wire bytes that decode to it. Records form a DAG. They are
claims: whoever uses one recomputes the version and compares the root (see `deltas`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import codec, fixed
from ..core.codec import B32, U8, U16, U32, U64
from ..core.errors import CommonweightError, EncodingError
from ..core.spec import MergeSpec
from .files import disk_errors, make_folder, open_file, parse_name, read_at, sweep, write_atomic
from .limits import LIMITS
from .store import Store

KIND = "model-version"
NONE = bytes(32)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the model, in the order of its lanes."""

    name: str
    shape: tuple[U32, ...]


@dataclass(frozen=True, slots=True)
class WirePart:
    """One merged update: its lanes' root, the wire bytes' root and codec, where it started, how late it came."""

    update: B32
    wire: B32
    codec: str
    base: B32
    staleness: U8


@dataclass(frozen=True, slots=True)
class Record:
    """A version. ``parent`` is zero for an initial one; ``trim`` as in `core.fixed.gradient`."""

    kind: str
    root: B32
    length: U64
    count: U64
    parent: B32
    task: U64
    round: U32
    rule: MergeSpec
    trim: U16
    parts: tuple[WirePart, ...]
    tensors: tuple[Tensor, ...]

    def encode(self) -> bytes:
        """Canonical bytes."""
        return codec.encode(self)

    @staticmethod
    def decode(data: bytes) -> Record:
        """Strict inverse of `encode`, with its bounds. Raises `EncodingError`."""
        if len(data) > LIMITS.record_bytes:
            raise EncodingError(
                f"a version's record has at most {LIMITS.record_bytes} bytes, not {len(data)}"
            )
        record = codec.decode(Record, data)
        lanes = 0
        for tensor in record.tensors:
            size = 1
            for side in tensor.shape:
                size *= side
            lanes += size
        for holds, why in (
            (record.kind == KIND, f"kind {record.kind[:20]!r}"),
            (record.length == 8 * fixed.padded(record.count) > 0, "its length is not that of its parameters"),
            (not record.tensors or lanes == record.count, "its tensors are not its parameters"),
            (len(record.parts) <= LIMITS.parts, f"more than {LIMITS.parts} parts"),
            (len(record.tensors) <= LIMITS.tensors, f"more than {LIMITS.tensors} tensors"),
            (record.rule.lr_den > 0 and record.rule.momentum_den > 0, "a zero denominator"),
            (record.parent != record.root, "it is its own parent"),
        ):
            if not holds:
                raise EncodingError(f"no version record: {why}")
        return record


class VersionBook:
    """The records that this node knows, on disk. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open or create. Damaged records are forgotten: anybody can tell them again. Raises E1404."""
        self.folder = folder
        self._lock = threading.Lock()
        self._records: dict[bytes, Record] = {}
        make_folder(folder)
        sweep(folder)
        for path in sorted(folder.iterdir()):
            if parse_name(path.name) is not None:
                self._load(path)

    def _load(self, path: Path) -> None:
        with contextlib.suppress(OSError, EncodingError):
            handle = open_file(path)
            try:
                record = Record.decode(read_at(handle, os.fstat(handle).st_size, 0))
            finally:
                os.close(handle)
            if record.root.hex() == path.name:
                self._records[record.root] = record

    def add(self, record: Record) -> None:
        """Keep a record that was verified. The first one of a version counts. Raises E1404."""
        with self._lock:
            if record.root in self._records:
                return
            with disk_errors(self.folder):
                write_atomic(self.folder / record.root.hex(), record.encode())
            self._records[record.root] = record

    def get(self, root: bytes) -> Record | None:
        """The record of a version."""
        with self._lock:
            return self._records.get(root)

    def all(self) -> list[Record]:
        """All records, by task, round and root."""
        with self._lock:
            return sorted(self._records.values(), key=lambda r: (r.task, r.round, r.root))

    def heads(self, task: int | None = None) -> list[Record]:
        """Versions that nothing known builds upon, newest first."""
        records = [r for r in self.all() if task is None or r.task == task]
        parents = {r.parent for r in records}
        return sorted((r for r in records if r.root not in parents), key=lambda r: -r.round)

    def line(self, root: bytes) -> Iterator[Record]:
        """A version and its ancestors, youngest first, as far as they are known."""
        seen: set[bytes] = set()
        while (record := self.get(root)) is not None and root not in seen:
            seen.add(root)
            yield record
            root = record.parent

    def path(self, known: Sequence[bytes], target: bytes) -> list[Record] | None:
        """Records that lead from one of the versions in ``known`` to ``target``, oldest first; None for no way."""
        steps: list[Record] = []
        for record in self.line(target):
            if record.root in known:
                return steps[::-1]
            steps.append(record)
        return steps[::-1] if steps and steps[-1].parent in known else None

    def retain(self, store: Store, window: int) -> list[bytes]:
        """Pin the last ``window`` versions of each task's lines and release older ones; returns the pinned."""
        lines = [[r.root for r in self.line(head.root)] for head in self.heads()]
        keep = {root for line in lines for root in line[:window]}
        retain(store, [r.root for r in self.all()], keep)
        return sorted(keep)


def retain(store: Store, versions: Iterable[bytes], keep: Container[bytes]) -> None:
    """Of these versions, pin those in ``keep`` that are here and release the others."""
    for root in versions:
        if root in keep and store.has(root):
            store.pin(root)
        elif root in store.pinned:
            store.unpin(root)


def initial(root: bytes, count: int, task: int, rule: MergeSpec, tensors: Sequence[Tensor] = ()) -> Record:
    """The record of a version that nothing was merged into."""
    length = 8 * fixed.padded(count)
    return Record(KIND, root, length, count, NONE, task, 0, rule, 0, (), tuple(tensors))


def require_record(book: VersionBook, root: bytes) -> Record:
    """The record, or E1409."""
    record = book.get(root)
    if record is None:
        raise CommonweightError(
            "E1409", f"no record of version {root.hex()}", "ask a node that made or merged it"
        )
    return record
