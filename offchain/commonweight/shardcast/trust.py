"""Which shards were hashed lately, so that a busy relay does not hash the same bytes for every reader.

A shard is trusted for a while after it was hashed, as long as its file is the same one and unchanged: a write shows
in the file's times and size. What the disk itself changes meanwhile is noticed by whoever receives it, and here at
the latest when trust has run out.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

Stamp = tuple[int, int, int]
MAX_FILES = 1024


def stamp(handle: int) -> Stamp:
    """What changes when a file is replaced or written to: inode, modification time, size."""
    info = os.fstat(handle)
    return info.st_ino, info.st_mtime_ns, info.st_size


@dataclass(slots=True)
class _File:
    stamp: Stamp
    hashed: dict[int, float] = field(default_factory=dict)


class Trust:
    """Shards that need not be hashed again before they are sent. Thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._files: dict[bytes, _File] = {}
        self._lock = threading.Lock()

    def holds(self, root: bytes, index: int, handle: int) -> bool:
        """True when the shard was hashed a short while ago and its file has not changed since."""
        with self._lock:
            file = self._files.get(root)
            if file is None or file.stamp != stamp(handle):
                return False
            return file.hashed.get(index, float("-inf")) > time.monotonic() - self._seconds

    def note(self, root: bytes, indices: range, handle: int) -> None:
        """The shards were just hashed as they stand in the file."""
        now = stamp(handle)
        with self._lock:
            file = self._files.pop(root, None)
            if file is None or file.stamp != now:
                file = _File(now)
            self._files[root] = file  # as the youngest
            file.hashed.update(dict.fromkeys(indices, time.monotonic()))
            if len(self._files) > MAX_FILES:
                del self._files[next(iter(self._files))]
