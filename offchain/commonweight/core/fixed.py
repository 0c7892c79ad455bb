"""Consensus arithmetic: canonical int32 fixed-point weights, quantised integer updates, the integer outer step.

Everything here is exact, so any machine gets the same bits and the EVM can repeat a single lane.
Weights: ``value = lane * 2**-weight_bits``. Update lanes are the pseudo-gradient ``base - trained`` in units of
``2**(update_shift - weight_bits)``, at most 16 bits. Outer step: Nesterov momentum as in DiLoCo
(arXiv 2311.08105, section 2) with rational coefficients and floor division.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import merkle
from .errors import EncodingError
from .spec import MergeSpec

Lanes = npt.NDArray[np.int32]
LANES_PER_LEAF = merkle.LEAF // 4
UPDATE_LIMIT = 2**15 - 1
_MIN, _MAX = -(2**31), 2**31 - 1


def padded(count: int) -> int:
    """Lanes of a tensor padded to whole leaves."""
    return -(-count // LANES_PER_LEAF) * LANES_PER_LEAF


def to_bytes(lanes: Lanes) -> bytes:
    """Little-endian lanes, zero-padded to a whole leaf."""
    out = np.zeros(padded(lanes.size), dtype="<i4")
    out[: lanes.size] = lanes
    return out.tobytes()


def from_bytes(data: bytes, count: int) -> Lanes:
    """Strict inverse of `to_bytes` for ``count`` lanes. Raises `EncodingError`."""
    if len(data) != 4 * padded(count):
        raise EncodingError(f"{count} lanes have {4 * padded(count)} bytes, not {len(data)}")
    lanes = np.frombuffer(data, dtype="<i4").astype(np.int32)
    if lanes[count:].any():
        raise EncodingError("padding lanes are not zero")
    return lanes[:count]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One canonical model version: int32 weights and outer momentum, shape ``(n,)`` each."""

    weights: Lanes
    momentum: Lanes

    def encode(self) -> bytes:
        """Artifact bytes: weights, then momentum, each padded to whole leaves."""
        return to_bytes(self.weights) + to_bytes(self.momentum)

    @property
    def root(self) -> bytes:
        """The version's name."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes, count: int) -> ModelVersion:
        """Strict inverse of `encode` for a model of ``count`` parameters."""
        half = 4 * padded(count)
        if len(data) != 2 * half:
            raise EncodingError(f"a version of {count} parameters has {2 * half} bytes, not {len(data)}")
        return ModelVersion(from_bytes(data[:half], count), from_bytes(data[half:], count))


def quantise_weights(values: npt.NDArray[np.float32], bits: int) -> Lanes:
    """Round float weights to lanes (half to even). Raises `EncodingError` on NaN, infinity or overflow."""
    scaled = np.rint(values.astype(np.float64) * 2.0**bits)
    if not np.isfinite(scaled).all() or (np.abs(scaled) > _MAX).any():
        raise EncodingError("weights are not finite or do not fit the fixed-point range")
    return scaled.astype(np.int32)


def dequantise_weights(lanes: Lanes, bits: int) -> npt.NDArray[np.float32]:
    """Float32 weights that every trainer of a round starts from."""
    return (lanes.astype(np.float64) * 2.0**-bits).astype(np.float32)


def make_update(base: Lanes, trained: npt.NDArray[np.float32], merge: MergeSpec) -> Lanes:
    """Quantised pseudo-gradient ``base - trained``, shape ``(n,)``: nearest unit (half up), clamped to 16 bits."""
    delta = base.astype(np.int64) - quantise_weights(trained, merge.weight_bits)
    half = (1 << merge.update_shift) >> 1
    units = np.clip((delta + half) >> merge.update_shift, -UPDATE_LIMIT, UPDATE_LIMIT)
    lanes: Lanes = units.astype(np.int32)
    return lanes


def decode_update(data: bytes, count: int) -> Lanes:
    """Strictly decode an update artifact. Raises `EncodingError` when a lane exceeds 16 bits."""
    lanes = from_bytes(data, count)
    if (np.abs(lanes.astype(np.int64)) > UPDATE_LIMIT).any():
        raise EncodingError("an update lane exceeds 16 bits")
    return lanes


def accepted(data: bytes, late: bool) -> Lanes:
    """An update as it is merged, padding included: lanes clamped to 16 bits, a late one shifted right by one."""
    lanes = np.clip(np.frombuffer(data, dtype="<i4"), -UPDATE_LIMIT, UPDATE_LIMIT).astype(np.int32)
    return discounted(lanes, int(late))


def merge(version: ModelVersion, updates: Iterable[Lanes], rule: MergeSpec) -> ModelVersion:
    """The integer outer step over the accepted updates of a round; no update leaves the version unchanged.

    ``g = floor(sum(updates) << shift / n)``; ``m' = floor(b_n m / b_d) + g``;
    ``w' = w - floor(l_n (g + floor(b_n m' / b_d)) / l_d)``; results saturate to int32. With ``rule.trim`` that many
    percent of the updates are left out at either end of each lane.
    """
    trim = 0
    if rule.trim:
        updates = list(updates)
        trim = len(updates) * rule.trim // 100
    merged = gradient(updates, rule, trim)
    return version if merged is None else outer_step(version, merged, rule)


def outer_step(version: ModelVersion, gradient: npt.NDArray[np.int64], rule: MergeSpec) -> ModelVersion:
    """The Nesterov part of `merge`, for a merged gradient of shape ``(n,)`` in weight lanes."""
    momentum = _decay(version.momentum.astype(np.int64), rule) + gradient
    step = rule.lr_num * (gradient + _decay(momentum, rule)) // rule.lr_den
    return ModelVersion(_saturate(version.weights - step), _saturate(momentum))


def discounted(update: Lanes, staleness: int) -> Lanes:
    """A late update as it enters a later round: lanes shifted right by ``staleness`` bits, rounding down."""
    lanes: Lanes = update >> min(max(staleness, 0), 31)
    return lanes


def gradient(updates: Iterable[Lanes], rule: MergeSpec, trim: int = 0) -> npt.NDArray[np.int64] | None:
    """Merged gradient of updates of shape ``(n,)``, in weight lanes; None when there is none.

    Mean: ``floor(sum << shift / n)``, one update in memory at a time. With ``trim`` the ``trim`` largest and
    smallest values of each lane are left out (coordinate-wise trimmed mean, Yin et al., arXiv 1803.01498), which
    holds all updates at once. Raises `EncodingError` when that leaves nothing.
    """
    if trim:
        return _trimmed(list(updates), rule, trim)
    total: npt.NDArray[np.int64] | None = None
    n = 0
    for update in updates:
        total = update.astype(np.int64) if total is None else np.add(total, update, out=total)
        n += 1
    return None if total is None else (total << rule.update_shift) // n


def _trimmed(updates: list[Lanes], rule: MergeSpec, trim: int) -> npt.NDArray[np.int64] | None:
    n = len(updates) - 2 * trim
    if not updates:
        return None
    if n <= 0:
        raise EncodingError(f"trimming {trim} of {len(updates)} updates at each end leaves none")
    kept = np.sort(np.stack(updates), axis=0)[trim : trim + n]
    total: npt.NDArray[np.int64] = kept.sum(axis=0, dtype=np.int64)
    return (total << rule.update_shift) // n


def _decay(momentum: npt.NDArray[np.int64], rule: MergeSpec) -> npt.NDArray[np.int64]:
    return rule.momentum_num * momentum // rule.momentum_den


def _saturate(lanes: npt.NDArray[np.int64]) -> Lanes:
    return np.clip(lanes, _MIN, _MAX).astype(np.int32)
