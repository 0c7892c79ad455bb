"""Quantising codecs with one scale per block: int8, int4 and 2-bit, for floats and, exactly, for integer lanes.

Wire layout for ``n`` values: ``ceil(n / block)`` scales of 16 bits (little-endian), then ``ceil(n * bits / 8)``
bytes of two's-complement indices, least significant bits first, the last byte filled with zero bits.
Levels are ``i`` in ``-L..L`` for 8 and 4 bits and ``2 i + 1`` in ``-3..3`` for 2 bits: the uniform quantiser that
is within 1 % of Lloyd and Max's for Gaussian values (S. Lloyd, "Least squares quantization in PCM", 1982).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.errors import EncodingError
from .scales import FLOATS, LANES, Array, Scales

Bytes = npt.NDArray[np.uint8]
TILE = 1 << 16  # values worked on at once, so that temporaries stay in the cache


@dataclass(frozen=True, slots=True)
class Levels:
    """A uniform quantiser. ``fits`` are scales to try, as multiples of the block's mean magnitude."""

    bits: int
    top: int
    fits: tuple[float, ...] = ()
    odd: bool = False
    """Levels are ``2 i + 1``: there is no zero level."""

    def index(self, x: Array, scale: Array) -> Array:
        """Indices of ``x`` of shape ``(blocks, block)``, in the dtype of ``x``; half to even (odd levels: half up)."""
        safe = np.where(scale > 0, scale, 1)[:, None]
        if x.dtype == np.float64:  # lanes: a true quotient, so that ties are found exactly
            scaled = x / (safe * 2 if self.odd else safe)
        else:
            scaled = x * (np.float32(1) / (safe * np.float32(2) if self.odd else safe))
        if self.odd:
            np.floor(scaled, out=scaled)
            np.clip(scaled, -(self.top + 1) // 2, self.top // 2, out=scaled)
        else:
            np.rint(scaled, out=scaled)
            np.clip(scaled, -self.top, self.top, out=scaled)
        scaled[scale == 0] = 0
        return scaled

    def level(self, index: Array) -> Array:
        """Levels of indices, same dtype."""
        return index + index + 1 if self.odd else index

    def reached(self, index: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """Largest magnitude of a level in each row; 128 for the int8 code that is no level."""
        size = index ^ (index >> 7) if self.odd else np.abs(index)  # |2 i + 1| is 2 size + 1
        return self.level(_row_max(size.view(np.uint8)).astype(np.int16))


def _row_max(x: Array) -> Array:
    """Largest value of each row of a contiguous matrix: several times faster than a reduction along short rows."""
    return np.maximum.reduceat(x.reshape(-1), np.arange(0, x.size, x.shape[1]))


INT8, INT4 = Levels(8, 127), Levels(4, 7)
INT4_FITTED = Levels(4, 7, (0.44, 0.6))
TWO_BIT = Levels(2, 3, (0.624, 0.77), odd=True)
SIGNED_BYTE = Levels(8, 255, odd=True)
SIGNED_PAIR = Levels(2, 3, (1 / 3, 0.5, 0.75), odd=True)  # magnitudes of a top-k selection lie close together


def quantise(levels: Levels, scales: Scales, x: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Indices and scales of blocks ``x``, shape ``(blocks, block)``: of the scales tried, the best by square."""
    x = x.astype(scales.work, copy=False)
    scale = scales.covering(_row_max(np.abs(x)), levels.top)
    index = levels.index(x, scale)
    if scales.work is np.float64:
        short = ~scales.is_canonical(scale, levels.reached(index.astype(np.int8)), levels.top) & (scale > 0)
        if short.any():
            scale = np.where(short, scales.lower(scale), scale)
            index[short] = levels.index(x[short], scale[short])
    if levels.fits:
        index, scale = _fitted(levels, scales, x, index, scale)
    return index.astype(np.int8), scale


def _fitted(levels: Levels, scales: Scales, x: Array, index: Array, scale: Array) -> tuple[Array, Array]:
    """Replace blocks where another scale has a smaller squared error; a tie keeps the covering scale."""
    bound, mean = scale, np.abs(x).mean(axis=1)
    least = _error(levels, x, index, scale)
    for fit in levels.fits:
        other = scales.below(mean * scales.work(fit), bound)
        tried = levels.index(x, other)
        error = _error(levels, x, tried, other)
        better = error < least
        index[better] = tried[better]
        scale, least = np.where(better, other, scale), np.where(better, error, least)
    return index, scale


def _error(levels: Levels, x: Array, index: Array, scale: Array) -> Array:
    gap = x - levels.level(index) * scale[:, None]
    return np.einsum("ij,ij->i", gap, gap)


def pack(bits: int, index: npt.NDArray[np.int8]) -> Bytes:
    """Pack indices (a multiple of ``8 / bits`` of them) into bytes."""
    if bits == 8:
        return index.view(np.uint8)
    if bits == 4:
        pair = index.view("<u2")
        return ((pair & 0x0F) | ((pair >> 4) & 0xF0)).astype(np.uint8)
    four = index.view("<u4") & 0x03030303
    return ((four | four >> 6 | four >> 12 | four >> 18) & 0xFF).astype(np.uint8)


def unpack(bits: int, codes: Bytes) -> npt.NDArray[np.int8]:
    """Inverse of `pack`."""
    if bits == 8:
        return codes.view(np.int8)
    if bits == 4:
        pair = codes.astype("<u2")
        fields = ((pair | pair << 4) & 0x0F0F).view(np.int8)
    else:
        four = codes.astype("<u4")
        fields = ((four | four << 6 | four << 12 | four << 18) & 0x03030303).view(np.int8)
    sign = np.int8(1 << (bits - 1))
    return (fields ^ sign) - sign


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """A block-scaled codec; see the module. ``block`` is a multiple of 4."""

    name: str
    levels: Levels
    block: int
    exact: bool = True

    def size(self, count: int) -> int:
        """Bytes on the wire of ``count`` values."""
        return 2 * self._blocks(count) + -(-count * self.levels.bits // 8)

    def encode(self, values: npt.NDArray[np.float32]) -> bytes:
        """Float32 ``(n,)`` to bytes. Raises `EncodingError` on NaN, infinity and magnitudes above 2**118."""
        return self._encode(FLOATS, values)

    def decode(self, payload: bytes | memoryview, count: int) -> npt.NDArray[np.float32]:
        """Strict inverse of `encode`: exactly ``count`` values or `EncodingError`."""
        self._require_size(payload, count)
        out = np.empty(count, dtype=np.float32)
        for at, index, scale in self._tiles(FLOATS, payload, count):
            tile = self.levels.level(index).astype(np.float32)
            tile *= scale[:, None].astype(np.float32)
            out[at : at + tile.size] = tile.reshape(-1)[: count - at]
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
        for at, index, scale in self._tiles(LANES, payload, count):
            tile = self.levels.level(index).astype(np.int32) * scale[:, None].astype(np.int32)
            yield tile.reshape(-1)[: count - at]

    def _require_size(self, payload: bytes | memoryview, count: int) -> None:
        """Before anything is allocated for ``count`` values."""
        if count < 0 or len(payload) != self.size(count):
            raise EncodingError(
                f"{self.name}: {count} values have {self.size(count)} bytes, not {len(payload)}"
            )

    def _blocks(self, count: int) -> int:
        return -(-count // self.block)

    def _tile(self) -> int:
        return max(TILE // self.block, 1) * self.block

    def _encode(self, scales: Scales, values: Array) -> bytes:
        count, blocks = values.size, self._blocks(values.size)
        out = np.empty(self.size(count), dtype=np.uint8)
        wire, codes, bits = out[: 2 * blocks].view("<u2"), out[2 * blocks :], self.levels.bits
        whole, step = count // self.block * self.block, self._tile()
        for at in range(0, whole, step):
            part = values[at : min(at + step, whole)]
            index, scale = quantise(self.levels, scales, part.reshape(-1, self.block))
            wire[at // self.block :][: len(scale)] = scales.to_wire(scale)
            codes[at * bits // 8 :][: part.size * bits // 8] = pack(bits, index.reshape(-1))
        if whole < count:  # the rest is a shorter block of its own, so that padding sways no scale
            index, scale = quantise(self.levels, scales, values[whole:].reshape(1, -1))
            wire[-1:] = scales.to_wire(scale)
            padded = np.zeros(self.block, dtype=np.int8)
            padded[: count - whole] = index[0]
            target = codes[whole * bits // 8 :]
            target[:] = pack(bits, padded)[: target.size]
        return out.tobytes()

    def _tiles(
        self, scales: Scales, payload: bytes | memoryview, count: int
    ) -> Iterator[tuple[int, npt.NDArray[np.int8], Array]]:
        """Yield (offset, indices (rows, block), scales), having checked every rule of the encoding."""
        raw, blocks, step = np.frombuffer(payload, dtype=np.uint8), self._blocks(count), self._tile()
        wire, codes, bits = raw[: 2 * blocks].view("<u2"), raw[2 * blocks :], self.levels.bits
        for at in range(0, count, step):
            first, rows = at // self.block, self._blocks(min(step, count - at))
            part = codes[at * bits // 8 : (at + rows * self.block) * bits // 8]
            if part.size < rows * self.block * bits // 8:
                part = np.concatenate([part, np.zeros(rows * self.block * bits // 8 - part.size, np.uint8)])
            flat = unpack(bits, part)
            if flat[count - at :].any():
                raise EncodingError(f"{self.name}: the padding is not zero")
            index = flat.reshape(rows, self.block)
            scale = scales.from_wire(wire[first : first + rows], self.levels.top)
            self._check(scales, index, scale)
            yield at, index, scale

    def _check(self, scales: Scales, index: npt.NDArray[np.int8], scale: Array) -> None:
        """Every block holds what an encoder would write."""
        reached = self.levels.reached(index)
        if not self.levels.odd and reached.max(initial=0) > self.levels.top:
            raise EncodingError(f"{self.name}: a code is out of range")
        good = scales.is_canonical(scale, reached, self.levels.top)
        empty = scale == 0
        if empty.any():
            good = np.where(empty, ~index.any(axis=1), good)
        if not good.all():
            raise EncodingError(f"{self.name}: a block is not canonically scaled")
