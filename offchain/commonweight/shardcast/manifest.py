"""What an artifact consists of: its byte length and the hashes of its shards. Proven by the root alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import merkle
from ..core.errors import EncodingError

HEADER = 8
SMALLEST = HEADER + 32


@dataclass(frozen=True, slots=True)
class Manifest:
    """Length in bytes and one 32-byte hash per 4 MiB shard."""

    length: int
    shards: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        """The artifact's name. Raises `EncodingError` when length and shards do not fit each other."""
        return merkle.root_of_shards(self.length, self.shards)

    def size(self, index: int) -> int:
        """Bytes of shard ``index``."""
        return min(merkle.SHARD, self.length - index * merkle.SHARD)

    def encode(self) -> bytes:
        """The wire form: 8-byte big-endian length, then the hashes."""
        return self.length.to_bytes(HEADER, "big") + b"".join(self.shards)

    @staticmethod
    def decode(data: bytes, root: bytes) -> Manifest:
        """The manifest that ``root`` names. Raises `EncodingError` for anything else."""
        if len(data) < SMALLEST or (len(data) - HEADER) % 32:
            raise EncodingError(f"a manifest has 8 bytes and some hashes, not {len(data)} bytes")
        hashes = tuple(data[i : i + 32] for i in range(HEADER, len(data), 32))
        manifest = Manifest(int.from_bytes(data[:HEADER], "big"), hashes)
        if manifest.root != root:
            raise EncodingError(f"the manifest does not belong to artifact {root.hex()}")
        return manifest

    @staticmethod
    def of(data: bytes | memoryview) -> Manifest:
        """The manifest of an artifact held in memory."""
        view = memoryview(data)
        starts = range(0, len(view), merkle.SHARD)
        return Manifest(len(view), tuple(merkle.shard_hash(view[i : i + merkle.SHARD]) for i in starts))
