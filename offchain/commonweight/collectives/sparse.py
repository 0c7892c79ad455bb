"""Top-k codec: of every chunk of values the ``k`` largest magnitudes, their positions and 2 or 8 bits for each.

Wire layout: one record per chunk (the last chunk's record is as long as the others): scale (16 bits), number of
entries (16 bits), ``k`` low halves of positions, an Elias-Fano bitmap of ``2 k`` bits for the high halves
(P. Elias 1974), ``k`` values. With 64 of 4096 of 2 bits
that is 84 bytes, 0.16 bit per value; with 256 of 8 bits 452 bytes, 0.88. Positions increase
strictly, unused fields are zero and a scale is the one an encoder would choose: one encoding per content.
The selection follows SparseLoCo (arXiv 2508.15706); keep an error feedback around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.errors import EncodingError
from .blocks import SIGNED_PAIR, Bytes, Levels, pack, quantise, unpack
from .scales import FLOATS, LANES, Array, Scales

GROUP = 64  # chunks worked on at once


@dataclass(frozen=True, slots=True)
class TopKCodec:
    """Keep ``k`` of every ``chunk`` values; both are powers of two, 8 <= k <= chunk / 2, chunk <= 65536."""

    name: str
    k: int = 64
    chunk: int = 4096
    levels: Levels = SIGNED_PAIR
    exact: bool = True

    @property
    def _low_bits(self) -> int:
        return (self.chunk // self.k).bit_length() - 1

    @property
    def _record(self) -> int:
        return 4 + self.k * self._low_bits // 8 + self.k // 4 + self.k * self.levels.bits // 8

    def size(self, count: int) -> int:
        """Bytes on the wire of ``count`` values."""
        return -(-count // self.chunk) * self._record

    def encode(self, values: npt.NDArray[np.float32]) -> bytes:
        """Float32 ``(n,)`` to bytes. Raises `EncodingError` on NaN, infinity and magnitudes above 2**118."""
        return self._encode(FLOATS, values)

    def decode(self, payload: bytes | memoryview, count: int) -> npt.NDArray[np.float32]:
        """Strict inverse of `encode`: ``count`` values, most of them zero, or `EncodingError`."""
        self._require_size(payload, count)
        out = np.zeros(count, dtype=np.float32)
        for at, level, scale in self._entries(FLOATS, payload, count):
            out[at] = level.astype(np.float32) * scale.astype(np.float32)
        return out

    def encode_lanes(self, lanes: npt.NDArray[np.int32]) -> bytes:
        """Int32 ``(n,)`` to bytes. Raises `EncodingError` above about 2**30."""
        return self._encode(LANES, lanes)

    def decode_lanes(self, payload: bytes | memoryview, count: int) -> npt.NDArray[np.int32]:
        """Strict inverse of `encode_lanes`, by integer arithmetic only."""
        return np.concatenate([np.empty(0, np.int32), *self.lane_tiles(payload, count)])

    def lane_tiles(self, payload: bytes | memoryview, count: int) -> Iterator[npt.NDArray[np.int32]]:
        """The same piece by piece, in order."""
        self._require_size(payload, count)
        step = GROUP * self.chunk
        for number, (at, level, scale) in enumerate(self._entries(LANES, payload, count)):
            out = np.zeros(min(step, count - number * step), dtype=np.int32)
            out[at - number * step] = level.astype(np.int32) * scale.astype(np.int32)
            yield out

    def _require_size(self, payload: bytes | memoryview, count: int) -> None:
        """Before anything is allocated for ``count`` values."""
        if count < 0 or len(payload) != self.size(count):
            raise EncodingError(
                f"{self.name}: {count} values have {self.size(count)} bytes, not {len(payload)}"
            )

    def _encode(self, scales: Scales, values: Array) -> bytes:
        step = GROUP * self.chunk
        parts = []
        for at in range(0, values.size, step):
            part = values[at : at + step]
            rows = -(-part.size // self.chunk)
            if part.size < rows * self.chunk:
                part = np.concatenate([part, np.zeros(rows * self.chunk - part.size, dtype=part.dtype)])
            parts.append(self._encode_rows(scales, part.reshape(rows, self.chunk)))
        return b"".join(parts)

    def _select(self, x: Array) -> tuple[Array, Array, Array]:
        """Row, column and slot of the kept entries: the ``k`` largest magnitudes, of equal ones the first."""
        size = np.abs(x)
        least = np.partition(size, self.chunk - self.k, axis=1)[:, self.chunk - self.k, None]
        above, equal = size > least, size == least
        room = self.k - above.sum(axis=1, keepdims=True)
        chosen = (above | (equal & (np.cumsum(equal, axis=1) <= room))) & (size > 0)
        row, column = np.nonzero(chosen)
        starts = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))[:-1]])
        return row, column, np.arange(row.size) - starts[row]

    def _encode_rows(self, scales: Scales, rows: Array) -> bytes:
        x = rows.astype(scales.work, copy=False)
        if not np.isfinite(x).all():
            raise EncodingError(f"{self.name}: values are not finite")
        row, column, slot = self._select(x)
        kept = np.zeros((len(x), self.k), dtype=x.dtype)
        kept[row, slot] = x[row, column]
        count = np.bincount(row, minlength=len(x))
        index, scale = self._quantise(scales, kept, count)
        keep = (slot >= 0) & (scale[row] > 0)
        row, column, slot = row[keep], column[keep], slot[keep]
        index[np.arange(self.k) >= count[:, None]] = 0
        high = np.zeros((len(x), 2 * self.k), dtype=np.uint8)
        high[row, (column >> self._low_bits) + slot] = 1
        low = np.zeros((len(x), self.k, self._low_bits), dtype=np.uint8)
        low[row, slot] = (column[:, None] >> np.arange(self._low_bits)) & 1
        head = np.empty((len(x), 2), dtype="<u2")
        head[:, 0], head[:, 1] = scales.to_wire(scale), np.where(scale > 0, count, 0)
        fields = [
            head.view(np.uint8),
            np.packbits(low.reshape(len(x), -1), axis=1, bitorder="little"),
            np.packbits(high, axis=1, bitorder="little"),
            pack(self.levels.bits, index.reshape(-1)).reshape(len(x), -1),
        ]
        return np.concatenate(fields, axis=1).tobytes()

    def _quantise(self, scales: Scales, kept: Array, count: Array) -> tuple[npt.NDArray[np.int8], Array]:
        """As `blocks.quantise`; unused slots repeat the first entry so that they do not sway the scale."""
        unused = np.arange(self.k) >= count[:, None]
        return quantise(self.levels, scales, np.where(unused, kept[:, :1], kept))

    def _entries(
        self, scales: Scales, payload: bytes | memoryview, count: int
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Positions, levels and scales of all entries, in groups, having checked every rule of the encoding."""
        records = np.frombuffer(payload, dtype=np.uint8).reshape(-1, self._record)
        for first in range(0, len(records), GROUP):
            yield self._decode_rows(scales, records[first : first + GROUP], first, count)

    def _decode_rows(
        self, scales: Scales, records: Bytes, first: int, total: int
    ) -> tuple[Array, Array, Array]:
        head = np.ascontiguousarray(records[:, :4]).view("<u2")
        scale, count = scales.from_wire(head[:, 0], self.levels.top), head[:, 1].astype(np.int64)
        cut_low = 4 + self.k * self._low_bits // 8
        cut_high = cut_low + self.k // 4
        low = np.unpackbits(records[:, 4:cut_low], axis=1, bitorder="little")
        high = np.unpackbits(records[:, cut_low:cut_high], axis=1, bitorder="little")
        index = unpack(self.levels.bits, np.ascontiguousarray(records[:, cut_high:]).reshape(-1)).reshape(
            -1, self.k
        )
        if (count > self.k).any() or (high.sum(axis=1) != count).any() or ((scale > 0) != (count > 0)).any():
            raise EncodingError(f"{self.name}: a record's counts contradict each other")
        used = np.arange(self.k) < count[:, None]
        lows = low.reshape(len(records), self.k, self._low_bits) @ (1 << np.arange(self._low_bits))
        row, place = np.nonzero(high)
        slot = np.nonzero(used)[1]
        column = ((place - slot) << self._low_bits) | lows[row, slot]
        position = (first + row) * self.chunk + column
        if (position[1:] <= position[:-1]).any() or (position >= total).any() or (place < slot).any():
            raise EncodingError(f"{self.name}: positions do not increase or lie outside")
        if lows[~used].any() or index[~used].any():
            raise EncodingError(f"{self.name}: an unused field is not zero")
        level = self.levels.level(index.astype(np.int16))
        reached = np.where(used, np.abs(level), 0).max(axis=1)
        if not (scales.is_canonical(scale, reached, self.levels.top) | (count == 0)).all():
            raise EncodingError(f"{self.name}: a record is not canonically scaled")
        return position, level[row, slot], scale[row]
