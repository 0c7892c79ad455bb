"""Activation proofs: the k largest magnitudes of each chunk of hidden states, as one polynomial (arXiv 2501.16007).

Wire format of a proof, as the published `toploc` package has it: modulus, then k coefficients in ascending order,
2 bytes big-endian each. Ties are broken canonically: larger magnitude first, then smaller index. The decoder is
strict and total; unlike the package's verifier ours also compares signs and refuses values that are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.errors import EncodingError
from .field import Ints, P, evaluate, interpolate

Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class ProofStats:
    """The worst chunk of a proof list, per statistic; all zero for the very same activations."""

    chunks: int
    exponent_mismatches: int
    mantissa_mean: float
    sign_mismatches: int


def bf16_bits(hidden: Tensor) -> Bits:
    """Bit patterns of the values rounded to bfloat16, same shape. Raises `EncodingError` when one is not finite."""
    rounded = hidden.to(torch.bfloat16)
    if not bool(torch.isfinite(rounded).all()):
        raise EncodingError("activations are not finite")
    return rounded.contiguous().view(torch.int16).numpy().view(np.uint16)


def chunk_count(tokens: int, chunk: int) -> int:
    """Proofs of a sequence of ``tokens`` hidden states."""
    return -(-tokens // chunk)


def _chunks(hidden: Tensor, topk: int, chunk: int) -> Bits:
    """Rows of ``chunk * dim`` bit patterns, shape ``(chunks, chunk * dim)``; a short last row is filled with +0.

    The filler ranks behind every real value. Raises `EncodingError` when a row has fewer than ``topk`` real values.
    """
    bits = bf16_bits(hidden)
    tokens, dim = bits.shape
    count = chunk_count(tokens, chunk)
    if count == 0 or (tokens - (count - 1) * chunk) * dim < topk:
        raise EncodingError(f"{tokens} hidden states are too few for the top {topk} of each chunk of {chunk}")
    rows = np.zeros((count * chunk, dim), dtype=np.uint16)
    rows[:tokens] = bits
    return rows.reshape(count, chunk * dim)


def _top(rows: Bits, k: int) -> Ints:
    """Ascending indices of each row's k largest magnitudes, shape ``(chunks, k)``; among equals the smaller index."""
    size = rows.shape[1]
    ranked = (rows & 0x7FFF).astype(np.int64) * size + np.arange(size - 1, -1, -1)
    return np.sort(np.argpartition(ranked, size - k, axis=1)[:, size - k :], axis=1)


def injective_modulus(indices: Ints) -> int:
    """Largest modulus up to P under which the distinct ``indices`` stay distinct."""
    if int(indices.max()) < P:
        return P
    for modulus in range(P, 0, -1):
        if np.unique(indices % modulus).size == indices.size:
            return modulus
    raise EncodingError("no modulus keeps the indices apart")


def build(hidden: Tensor, topk: int, chunk: int) -> list[tuple[int, Ints]]:
    """(modulus, coefficients) of each chunk of ``hidden``, shape ``(tokens, dim)``."""
    rows = _chunks(hidden, topk, chunk)
    top = _top(rows, topk)
    moduli = [injective_modulus(indices) for indices in top]
    values = np.take_along_axis(rows, top, axis=1).astype(np.int64)
    return list(zip(moduli, interpolate(top % np.array(moduli)[:, None], values), strict=True))


def encode(proofs: list[tuple[int, Ints]]) -> bytes:
    """Proofs of one sequence of chunks, one after the other."""
    return b"".join(np.concatenate(([modulus], c)).astype(">u2").tobytes() for modulus, c in proofs)


def decode(data: bytes, topk: int, count: int) -> list[tuple[int, Ints]]:
    """Strict inverse of `encode` for exactly ``count`` proofs. Raises `EncodingError`."""
    size = 2 + 2 * topk
    if len(data) != count * size:
        raise EncodingError(f"{count} proofs have {count * size} bytes, not {len(data)}")
    rows = np.frombuffer(data, dtype=">u2").astype(np.int64).reshape(count, 1 + topk)
    if ((rows[:, 0] < 1) | (rows[:, 0] > P)).any() or (rows[:, 1:] >= P).any():
        raise EncodingError("a proof's modulus or coefficient is out of range")
    return [(int(row[0]), row[1:]) for row in rows]


def verify(hidden: Tensor, proofs: list[tuple[int, Ints]], topk: int, chunk: int) -> ProofStats:
    """Compare proofs with the verifier's own hidden states, at the verifier's own top indices.

    Raises `EncodingError` when the number of proofs is not the number of chunks.
    """
    rows = _chunks(hidden, topk, chunk)
    if len(rows) != len(proofs):
        raise EncodingError(f"{len(rows)} chunks need as many proofs, not {len(proofs)}")
    top = _top(rows, topk)
    own = np.take_along_axis(rows, top, axis=1).astype(np.int64)
    moduli = np.array([modulus for modulus, _ in proofs])[:, None]
    claimed = evaluate(np.stack([coefficients for _, coefficients in proofs]), top % moduli)
    exponent = (own >> 7 & 0xFF) != (claimed >> 7 & 0xFF)
    sign = (own >> 15) != (claimed >> 15)
    mantissa = np.where(exponent, 0, np.abs((own & 0x7F) - (claimed & 0x7F))).sum(axis=1)
    same = (~exponent).sum(axis=1)
    # Without one equal exponent there is nothing to average: the worst there is, as in the package.
    mean = np.where(same > 0, mantissa / np.maximum(same, 1), np.inf)
    return ProofStats(
        chunks=len(rows),
        exponent_mismatches=int(exponent.sum(axis=1).max()),
        mantissa_mean=float(mean.max()),
        sign_mismatches=int(sign.sum(axis=1).max()),
    )
