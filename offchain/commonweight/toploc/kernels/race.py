"""Compiled twin of `sampling`'s race: the winner of Gumbel-max over whole vocabularies."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint64

from ...core.lanes import aligned

EXACT = {"cache": True, "nogil": True, "boundscheck": False, "error_model": "numpy"}

LANES = 256
_LN2 = math.log(2.0)
_GOLDEN = uint64(0x9E3779B97F4A7C15)


@njit(inline="always")
def _half_mixed(x):
    """`noise.mix` but for its last step, which leaves the upper half as it is."""
    x = uint64(x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    return uint64(x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)


@njit(inline="always")
def _upper(x):
    return np.float32(np.int32(x >> uint64(33)))


@njit(inline="always")
def _bound(mantissa, logit, factor):
    """A score or a little more; ``mantissa`` are the bits of `_upper` of the noise."""
    scale, offset = np.float32(-_LN2 / 2**23), np.float32(_LN2 * (127 + 31))
    return np.float32(mantissa) * scale + offset + logit * factor


@njit(inline="always")
def _score(logit, temperature, x):
    v = (float(uint64(x ^ (x >> uint64(31))) >> uint64(12)) + 0.5) * 2.0**-52
    return float(logit) / temperature - math.log(-math.log(1.0 - v))


@njit(**EXACT)
def _raise(logits, key, factor, steps, raw, mantissa, highest):
    """Lift ``highest``, one number a lane, to upper bounds of the scores of up to `LANES` tokens; how many are NaN.

    Bounds take the upper 31 bits of the noise. Loops without branches over what stays in the first cache run in lanes.
    """
    for t in range(logits.size):
        raw[t] = _upper(_half_mixed(uint64(key + steps[t])))
    odd = np.int32(0)
    for t in range(logits.size):
        bound = _bound(mantissa[t], logits[t], factor)
        odd += np.int32(bound != bound)
        highest[t] = bound if bound > highest[t] else highest[t]
    return odd


@njit(**EXACT)
def race(logits, rows, temperature):
    """Winner of each row's Gumbel-max and its score (NaN when the row is not finite), as `sampling` defines it.

    In a first pass only the highest bound of each lane is kept, of every `LANES`-th token; then the lanes that can
    hold the winner are gone through.
    """
    count, vocab = logits.shape
    tokens, scores = np.zeros(count, dtype=np.int64), np.full(count, np.nan)
    raw = aligned(4 * LANES).view(np.float32)
    highest = aligned(4 * min(LANES, vocab)).view(np.float32)
    mantissa, factor = raw.view(np.int32), np.float32(1 / temperature)
    steps = np.arange(1, LANES + 1).astype(np.uint64) * _GOLDEN
    for r in range(count):
        row, key, odd = logits[r], uint64(rows[r]), 0
        highest[:] = -np.inf
        for first in range(0, vocab, LANES):
            part = row[first : first + LANES]
            odd += _raise(part, uint64(key + uint64(first) * _GOLDEN), factor, steps, raw, mantissa, highest)
        leader = highest.argmax()
        if odd > 0 or not math.isfinite(highest[leader]):
            continue
        best, chosen, edge = -np.inf, 0, np.float32(-np.inf)
        for turn in range(-1, highest.size):
            lane = leader if turn < 0 else turn
            if highest[lane] < edge or (lane == leader and turn >= 0):
                continue
            for token in range(lane, vocab, LANES):
                noise = _half_mixed(uint64(key + uint64(token + 1) * _GOLDEN))
                raw[0] = _upper(noise)
                if _bound(mantissa[0], row[token], factor) >= edge:
                    score = _score(row[token], temperature, noise)
                    if score > best or (score == best and token < chosen):
                        best, chosen = score, token
                        edge = np.float32(best - 1e-3 * max(1.0, abs(best) / 64))
        tokens[r], scores[r] = chosen, best
    return tokens, scores
