"""The registry of codecs: how a vector of float32, or of integer lanes, becomes bytes for a link and comes back.

Names: ``none`` (float32), ``fp16``, ``int8``, ``int4``, ``2bit``, ``topk``, ``topk8``; with their parameters
``int8:BLOCK``, ``int4:BLOCK``, ``2bit:BLOCK``, ``topk:K/CHUNK``, ``topk8:K/CHUNK``. Every codec has a fixed size for a
count, is deterministic, and has exactly one encoding for what it decodes to: ``encode(decode(b)) == b`` for all ``b``
that `decode` accepts; everything else raises `EncodingError`. Codecs with ``exact`` also have an integer face whose
decode gives the same integers on every machine, so that a protocol update can be *defined* as the decode of the bytes
that were sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..core.errors import CommonweightError, EncodingError
from .blocks import INT4, INT4_FITTED, INT8, SIGNED_BYTE, SIGNED_PAIR, TILE, TWO_BIT, BlockCodec, Levels
from .sparse import TopKCodec

Floats = npt.NDArray[np.float32]
Lanes = npt.NDArray[np.int32]


class Codec(Protocol):
    """A vector codec; all arrays are one-dimensional and contiguous."""

    @property
    def name(self) -> str:
        """Name with parameters, as `codec` takes it."""

    @property
    def exact(self) -> bool:
        """Whether the codec has the integer face, `encode_lanes` and `decode_lanes`."""

    def size(self, count: int) -> int:
        """Bytes on the wire of ``count`` values."""

    def encode(self, values: Floats) -> bytes:
        """Float32 values to bytes; `EncodingError` for what the codec cannot hold."""

    def decode(self, payload: bytes | memoryview, count: int) -> Floats:
        """Exactly ``count`` finite values, or `EncodingError`. Total on hostile bytes."""

    def encode_lanes(self, lanes: Lanes) -> bytes:
        """Int32 lanes to bytes; `EncodingError` for what the codec cannot hold."""

    def decode_lanes(self, payload: bytes | memoryview, count: int) -> Lanes:
        """Exactly ``count`` lanes, the same on every machine, or `EncodingError`. Total on hostile bytes."""

    def lane_tiles(self, payload: bytes | memoryview, count: int) -> Iterator[Lanes]:
        """The same piece by piece, in order, so that large vectors need not be held at once."""


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """``none``: little-endian float32 or int32 as they are. ``fp16``: IEEE binary16, floats only."""

    name: str
    wire: str
    exact: bool

    def size(self, count: int) -> int:
        """Bytes on the wire of ``count`` values."""
        return count * np.dtype(self.wire).itemsize

    def encode(self, values: Floats) -> bytes:
        """Float32 ``(n,)`` to bytes. Raises `EncodingError` on NaN, infinity, and 65520 and more for fp16."""
        self._check(values)
        return values.astype(self.wire).tobytes()

    def decode(self, payload: bytes | memoryview, count: int) -> Floats:
        """Strict inverse of `encode`."""
        values = np.frombuffer(self._sized(payload, count), dtype=self.wire).astype(np.float32)
        self._check(values)
        return values

    def encode_lanes(self, lanes: Lanes) -> bytes:
        """Int32 ``(n,)`` to bytes."""
        self._require_exact()
        return lanes.astype("<i4").tobytes()

    def decode_lanes(self, payload: bytes | memoryview, count: int) -> Lanes:
        """Strict inverse of `encode_lanes`."""
        self._require_exact()
        return np.frombuffer(self._sized(payload, count), dtype="<i4").astype(np.int32)

    def lane_tiles(self, payload: bytes | memoryview, count: int) -> Iterator[Lanes]:
        """The same as one piece."""
        yield self.decode_lanes(payload, count)

    def _require_exact(self) -> None:
        if not self.exact:
            raise EncodingError(
                f"{self.name} has no integer lanes", "use none, int8, int4, 2bit, topk or topk8"
            )

    def _sized(self, payload: bytes | memoryview, count: int) -> bytes | memoryview:
        if count < 0 or len(payload) != self.size(count):
            raise EncodingError(
                f"{self.name}: {count} values have {self.size(count)} bytes, not {len(payload)}"
            )
        return payload

    def _check(self, values: Floats) -> None:
        limit = np.float32(
            65520 if self.wire == "<f2" else np.inf
        )  # from there on binary16 rounds to infinity
        for at in range(0, values.size, TILE):
            if not (np.abs(values[at : at + TILE]) < limit).all():
                raise EncodingError(f"{self.name}: a value is not finite or too large")


_MAKERS: dict[str, Callable[[str, tuple[int, ...]], Codec]] = {}


def _block(name: str, parameters: tuple[int, ...], default: int) -> int:
    block = parameters[0] if parameters else default
    if len(parameters) > 1 or not 8 <= block <= TILE or block % 8:
        raise _unknown(name)
    return block


def _unknown(name: str) -> CommonweightError:
    return CommonweightError(
        "E1518",
        f"no codec {name!r}",
        f"use one of {', '.join(CODECS)}, or with parameters int8:64, int4:1024, 2bit:1024, topk:64/4096",
    )


def _int4(name: str, parameters: tuple[int, ...]) -> Codec:
    """Large blocks choose among scales, which costs time and gains what the larger block loses."""
    block = _block(name, parameters, 128)
    return BlockCodec(name, INT4_FITTED if block >= 256 else INT4, block)


def _topk(name: str, parameters: tuple[int, ...], default: int, levels: Levels) -> Codec:
    k, chunk = parameters or (default, 4096)
    powers = all(n & (n - 1) == 0 for n in (k, chunk))
    if not (powers and 8 <= k <= chunk // 2 and chunk <= 65536):
        raise _unknown(name)
    return TopKCodec(name, k, chunk, levels)


_MAKERS.update(
    {
        "none": lambda name, _: PlainCodec(name, "<f4", exact=True),
        "fp16": lambda name, _: PlainCodec(name, "<f2", exact=False),
        "int8": lambda name, p: BlockCodec(name, INT8, _block(name, p, 64)),
        "int4": _int4,
        "2bit": lambda name, p: BlockCodec(name, TWO_BIT, _block(name, p, 1024)),
        "topk": lambda name, p: _topk(name, p, 64, SIGNED_PAIR),
        "topk8": lambda name, p: _topk(name, p, 256, SIGNED_BYTE),
    }
)
CODECS = tuple(_MAKERS)
_NAME = re.compile(
    r"(none|fp16)|(int8|int4|2bit)(?::([1-9]\d{0,4}))?|(topk8?)(?::([1-9]\d{0,4})/([1-9]\d{0,4}))?"
)


@lru_cache(maxsize=64)
def codec(name: str) -> Codec:
    """The codec of that name. Raises E1518 when there is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise _unknown(name)
    plain, blocked, block, sparse, k, chunk = match.groups()
    parameters = tuple(int(p) for p in (block, k, chunk) if p)
    return _MAKERS[plain or blocked or sparse](name, parameters)


@dataclass(frozen=True, slots=True)
class Feedback:
    """Error feedback (1-bit SGD, Seide et al. 2014; EF-SGD, arXiv 1901.09847): what a codec dropped is sent later.

    ``residual`` is float32, or int32 for the exact face, shape ``(n,)``. Immutable: to roll a message back that was
    never merged, keep the previous `Feedback`. ``decay`` (as a fraction of 256, so that lanes stay exact) scales the
    residual before it is added; SparseLoCo uses 0.95, that is 243.
    """

    residual: Floats | Lanes
    decay: int = 256

    @staticmethod
    def start(count: int, exact: bool = False, decay: int = 256) -> Feedback:
        """No residual."""
        if exact:
            return Feedback(np.zeros(count, dtype=np.int32), decay)
        return Feedback(np.zeros(count, dtype=np.float32), decay)

    def step(self, through: Codec, values: Floats) -> tuple[bytes, Floats, Feedback]:
        """(payload, what receivers decode, next feedback) for floats."""
        wanted: Floats = values + self.residual.astype(np.float32) * np.float32(self.decay / 256)
        payload = through.encode(wanted)
        sent = through.decode(payload, wanted.size)
        left: Floats = wanted - sent
        return payload, sent, Feedback(left, self.decay)

    def step_lanes(self, through: Codec, lanes: Lanes) -> tuple[bytes, Lanes, Feedback]:
        """(payload, what receivers decode, next feedback) for lanes; exact. Sums saturate at 2**30."""
        carried = (self.residual.astype(np.int64) * self.decay) >> 8
        wanted = np.clip(carried + lanes, -(2**30), 2**30).astype(np.int32)
        payload = through.encode_lanes(wanted)
        sent = through.decode_lanes(payload, wanted.size)
        return payload, sent, Feedback(wanted - sent, self.decay)

    def encode(self) -> bytes:
        """Canonical state bytes: 'f' or 'i', decay (u16), residual little-endian."""
        exact = self.residual.dtype == np.int32
        return (
            (b"i" if exact else b"f")
            + self.decay.to_bytes(2, "big")
            + self.residual.astype("<i4" if exact else "<f4").tobytes()
        )

    @staticmethod
    def decode(data: bytes, count: int) -> Feedback:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        decay = int.from_bytes(data[1:3], "big")
        if len(data) != 3 + 4 * count or data[:1] not in (b"f", b"i") or decay > 256:
            raise EncodingError(f"no error feedback of {count} values")
        raw = codec("none")
        if data[:1] == b"i":
            return Feedback(raw.decode_lanes(data[3:], count), decay)
        return Feedback(raw.decode(data[3:], count), decay)
