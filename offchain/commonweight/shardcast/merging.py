"""The merge of a round on artifacts of any size: span by span, from store to store, in bounded memory.

The outer step works lane by lane, so any cut into spans gives the bits of `core.fixed.merge`. A span is one shard of
lanes. In memory are at most three spans of the version, one update's span for a mean, all updates' spans for a
trimmed mean (see `memory_bound`). The chain can refute a single lane and knows of no end of the weights, so everything
is as it computes: padding takes part, and a lane of an update beyond 16 bits counts as the largest one of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core import fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import Lanes, ModelVersion
from ..core.spec import MergeSpec
from .files import write_at
from .store import Store

SPAN = merkle.SHARD // 4
"""Lanes worked on at once."""
TILE = 1 << 16
"""Lanes that arithmetic touches at once, so that temporaries stay in the cache."""


@dataclass(frozen=True, slots=True)
class Part:
    """One update of a merge: the artifact of its lanes, and by how many bits it is discounted for being late."""

    update: bytes
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a merge is, in lanes of the model."""

    done: int
    of: int


def memory_bound(parts: int, trim: int = 0) -> int:
    """Bytes of arrays that `merge_stored` holds at most, whatever the size of the model."""
    spans = 4 + 2 + (parts if trim else 2)  # weights, momentum and their successors; an int64 sum; updates
    return spans * 4 * SPAN + 16 * TILE * (parts if trim else 8)


def merge_stored(
    store: Store,
    base: bytes,
    parts: Sequence[Part],
    count: int,
    rule: MergeSpec,
    trim: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> bytes:
    """Merge the ``parts`` into version ``base`` of ``count`` parameters; returns the root of the new version.

    Everything is read from the store, verified, and written to it. Raises E1101 for artifacts that are no updates
    of this model, E1404 when the disk is full, E1403 and E1408 as the store does.
    """
    half = 4 * fixed.padded(count)
    _require(store, base, 2 * half, "model version")
    for part in parts:
        _require(store, part.update, half, "update")
    if not parts:
        return base
    with store.draft(2 * half) as draft:
        lanes = fixed.padded(count)
        for at in range(0, lanes, SPAN):
            end = min(at + SPAN, lanes)
            merged = _span(store, base, parts, half, (at, end), rule, trim)
            write_at(draft.handle, fixed.to_bytes(merged.weights), 4 * at)
            write_at(draft.handle, fixed.to_bytes(merged.momentum), half + 4 * at)
            on_progress(Progress(min(end, count), count))
        return draft.keep()


def _span(
    store: Store,
    base: bytes,
    parts: Sequence[Part],
    half: int,
    span: tuple[int, int],
    rule: MergeSpec,
    trim: int,
) -> ModelVersion:
    at, end = span
    weights = _lanes(store, base, 4 * at, end - at).copy()
    momentum = _lanes(store, base, half + 4 * at, end - at).copy()

    def updates() -> Iterator[Lanes]:
        for part in parts:
            lanes = _lanes(store, part.update, 4 * at, end - at)
            if max(int(lanes.max()), -int(lanes.min())) > fixed.UPDATE_LIMIT:
                lanes = np.clip(lanes, -fixed.UPDATE_LIMIT, fixed.UPDATE_LIMIT)
            yield fixed.discounted(lanes, part.staleness) if part.staleness else lanes

    held = list(updates()) if trim else None
    total = None if held is not None else _sum(updates(), end - at)
    for lo in range(0, end - at, TILE):
        hi = min(lo + TILE, end - at)
        if held is not None:
            step = fixed.gradient([lanes[lo:hi] for lanes in held], rule, trim)
            assert step is not None
        else:
            assert total is not None
            step = (total[lo:hi].astype(np.int64) << rule.update_shift) // len(parts)
        tile = fixed.outer_step(ModelVersion(weights[lo:hi], momentum[lo:hi]), step, rule)
        weights[lo:hi], momentum[lo:hi] = tile.weights, tile.momentum
    return ModelVersion(weights, momentum)


def _sum(updates: Iterator[Lanes], size: int) -> Lanes:
    """Exact in 32 bits: lanes have 16, and a merge has far fewer than 2**16 parts."""
    total = np.zeros(size, dtype=np.int32)
    for update in updates:
        total += update
    return total


def _lanes(store: Store, root: bytes, offset: int, lanes: int) -> Lanes:
    data = store.read_range(root, offset, 4 * lanes)
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def _require(store: Store, root: bytes, length: int, what: str) -> None:
    found = store.length(root)
    if found != length:
        raise EncodingError(f"{what} {root.hex()} has {found} bytes, not {length}")


def require_version(got: bytes, expected: bytes) -> None:
    """Raise E1102 unless a merge gave the version that was expected."""
    if got != expected:
        raise CommonweightError(
            "E1102",
            f"merging gave version {got.hex()}, not {expected.hex()}",
            "its parts or its base are not those of that version; fetch it whole",
        )
