"""Block scales of the quantising codecs, 16 bits each: bfloat16 for floats, small integer floats for lanes.

Both families answer the same questions, so that one encoder serves floats (weights on a link) and lanes (protocol
updates, whose decode must give the same integers on every machine). A scale never has more than 8 significant
bits; hence ``level * scale`` is exact in float32, and an encoder finds the scale of decoded values again.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..core.errors import EncodingError

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.uint16]


class Scales(Protocol):
    """One family of scales. Arrays have one entry per block; ``top`` is the codec's largest level."""

    @property
    def work(self) -> type[Any]:
        """Dtype in which values are divided by scales: float32, or float64 for lanes."""

    def covering(self, peak: Array, top: int) -> Array:
        """The scale at which ``peak`` becomes level ``top``, 0 for an (almost) empty block; E1101 out of range."""

    def below(self, wanted: Array, bound: Array) -> Array:
        """Scales near ``wanted``, at most ``bound``, positive where ``bound`` is."""

    def lower(self, scale: Array) -> Array:
        """The next smaller scale."""

    def is_canonical(self, scale: Array, reached: Array, top: int) -> npt.NDArray[np.bool_]:
        """Whether an encoder would choose ``scale`` for blocks whose largest level is ``reached``."""

    def to_wire(self, scale: Array) -> Codes:
        """16-bit codes."""

    def from_wire(self, codes: Codes, top: int) -> Array:
        """Strict inverse of `to_wire`."""


class FloatScales:
    """bfloat16: the scale nearest to ``peak / top``; the largest value of a block always has the top level."""

    work: type[Any] = np.float32
    SMALLEST, LARGEST = np.float32(2.0**-100), np.float32(2.0**118)

    @staticmethod
    def _nearest(values: Array) -> Array:
        bits = values.astype(np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
            0xFFFF0000
        )
        return rounded.view(np.float32)

    def covering(self, peak: Array, top: int) -> Array:
        raw = peak.astype(np.float32) / np.float32(top)
        if not (raw <= self.LARGEST).all():
            raise EncodingError("values are not finite or too large to be quantised")
        return np.where(raw < self.SMALLEST, np.float32(0), self._nearest(raw))

    def below(self, wanted: Array, bound: Array) -> Array:
        near = self._nearest(np.maximum(wanted, self.SMALLEST))
        return np.minimum(near, bound)

    def lower(self, scale: Array) -> Array:
        return scale

    def is_canonical(self, scale: Array, reached: Array, top: int) -> npt.NDArray[np.bool_]:
        return reached == top

    def to_wire(self, scale: Array) -> Codes:
        return (scale.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    def from_wire(self, codes: Codes, top: int) -> Array:
        scale = (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
        fits = (scale >= self.SMALLEST) & (scale <= self.LARGEST)
        if not (fits | (codes == 0)).all():
            raise EncodingError("a block scale is out of range")
        return scale


class LaneScales:
    """Integers ``m << e`` with ``m < 256``, and ``m >= 128`` unless ``e = 0``; on the wire ``e << 8 | m``.

    The scale is the smallest that covers the peak, or the one below it where rounding leaves the top unused.
    """

    work: type[Any] = np.float64
    LIMIT = 2**31 - 1

    @staticmethod
    def _ceil(values: Array) -> Array:
        """Smallest scale at least as large as each positive integer."""
        wide = values.astype(np.int64)
        exponent = np.maximum(np.frexp(wide.astype(np.float64))[1] - 8, 0)
        up = (wide + (np.int64(1) << exponent) - 1) >> exponent
        return (up << exponent).astype(np.float64)  # 256 << e is 128 << (e + 1): no special case

    def covering(self, peak: Array, top: int) -> Array:
        need = np.ceil(peak.astype(np.float64) / top)
        scale = self._ceil(need)
        if not (scale * top <= self.LIMIT).all():
            raise EncodingError("lanes are too large to be quantised")
        return scale

    def below(self, wanted: Array, bound: Array) -> Array:
        return np.minimum(self._ceil(np.maximum(np.rint(wanted), 1)), bound)

    def lower(self, scale: Array) -> Array:
        wide = scale.astype(np.int64)
        exponent = np.maximum(np.frexp(scale)[1] - 8, 0)
        mantissa = wide >> exponent
        crosses = (mantissa == 128) & (exponent > 0)
        step = np.int64(1) << np.where(crosses, exponent - 1, exponent)
        return np.maximum(wide - step, 0).astype(np.float64)

    def is_canonical(self, scale: Array, reached: Array, top: int) -> npt.NDArray[np.bool_]:
        return reached * scale > top * self.lower(scale)

    def to_wire(self, scale: Array) -> Codes:
        wide = scale.astype(np.int64)
        exponent = np.maximum(np.frexp(scale)[1] - 8, 0)
        return ((exponent << 8) | (wide >> exponent)).astype(np.uint16)

    def from_wire(self, codes: Codes, top: int) -> Array:
        exponent, mantissa = (codes >> 8).astype(np.int64), (codes & 0xFF).astype(np.int64)
        if (exponent > 30).any() or ((exponent > 0) & (mantissa < 128)).any():
            raise EncodingError("a block scale is not canonical")
        scale = (mantissa << exponent).astype(np.float64)
        if (scale * top > self.LIMIT).any():
            raise EncodingError("a block scale is out of range")
        return scale


FLOATS, LANES = FloatScales(), LaneScales()
