"""An update in its wire codec. What a trainer commits to is the decode of the bytes that it sends, so the lanes that
the chain can look into and the few bytes that travel are one and the same update.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ..collectives.codecs import codec
from ..core import fixed
from ..core.errors import EncodingError
from ..core.fixed import Lanes
from .files import disk_errors, write_at
from .store import Store

LIMIT = 32_000
"""Largest lane that is quantised: its decode, which may be larger, still has 16 bits."""
_CARRIED = 2**30


@dataclass(frozen=True, slots=True)
class Packed:
    """Artifacts of one update: its lanes, their wire form and what that form dropped (both empty without a codec)."""

    lanes: bytes
    wire: bytes = b""
    residual: bytes = b""


def pack_update(through: str, lanes: Lanes, carried: Lanes | None = None) -> Packed:
    """Quantise an update of shape ``(n,)``, after adding the residual ``carried`` from an earlier one.

    Error feedback as in EF-SGD (arXiv 1901.09847), in integers. With the codec ``none`` nothing is dropped or carried.
    Raises `EncodingError` for lanes beyond 2**30, E1518 for an unknown codec.
    """
    if through == "none":
        return Packed(fixed.to_bytes(lanes))
    coder = codec(through)
    total = lanes.astype(np.int64)
    if carried is not None:
        total += carried
    wire = coder.encode_lanes(np.clip(total, -LIMIT, LIMIT).astype(np.int32))
    sent = coder.decode_lanes(wire, lanes.size)
    left = np.clip(total - sent, -_CARRIED, _CARRIED).astype(np.int32)
    return Packed(fixed.to_bytes(sent), wire, fixed.to_bytes(left))


def wire_size(through: str, count: int) -> int:
    """Bytes of an update of ``count`` lanes on the wire."""
    return 4 * fixed.padded(count) if through == "none" else codec(through).size(count)


def unpack_update(store: Store, through: str, wire: bytes, count: int, update: bytes) -> None:
    """Put the lanes behind wire bytes into the store, unpublished, one piece of them in memory at a time.

    `EncodingError` unless their root is ``update``; then nothing is kept. Total on hostile bytes. Raises E1404.
    """
    size = 4 * fixed.padded(count)
    with store.draft(size) as draft:
        at = 0
        with disk_errors(store.folder):
            os.ftruncate(draft.handle, size)
            for lanes in codec(through).lane_tiles(wire, count):
                write_at(draft.handle, lanes.astype("<i4").tobytes(), at)
                at += 4 * lanes.size
        manifest = draft.hashed()
        if manifest.root != update:
            raise EncodingError(f"these wire bytes are not update {update.hex()}")
        draft.keep(False, manifest)
