"""A download on disk: shards are kept where they belong in the file as soon as they are verified.

There is no record of which shards are complete that could be wrong: whoever resumes hashes what is there.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..core import merkle
from .files import disk_errors, open_file, read_at, write_at
from .manifest import Manifest


class Partial:
    """One unfinished artifact. Several threads may `add` different shards at once."""

    def __init__(self, path: Path, root: bytes, manifest: Manifest) -> None:
        """Open or create the file; shards already there and intact are `held`. Raises E1404."""
        self.root, self.manifest, self.path = root, manifest, path
        self.held: set[int] = set()
        with disk_errors(path.parent):
            self.handle = open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                if os.fstat(self.handle).st_size == manifest.length:
                    self.held = {i for i in range(len(manifest.shards)) if self._intact(i)}
                else:
                    os.ftruncate(self.handle, manifest.length)
            except BaseException:
                self.close()
                raise

    @property
    def missing(self) -> list[int]:
        """Shards still to be fetched, in order."""
        return [i for i in range(len(self.manifest.shards)) if i not in self.held]

    def add(self, index: int, data: bytes | memoryview) -> None:
        """Keep a shard whose hash the caller has compared with the manifest. Raises E1404."""
        with disk_errors(self.path.parent):
            write_at(self.handle, data, index * merkle.SHARD)
        self.held.add(index)

    def sync(self) -> None:
        """Make what is held survive a power cut."""
        with disk_errors(self.path.parent):
            os.fsync(self.handle)

    def close(self) -> None:
        """Give the descriptor back; what is held stays on disk."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _intact(self, index: int) -> bool:
        data = read_at(self.handle, self.manifest.size(index), index * merkle.SHARD)
        return (
            len(data) == self.manifest.size(index) and merkle.shard_hash(data) == self.manifest.shards[index]
        )
