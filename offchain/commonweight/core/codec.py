"""Canonical binary encoding of small dataclasses: whatever is hashed or signed is encoded here.

Fixed layout in field order, big-endian integers, u16-length-prefixed strings, u32-counted tuples. The decoder
is strict, bounded and total: ``encode(decode(b)) == b`` or `EncodingError`.

Fields are annotated: ``Annotated[int, U64]``, ``Annotated[bytes, B32]``, ``str``, ``bool``, ``float`` (IEEE-754
binary64, finite, no negative zero), ``tuple[X, ...]`` of any of these, or a nested dataclass.
"""

from __future__ import annotations

import math
import struct
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import EncodingError

T = TypeVar("T")

MAX_STRING = 4096
MAX_ITEMS = 65_536


class U:
    """Unsigned integer of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


class Fixed:
    """Byte string of exactly ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


U8 = Annotated[int, U(1)]
U16 = Annotated[int, U(2)]
U32 = Annotated[int, U(4)]
U64 = Annotated[int, U(8)]
U256 = Annotated[int, U(32)]
B20 = Annotated[bytes, Fixed(20)]
B32 = Annotated[bytes, Fixed(32)]


@lru_cache(maxsize=256)
def _layout(cls: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple((f.name, hints[f.name]) for f in fields(cls))


def encode(value: Any) -> bytes:
    """Encode a dataclass. Raises `EncodingError` for a value that does not fit its declared field."""
    out = bytearray()
    _put(out, type(value), value, type(value).__name__)
    return bytes(out)


def decode(cls: type[T], data: bytes) -> T:
    """Decode exactly one ``cls`` from ``data``; anything malformed, truncated or trailing is an `EncodingError`."""
    value, end = _take(cls, data, 0, cls.__name__)
    if end != len(data):
        raise EncodingError(f"{len(data) - end} bytes follow the end of {cls.__name__}")
    return value  # type: ignore[no-any-return]


def _put(out: bytearray, kind: Any, value: Any, where: str) -> None:
    origin = get_origin(kind)
    if origin is Annotated:
        _put_marked(out, get_args(kind)[1], value, where)
    elif origin is tuple:
        if not isinstance(value, tuple) or len(value) > MAX_ITEMS:
            raise EncodingError(f"{where}: expected a tuple of at most {MAX_ITEMS} items")
        out += len(value).to_bytes(4, "big")
        for i, item in enumerate(value):
            _put(out, get_args(kind)[0], item, f"{where}[{i}]")
    elif kind is bool:
        if type(value) is not bool:
            raise EncodingError(f"{where}: expected a boolean, got {value!r}")
        out.append(value)
    elif kind is float:
        if type(value) is not float or not math.isfinite(value):
            raise EncodingError(f"{where}: expected a finite number, got {value!r}")
        out += struct.pack(">d", value + 0.0)
    elif kind is str:
        raw = value.encode() if isinstance(value, str) else None
        if raw is None or len(raw) > MAX_STRING:
            raise EncodingError(f"{where}: expected a string of at most {MAX_STRING} bytes")
        out += len(raw).to_bytes(2, "big") + raw
    elif is_dataclass(kind):
        for name, hint in _layout(kind):  # type: ignore[arg-type]
            _put(out, hint, getattr(value, name), f"{where}.{name}")
    else:
        raise TypeError(f"{where}: no encoding for {kind!r}")


def _put_marked(out: bytearray, mark: U | Fixed, value: Any, where: str) -> None:
    if isinstance(mark, U):
        if type(value) is not int or not 0 <= value < 1 << (8 * mark.size):
            raise EncodingError(f"{where}: expected an integer of {8 * mark.size} bits, got {value!r}")
        out += value.to_bytes(mark.size, "big")
    else:
        if not isinstance(value, bytes) or len(value) != mark.size:
            raise EncodingError(f"{where}: expected {mark.size} bytes")
        out += value


def _slice(data: bytes, at: int, size: int, where: str) -> bytes:
    if at + size > len(data):
        raise EncodingError(f"{where}: the data ends too early")
    return data[at : at + size]


def _take(kind: Any, data: bytes, at: int, where: str) -> tuple[Any, int]:
    origin = get_origin(kind)
    if origin is Annotated:
        mark = get_args(kind)[1]
        raw = _slice(data, at, mark.size, where)
        return (int.from_bytes(raw, "big") if isinstance(mark, U) else bytes(raw)), at + mark.size
    if origin is tuple:
        return _take_tuple(get_args(kind)[0], data, at, where)
    if kind is bool:
        raw = _slice(data, at, 1, where)
        if raw[0] > 1:
            raise EncodingError(f"{where}: {raw[0]} is no boolean")
        return raw[0] == 1, at + 1
    if kind is float:
        raw = _slice(data, at, 8, where)
        number = struct.unpack(">d", raw)[0]
        if not math.isfinite(number) or raw == b"\x80" + bytes(7):
            raise EncodingError(f"{where}: not a canonical finite number")
        return number, at + 8
    if kind is str:
        size = int.from_bytes(_slice(data, at, 2, where), "big")
        if size > MAX_STRING:
            raise EncodingError(f"{where}: a string of {size} bytes is too long")
        try:
            return _slice(data, at + 2, size, where).decode(), at + 2 + size
        except UnicodeDecodeError as error:
            raise EncodingError(f"{where}: not UTF-8") from error
    if is_dataclass(kind):
        values = {}
        for name, hint in _layout(kind):  # type: ignore[arg-type]
            values[name], at = _take(hint, data, at, f"{where}.{name}")
        return kind(**values), at  # type: ignore[operator]
    raise TypeError(f"{where}: no encoding for {kind!r}")


def _take_tuple(kind: Any, data: bytes, at: int, where: str) -> tuple[Any, int]:
    count = int.from_bytes(_slice(data, at, 4, where), "big")
    at += 4
    if count > MAX_ITEMS or count > len(data) - at:
        raise EncodingError(f"{where}: {count} items cannot fit")
    items = []
    for i in range(count):
        item, at = _take(kind, data, at, f"{where}[{i}]")
        items.append(item)
    return tuple(items), at
