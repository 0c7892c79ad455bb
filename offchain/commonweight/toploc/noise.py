"""Counter-based Gumbel noise: what a sampler adds to logits, and anybody can compute again for any single token.

Integers first, so that every machine agrees: with ``mix`` the finaliser of SplitMix64 (Steele, Lea and Flood, 2014;
constants of Stafford's variant 13) and all arithmetic modulo 2**64,

    key  = first 8 bytes, big-endian, of tagged("gumbel", seed)          one per sequence
    row  = mix(key + (position + 1) * GOLDEN)                            one per sampled token
    bits = mix(row + (token + 1) * GOLDEN)                               one per entry of the vocabulary
    v    = ((bits >> 12) + 1/2) * 2**-52, an exact float64 between 0 and 1
    g    = -log(-log(1 - v))

Everything up to ``1 - v`` is exact; two float64 logarithms follow, in which libraries differ by a few units in the last
place: g is the same to 1e-13 on every machine. `sampling` says what that means for the choice of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.hashing import tagged

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
_MASK = 2**64 - 1


def sequence_key(seed: bytes) -> int:
    """Noise key of one sequence from its seed, which the lease's on-chain seed fixes."""
    return int.from_bytes(tagged("gumbel", seed)[:8], "big")


def sequence_keys(seeds: Sequence[bytes]) -> Keys:
    """`sequence_key` of each seed, shape ``(n,)``."""
    return np.array([sequence_key(seed) for seed in seeds], dtype=np.uint64)


def mix(x: Keys) -> Keys:
    """SplitMix64's finaliser, elementwise and in place; returns ``x``."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(MIX_1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(MIX_2)
    x ^= x >> np.uint64(31)
    return x


def row_keys(keys: Keys, positions: npt.NDArray[Any]) -> Keys:
    """Noise keys of sampled tokens; ``keys`` and ``positions`` (0, 1, ... in each sequence) broadcast."""
    with np.errstate(over="ignore"):
        steps = (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        return mix(np.atleast_1d(np.asarray(keys, dtype=np.uint64) + steps))


def bits(rows: Keys, tokens: npt.NDArray[Any]) -> Keys:
    """The 52 random bits of each token of each row; ``rows`` and ``tokens`` broadcast."""
    with np.errstate(over="ignore"):
        steps = (np.asarray(tokens).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        return mix(np.atleast_1d(rows + steps)) >> np.uint64(12)


def gumbel(rows: Keys, tokens: npt.NDArray[Any]) -> Floats:
    """Noise of each token of each row, float64; ``rows`` and ``tokens`` broadcast."""
    v = (bits(rows, tokens).astype(np.float64) + 0.5) * 2.0**-52
    noise: Floats = -np.log(-np.log(1.0 - v))
    return noise


def gumbel_tensor(rows: Keys, vocab: int, device: torch.device) -> Tensor:
    """Noise of a whole vocabulary on a device, float64 ``(rows, vocab)``; equal to `gumbel` to 1e-13.

    torch has no unsigned 64-bit shifts, so the sign bit is masked away after an arithmetic one.
    """
    steps = _signed_steps(vocab).to(device)
    x = torch.from_numpy(np.ascontiguousarray(rows).view(np.int64)).to(device)[:, None] + steps
    x = (x ^ _shift(x, 30)) * _signed(MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(MIX_2)
    v = (_shift(x ^ _shift(x, 31), 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(1.0 - v))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _signed_steps(vocab: int) -> Tensor:
    return torch.from_numpy(token_steps(vocab).view(np.int64))


def token_steps(vocab: int) -> Keys:
    """``(token + 1) * GOLDEN`` of every token of a vocabulary."""
    with np.errstate(over="ignore"):
        return np.arange(1, vocab + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def _shift(x: Tensor, count: int) -> Tensor:
    return (x >> count) & ((1 << (64 - count)) - 1)
