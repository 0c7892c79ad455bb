"""Compiled twin of `sampling`'s race: the winner of Gumbel-max over whole vocabularies."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint64

EXACT = {"cache": True, "nogil": True, "boundscheck": False, "error_model": "numpy"}

LANES = 256
_LN2 = math.log(2.0)


@njit(inline="always")
def _mix(x):
    x = uint64(x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = uint64(x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return uint64(x ^ (x >> uint64(31))) >> uint64(12)


@njit(inline="always")
def _score(logit, temperature, bits):
    v = (float(bits) + 0.5) * 2.0**-52
    return float(logit) / temperature - math.log(-math.log(1.0 - v))


@njit(fastmath={"nnan", "nsz"}, **EXACT)
def _largest(block):
    """Largest of some numbers; that NaN may be ignored is what lets it run in lanes."""
    high = block[0]
    for j in range(block.size):
        high = max(high, block[j])
    return high


@njit(**EXACT)
def _bounds(row, key, temperature, noise, raw, mantissa, bound, highest):
    """Noise bits of every token, the upper bound of its score, and the highest bound of every `LANES` of them.

    True when no bound is NaN. Plain loops without branches, so that they run in lanes.
    """
    vocab = row.size
    scale, offset = np.float32(-_LN2 / 2**23), np.float32(_LN2 * (127 + 52))
    factor = np.float32(1 / temperature)
    for t in range(vocab):
        noise[t] = _mix(uint64(key + uint64(t + 1) * uint64(0x9E3779B97F4A7C15)))
    for t in range(vocab):
        raw[t] = np.float32(noise[t])
    for t in range(vocab):
        bound[t] = np.float32(mantissa[t]) * scale + offset + row[t] * factor
    odd = np.zeros(LANES, dtype=np.int32)
    for b in range(-(-vocab // LANES)):
        block = bound[b * LANES : (b + 1) * LANES]
        for j in range(block.size):
            odd[j] |= np.int32(block[j] != block[j])
        highest[b] = _largest(block)
    return odd.max() == 0


@njit(**EXACT)
def race(logits, rows, temperature):
    """Winner of each row's Gumbel-max and its score (NaN when the row is not finite), as `sampling` defines it."""
    count, vocab = logits.shape
    tokens = np.zeros(count, dtype=np.int64)
    scores = np.empty(count)
    noise = np.empty(vocab, dtype=np.uint64)
    raw, bound = np.empty(vocab, dtype=np.float32), np.empty(vocab, dtype=np.float32)
    mantissa = raw.view(np.int32)
    blocks = -(-vocab // LANES)
    highest = np.empty(blocks, dtype=np.float32)
    for r in range(count):
        row = logits[r]
        fine = _bounds(row, uint64(rows[r]), temperature, noise, raw, mantissa, bound, highest)
        at = highest.argmax()
        high = highest[at]
        if not fine or not math.isfinite(high):
            scores[r] = np.nan
            continue
        lead = at * LANES
        while bound[lead] != high:
            lead += 1
        best, chosen = _score(row[lead], temperature, noise[lead]), lead
        edge = np.float32(best - 1e-3 * max(1.0, abs(best) / 64))
        for b in range(blocks):
            if highest[b] >= edge:
                for t in range(b * LANES, min(vocab, (b + 1) * LANES)):
                    if bound[t] >= edge and t != lead:
                        score = _score(row[t], temperature, noise[t])
                        if score > best or (score == best and t < chosen):
                            best, chosen = score, t
        tokens[r], scores[r] = chosen, best
    return tokens, scores
