"""Compression of what workers exchange: the collectives' codecs over integer lanes, with error feedback on both sides.

Error feedback (`collectives.codecs.Feedback`) adds what a codec lost to the next message, so that nothing is lost for
good. Workers do it for what they send up, shard owners for the merged gradient that they send down (as in double
squeeze, arXiv 1905.05957).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..collectives.codecs import Codec, Feedback, codec
from ..core.errors import EncodingError
from .rounds import Int64

LIMIT = 2**30
_FLOAT_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Compressor:
    """A codec over lanes: bytes decode to the same integers on every machine. ``bits``: binary places of a lane.

    A codec without an integer face (fp16) gets one here: a lane is rounded to the codec's float, and back to a lane.
    """

    codec: Codec
    bits: int = 24

    @staticmethod
    def named(name: str, bits: int = 24) -> Compressor:
        """The codec ``name`` of the registry. Raises E1518 when there is none."""
        return Compressor(codec(name), bits)

    @property
    def name(self) -> str:
        """The codec's name."""
        return self.codec.name

    def encode(self, lanes: Int64) -> bytes:
        """Int64 lanes ``(n,)``, clipped to 30 bits, to bytes."""
        clipped = np.clip(lanes, -LIMIT, LIMIT).astype(np.int32)
        if self.codec.exact:
            return self.codec.encode_lanes(clipped)
        return self.codec.encode((clipped * 2.0**-self.bits).astype(np.float32))

    def decode(self, payload: bytes, count: int) -> Int64:
        """Exactly ``count`` int64 lanes, or `EncodingError`."""
        if self.codec.exact:
            return self.codec.decode_lanes(payload, count).astype(np.int64)
        scaled = np.rint(self.codec.decode(payload, count).astype(np.float64) * 2.0**self.bits)
        if (np.abs(scaled) > _FLOAT_LIMIT).any():
            raise EncodingError(f"{self.name}: a value does not fit the fixed-point range")
        return scaled.astype(np.int64)

    def step(self, feedback: Feedback, lanes: Int64) -> tuple[bytes, Feedback]:
        """Payload of ``lanes`` plus what was left over before, and what is left over now."""
        carried = (feedback.residual.astype(np.int64) * feedback.decay) >> 8
        wanted = np.clip(carried + lanes, -LIMIT, LIMIT)
        payload = self.encode(wanted)
        left = np.clip(wanted - self.decode(payload, lanes.size), -LIMIT, LIMIT)
        return payload, Feedback(left.astype(np.int32), feedback.decay)


class ErrorFeedback:
    """The memory of one sender for a vector sent in parts. A round that failed can be taken back."""

    def __init__(self, compressor: Compressor, count: int, decay: int = 256) -> None:
        self.compressor = compressor
        self.state = self._before = Feedback.start(count, exact=True, decay=decay)

    def encode(self, lanes: Int64, bounds: Sequence[tuple[int, int]]) -> list[bytes]:
        """Encode the parts ``[begin, end)`` of ``lanes`` one by one; only they touch the memory."""
        self._before = self.state
        residual, out = self.state.residual.copy(), []
        for begin, end in bounds:
            part = Feedback(residual[begin:end], self.state.decay)
            payload, left = self.compressor.step(part, lanes[begin:end])
            residual[begin:end] = left.residual
            out.append(payload)
        self.state = Feedback(residual, self.state.decay)
        return out

    def roll_back(self) -> None:
        """Forget the last `encode`: its messages were not used."""
        self.state = self._before
