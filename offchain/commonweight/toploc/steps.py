"""Did this segment's computation happen? Linear sketches of what it changed, and random chunks of where it ended.

A trainer commits, per segment, a sketch of the parameter delta and of both moments after it (CountSketch, Charikar,
Chen and Farach-Colton 2002, with signs shared within groups of 256 so that it is one small matrix product). A checker
replays the segment from the trainer's own pre-state. Inside one numeric profile the end state is equal bit for bit and
the sketch is not even needed; across profiles the relative distance of the sketches estimates the relative L2 distance
of the states, from 1.5 kB instead of 12 bytes a parameter. Sketches are linear: those of all segments must add up to
that of the whole work. Who knows a sketch's signs can hide a vector in its null space, but must change the state
somewhere for that: chunks of the end state, drawn after the commitment, are compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..core import merkle, seeds
from ..core.errors import EncodingError
from ..core.hashing import tagged
from .noise import mix, token_steps

Vector = npt.NDArray[np.float32]
ROWS, BUCKETS, GROUP, CLASSES = 4, 32, 256, 8
SIZE = ROWS * BUCKETS
SKETCH_BYTES = 3 * SIZE * 4
WEIGHTS = (1.0, 0.9, 2.95)
"""Of delta, first moment and root of the second in a distance: the inverse of how far honest machines differ in each
where that is hardest to tell from cheating (bf16, ten steps of a policy gradient: 0.83, 0.93 and 0.28 %)."""
FAR = 1e9
"""Distance from something to nothing: as far as it gets, but finite."""
CHUNK_SLACK = 32.0
"""How far a single chunk may exceed the share of the tolerated distance that would be its own."""


@dataclass(frozen=True, slots=True)
class State:
    """Parameters and both Adam moments, float32 ``(n,)`` each."""

    theta: Vector
    m: Vector
    v: Vector


@dataclass(frozen=True, slots=True)
class Sketch:
    """Sketches of the parameter delta, the first moment and the root of the second, float32 ``(SIZE,)`` each."""

    delta: Vector
    m: Vector
    root_v: Vector

    def encode(self) -> bytes:
        """`SKETCH_BYTES` bytes: little-endian float32."""
        return np.concatenate((self.delta, self.m, self.root_v)).astype("<f4").tobytes()

    @staticmethod
    def decode(data: bytes) -> Sketch:
        """Strict inverse of `encode`. Raises `EncodingError` for another length and values that are not finite."""
        if len(data) != SKETCH_BYTES:
            raise EncodingError(f"a sketch has {SKETCH_BYTES} bytes, not {len(data)}")
        parts = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(3, SIZE)
        if not np.isfinite(parts).all():
            raise EncodingError("a sketch holds values that are not finite")
        return Sketch(*parts)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Signs within a group, one matrix per class of groups; bucket and sign of every group in every row."""

    within: npt.NDArray[np.float32]
    bucket: npt.NDArray[np.int64]
    sign: npt.NDArray[np.float64]


@lru_cache(maxsize=8)
def _plan(seed: bytes, count: int) -> _Plan:
    groups = -(-count // GROUP)
    key = np.uint64(int.from_bytes(tagged("sketch", seed)[:8], "big"))
    with np.errstate(over="ignore"):
        bits = mix(token_steps(CLASSES * GROUP * ROWS + groups * ROWS) + key)
    within = 1 - 2 * (bits[: CLASSES * GROUP * ROWS] >> np.uint64(63)).astype(np.float32)
    outer = bits[CLASSES * GROUP * ROWS :].reshape(groups, ROWS)
    bucket = (outer % np.uint64(BUCKETS)).astype(np.int64) + BUCKETS * np.arange(ROWS)
    return _Plan(
        within.reshape(CLASSES, GROUP, ROWS), bucket, 1.0 - 2 * (outer >> np.uint64(63)).astype(float)
    )


def sketch_vector(values: Vector, seed: bytes) -> Vector:
    """Linear sketch of one vector, float32 ``(SIZE,)``; its squared norm over `ROWS` estimates the vector's."""
    plan = _plan(seed, values.size)
    padded = np.zeros((len(plan.bucket), GROUP), dtype=np.float32)
    padded.reshape(-1)[: values.size] = values
    projected = np.empty((len(padded), ROWS))
    for c in range(CLASSES):
        projected[c::CLASSES] = padded[c::CLASSES] @ plan.within[c]
    projected *= plan.sign
    sums = np.bincount(plan.bucket.ravel(), projected.ravel(), minlength=SIZE)
    return sums.astype(np.float32)


def sketch(before: Vector, after: State, seed: bytes) -> Sketch:
    """What a segment did to the parameters ``before`` it, and the moments ``after`` it."""
    return Sketch(
        sketch_vector(after.theta - before, seed),
        sketch_vector(after.m, seed),
        sketch_vector(np.sqrt(after.v), seed),
    )


def relative(claimed: Vector, replayed: Vector) -> float:
    """L2 distance in units of the replayed vector's norm; `FAR` from a replayed zero to anything else."""
    apart = float(np.linalg.norm(claimed.astype(np.float64) - replayed))
    size = float(np.linalg.norm(replayed.astype(np.float64)))
    if apart == 0:
        return 0.0
    return min(apart / size, FAR) if size else FAR


def distance(claimed: Sketch, replayed: Sketch) -> float:
    """The largest relative distance of the three parts, each by its weight."""
    return max(
        WEIGHTS[0] * relative(claimed.delta, replayed.delta),
        WEIGHTS[1] * relative(claimed.m, replayed.m),
        WEIGHTS[2] * relative(claimed.root_v, replayed.root_v),
    )


def true_distance(before: Vector, claimed: State, replayed: State) -> float:
    """What `distance` estimates, from the whole states."""
    return max(
        WEIGHTS[0] * relative(claimed.theta - before, replayed.theta - before),
        WEIGHTS[1] * relative(claimed.m, replayed.m),
        WEIGHTS[2] * relative(np.sqrt(claimed.v), np.sqrt(replayed.v)),
    )


def adds_up(sketches: Sequence[Sketch], first: Vector, last: Vector, seed: bytes) -> bool:
    """The segments' deltas together are the way from ``first`` to ``last``, up to float32 rounding."""
    total = np.sum([s.delta.astype(np.float64) for s in sketches], axis=0)
    whole = sketch_vector(last - first, seed)
    # Rounding a parameter to float32 costs up to 2**-25 of it in each segment's delta.
    rounding = 2.0**-22 * len(sketches) * float(np.linalg.norm(last.astype(np.float64))) * ROWS
    apart = float(np.linalg.norm(total - whole))
    return apart <= 1e-4 * float(np.linalg.norm(whole.astype(np.float64))) + rounding


# -- chunks of the end state ------------------------------------------------------------------------------------


def draw_chunks(beacon: bytes, leaves: int, count: int) -> tuple[int, ...]:
    """Indices of ``count`` different leaves of a state artifact, ascending; ``beacon`` is younger than the state."""
    count = min(count, leaves)
    found: list[int] = []
    for draw in seeds.uniform(beacon, "chunk", 64 * count, leaves):
        if draw not in found:
            found.append(draw)
        if len(found) == count:
            break
    return tuple(sorted(found))


def chunk_bounds(before: Vector, replayed: State, tolerance: float) -> tuple[float, float, float]:
    """How far, in L2, one leaf of 256 values may be from the replay, for theta, m and v.

    A leaf's fair share of the tolerated distance, times `CHUNK_SLACK`.
    """
    share = CHUNK_SLACK * tolerance * float(np.sqrt(merkle.LEAF / 4 / replayed.theta.size))
    parts = (replayed.theta - before, replayed.m, np.sqrt(replayed.v))
    norms = [float(np.linalg.norm(part.astype(np.float64))) for part in parts]
    return share * norms[0], share * norms[1], share * norms[2]


def bad_chunk(
    claimed: bytes, replayed: bytes, indices: Sequence[int], bounds: tuple[float, float, float]
) -> int | None:
    """First of the leaves ``indices`` of two encoded states that are further apart than allowed, or None.

    ``claimed`` holds these leaves only, one after the other; ``replayed`` is the whole state: theta, m, v, padded to
    whole leaves each. The second moment is compared by its root.
    """
    each = len(replayed) // merkle.LEAF // 3
    for at, index in enumerate(indices):
        mine = np.frombuffer(replayed, "<f4", merkle.LEAF // 4, index * merkle.LEAF).astype(np.float64)
        theirs = np.frombuffer(claimed, "<f4", merkle.LEAF // 4, at * merkle.LEAF).astype(np.float64)
        part = index // each
        if part == 2:
            if (theirs < 0).any():
                return index
            mine, theirs = np.sqrt(mine), np.sqrt(theirs)
        # Not above the bound, so that NaN is bad too.
        if not float(np.linalg.norm(mine - theirs)) <= bounds[part]:
            return index
    return None


def open_chunks(state: bytes, indices: Sequence[int]) -> tuple[merkle.Opening, ...]:
    """The trainer's answer to drawn chunks: leaves of its committed state with their paths."""
    return tuple(merkle.open_leaf(state, index) for index in indices)


def judge_chunks(
    root: bytes,
    openings: Sequence[merkle.Opening],
    indices: Sequence[int],
    replayed: bytes,
    bounds: tuple[float, float, float],
) -> str:
    """What is wrong with opened chunks of the state ``root``; empty when nothing is."""
    if [opening.index for opening in openings] != list(indices):
        return "other chunks were opened than those that were drawn"
    if any(opening.length != len(replayed) or not merkle.verify_leaf(root, opening) for opening in openings):
        return "a chunk does not belong to the committed state"
    bad = bad_chunk(b"".join(opening.leaf for opening in openings), replayed, indices, bounds)
    return "" if bad is None else f"chunk {bad} of the state is not where the replay ends"
