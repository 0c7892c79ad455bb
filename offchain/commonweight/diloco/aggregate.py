"""Merging the pseudo-gradients of a round: mean, trimmed mean, median, clipping to the median norm, cosine filter.

All integer: lanes in, lanes out, weights (tokens seen) as integers. Norms and angles come from the exact integer Gram
matrix of the messages, so every member draws the same line between honest and not. Sources: coordinate-wise median and
trimmed mean (Yin et al., arXiv 1803.01498); clipping to the median norm as SparseLoCo's deployment does (arXiv
2508.15706); dropping what points against the rest follows FLTrust's rule (arXiv 2012.13995) without a trusted root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

from ..core.errors import CommonweightError

Int64 = npt.NDArray[np.int64]
Gram = list[list[int]]
ONE = 1 << 16
# Products of 16-bit halves stay below 2**32; 2**20 of them below 2**53, where float64 sums are exact in any order.
_CHUNK = 1 << 20


def gram_matrix(messages: Int64) -> Gram:
    """Exact inner products of ``messages`` int64 ``(k, n)``, entries within int32, as ``(k, k)`` Python integers.

    Summed over the shards of a vector it is the Gram matrix of the whole vector.
    """
    k, n = messages.shape
    out = [[0] * k for _ in range(k)]
    for begin in range(0, n, _CHUNK):
        part = messages[:, begin : begin + _CHUNK]
        high, low = (part >> 16).astype(np.float64), (part & 0xFFFF).astype(np.float64)
        hh, hl, ll = high @ high.T, high @ low.T, low @ low.T
        for i in range(k):
            for j in range(k):
                cross = int(hl[i, j]) + int(hl[j, i])
                out[i][j] += (int(hh[i, j]) << 32) + (cross << 16) + int(ll[i, j])
    return out


def add_grams(grams: Sequence[Gram]) -> Gram:
    """Sum of the partial Gram matrices of a vector's shards."""
    k = len(grams[0])
    return [[sum(g[i][j] for g in grams) for j in range(k)] for i in range(k)]


def weighted_mean(messages: Int64, weights: Sequence[int]) -> Int64:
    """``floor(sum w_i u_i / sum w_i)``: lanes ``(k, n)`` to ``(n,)``. Weights below 2**31."""
    total = sum(weights)
    if total <= 0:
        return np.zeros(messages.shape[1], dtype=np.int64)
    # Weights beyond 24 bits would overflow with 31-bit lanes; a common right shift keeps their ratios.
    shift = max(0, max(weights).bit_length() - 24)
    column = np.array([w >> shift for w in weights], dtype=np.int64)[:, None]
    mean: Int64 = (messages * column).sum(axis=0) // max(1, int(column.sum()))
    return mean


def trimmed_mean(messages: Int64, trim: int) -> Int64:
    """Mean without the ``trim`` largest and smallest values of each lane; at least one value stays."""
    k = messages.shape[0]
    trim = min(trim, (k - 1) // 2)
    kept = np.sort(messages, axis=0)[trim : k - trim]
    mean: Int64 = kept.sum(axis=0) // kept.shape[0]
    return mean


def median(messages: Int64) -> Int64:
    """Lane-wise median; of an even number the floor mean of the middle two."""
    return trimmed_mean(messages, (messages.shape[0] - 1) // 2)


def clip_factors(gram: Gram) -> list[int]:
    """Per message, ``min(1, median norm / norm)`` in units of 2**-16."""
    norms = [isqrt(gram[i][i]) for i in range(len(gram))]
    middle = sorted(norms)[(len(norms) - 1) // 2]
    return [ONE if n <= middle else ONE * middle // n for n in norms]


def cosine_filter(gram: Gram, factors: Sequence[int]) -> list[bool]:
    """Which messages stay: the worst one against the rest is dropped, again and again; at least half stay.

    One at a time, because an attacker in the sum can make honest messages look wrong until it is gone.
    """
    alive = list(range(len(gram)))
    while len(alive) > (len(gram) + 1) // 2:
        scores = []
        for i in alive:
            dot = sum(factors[j] * gram[i][j] for j in alive if j != i)
            norm = isqrt(gram[i][i]) + 1
            scores.append((dot // norm, i))
        worst, index = min(scores)
        if worst >= 0:
            break
        alive.remove(index)
    return [i in alive for i in range(len(gram))]


Rule = Callable[[Int64, Sequence[int], Gram], Int64]


def _mean(messages: Int64, weights: Sequence[int], gram: Gram) -> Int64:
    return weighted_mean(messages, weights)


def _norm_clip(messages: Int64, weights: Sequence[int], gram: Gram) -> Int64:
    factors = np.array(clip_factors(gram), dtype=np.int64)[:, None]
    return weighted_mean(messages * factors >> 16, weights)


def _clip_cosine(messages: Int64, weights: Sequence[int], gram: Gram) -> Int64:
    factors = clip_factors(gram)
    stay = cosine_filter(gram, factors)
    column = np.array(factors, dtype=np.int64)[:, None]
    kept = [w if s else 0 for w, s in zip(weights, stay, strict=True)]
    return weighted_mean(messages * column >> 16, kept)


def _trimmed(messages: Int64, weights: Sequence[int], gram: Gram) -> Int64:
    return trimmed_mean(messages, -(-messages.shape[0] // 4))


def _median(messages: Int64, weights: Sequence[int], gram: Gram) -> Int64:
    return median(messages)


RULES: dict[str, tuple[Rule, bool]] = {
    "mean": (_mean, False),
    "trimmed-mean": (_trimmed, False),
    "median": (_median, False),
    "norm-clip": (_norm_clip, True),
    "clip-cosine": (_clip_cosine, True),
}


@dataclass(frozen=True, slots=True)
class Aggregator:
    """A merge rule by name: ``mean``, ``trimmed-mean`` (a quarter off either side), ``median``, ``norm-clip`` or
    ``clip-cosine``.

    Trimmed mean and median ignore weights: a rank has none.
    """

    name: str = "clip-cosine"

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise CommonweightError(
                "E1704", f"there is no merge rule {self.name!r}", f"choose {', '.join(RULES)}"
            )

    @property
    def needs_gram(self) -> bool:
        """Whether the rule looks at norms and angles of whole vectors."""
        return RULES[self.name][1]

    def combine(self, messages: Int64, weights: Sequence[int], gram: Gram | None = None) -> Int64:
        """Lanes int64 ``(k, n)`` and ``k`` integer weights to merged lanes ``(n,)``; weight 0 means absent.

        ``gram`` is that of the whole vectors if ``messages`` are one shard of them; computed here if absent.
        """
        if gram is None:
            gram = gram_matrix(messages) if self.needs_gram else []
        there = [i for i, w in enumerate(weights) if w > 0]
        if not there:
            return np.zeros(messages.shape[1], dtype=np.int64)
        gram = [[gram[i][j] for j in there] for i in there] if gram else []
        return RULES[self.name][0](messages[there], [weights[i] for i in there], gram)
