"""Seals on the tiles of a data connection: which operation and tile it is, how long, and that nothing was changed.

``hmac``: HMAC-SHA256 under the connection's key, cut to 16 bytes; nobody without the key can alter, replay or
reorder a tile. ``sum``: a checksum against accidents only, for links inside one machine where a message code would
cost more time than the copying itself.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

import numpy as np

from ..core.errors import EncodingError

_HEAD = struct.Struct(">QII16s")
HEADER = _HEAD.size
SEALS = ("hmac", "sum")


@dataclass(frozen=True, slots=True)
class Seal:
    """Seals of one operation on one link. ``operation`` must never repeat under the same keys."""

    kind: str
    send_key: bytes
    receive_key: bytes
    operation: int

    def close(self, index: int, payload: memoryview) -> bytes:
        """Header of tile ``index``."""
        return _HEAD.pack(self.operation, index, len(payload), self._tag(self.send_key, index, payload))

    def open(self, index: int, header: bytes | bytearray, payload: memoryview) -> None:
        """Raise `EncodingError` unless ``header`` is what the neighbour's `close` makes for this tile."""
        operation, number, length, tag = _HEAD.unpack(header)
        expected = self._tag(self.receive_key, index, payload)
        if (operation, number, length) != (self.operation, index, len(payload)):
            raise EncodingError("a tile of another operation, or out of order, arrived")
        if not hmac.compare_digest(tag, expected):
            raise EncodingError("a tile was changed on its way")

    def _tag(self, key: bytes, index: int, payload: memoryview) -> bytes:
        head = struct.pack(">QII", self.operation, index, len(payload))
        if self.kind == "hmac":
            code = hmac.new(key, head, "sha256")
            code.update(payload)
            return code.digest()[:16]
        whole = len(payload) // 8 * 8
        words = np.frombuffer(payload[:whole], dtype="<u8")
        rest = int.from_bytes(payload[whole:], "little")
        total = int(words.sum(dtype=np.uint64)) + rest + int.from_bytes(head[8:], "big")
        return (total & (2**64 - 1)).to_bytes(16, "big")
