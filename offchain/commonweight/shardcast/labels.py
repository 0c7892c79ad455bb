"""What is noted about artifacts beside their bytes: which must not be evicted, and which task each belongs to.

One small file each, named by the root, so that a torn write can cost one note and never another one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .files import disk_errors, named, open_file, parse_name, read_at, write_atomic


class Labels:
    """Pins and tasks of a store's artifacts, on disk. Its owner serialises calls."""

    def __init__(self, pins: Path, tasks: Path) -> None:
        """Read what is in these two folders."""
        self._pins, self._tasks = pins, tasks
        self.pinned = {root for path in pins.iterdir() if (root := parse_name(path.name)) is not None}
        self.task_of = _read_tasks(tasks)

    def pin(self, root: bytes) -> None:
        """Never evict it until `unpin`. Raises E1404."""
        if root not in self.pinned:
            with disk_errors(self._pins):
                write_atomic(named(self._pins, root), b"")
            self.pinned.add(root)

    def unpin(self, root: bytes) -> None:
        """Let it be evicted again."""
        named(self._pins, root).unlink(missing_ok=True)
        self.pinned.discard(root)

    def assign(self, root: bytes, task: int) -> None:
        """It belongs to this task from now on. Raises E1404."""
        if self.task_of.get(root) != task:
            with disk_errors(self._tasks):
                write_atomic(named(self._tasks, root), str(task).encode(), durable=False)
            self.task_of[root] = task

    def forget(self, root: bytes) -> None:
        """The artifact is gone."""
        self.unpin(root)
        named(self._tasks, root).unlink(missing_ok=True)
        self.task_of.pop(root, None)


def _read_tasks(folder: Path) -> dict[bytes, int]:
    found = {}
    for path in folder.iterdir():
        root = parse_name(path.name)
        with contextlib.suppress(OSError, ValueError):
            if root is not None:
                handle = open_file(path)
                try:
                    found[root] = int(read_at(handle, 20, 0))
                finally:
                    os.close(handle)
    return found
