"""Compiled twins of what `topk`, `field` and `sampling` do in numpy; equal results, a few times sooner.

Arithmetic over GF(65497) stays in 32 bits: with 2**16 = 39 modulo 65497 a product is reduced by two folds
``(a & 0xffff) + 39 (a >> 16)``, which leave it below 2**16 + 1560, so that further products still fit.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit, uint32, uint64

from .field import P, inverses

WIDTH, NARROW = 64, 8
LANES = 256
_OPTIONS = {"cache": True, "nogil": True, "boundscheck": False, "error_model": "numpy"}
_LN2 = math.log(2.0)


@njit(inline="always")
def _fold(a):
    a = uint32(uint32(a & uint32(0xFFFF)) + uint32(uint32(39) * uint32(a >> uint32(16))))
    return uint32(uint32(a & uint32(0xFFFF)) + uint32(uint32(39) * uint32(a >> uint32(16))))


@njit(inline="always")
def _canonical(a):
    a = _fold(a)
    return uint32(a - uint32(P)) if a >= uint32(P) else a


# -- the k largest magnitudes -----------------------------------------------------------------------------------


@njit(inline="always")
def _maxima_of(row, width, maxima):
    full = row.size // width
    for b in range(full):
        best = np.uint16(0)
        for j in range(b * width, b * width + width):
            best = max(best, np.uint16(row[j] & np.uint16(0x7FFF)))
        maxima[b] = best
    if full * width < row.size:
        best = np.uint16(0)
        for j in range(full * width, row.size):
            best = max(best, np.uint16(row[j] & np.uint16(0x7FFF)))
        maxima[full] = best


@njit(**_OPTIONS)
def _block_maxima(row, width, maxima):
    """Largest magnitude of every ``width`` values; ``row`` uint16 ``(n,)``; a ragged tail is a block of its own."""
    # Written out, so that the loops have constant lengths and run in lanes.
    if width == WIDTH:
        _maxima_of(row, WIDTH, maxima)
    else:
        _maxima_of(row, NARROW, maxima)


@njit(**_OPTIONS)
def _kth(values, count, k, histogram):
    """(k-th largest of the first ``count`` 15-bit values, how many are larger), by two passes of counting."""
    histogram[:] = 0
    for i in range(count):
        histogram[values[i] >> 7] += 1
    above, high = 0, 255
    while above + histogram[high] < k:
        above += histogram[high]
        high -= 1
    histogram[:128] = 0
    for i in range(count):
        if values[i] >> 7 == high:
            histogram[values[i] & 0x7F] += 1
    low = 127
    while above + histogram[low] < k:
        above += histogram[low]
        low -= 1
    return (high << 7) + low, above


@njit(**_OPTIONS)
def _select(row, k, maxima, found, magnitudes, histogram, out):
    """Indices of the k largest magnitudes, ascending; among equals the smaller index."""
    n = row.size
    width = WIDTH if n >= 2 * k * WIDTH else NARROW
    blocks = -(-n // width)
    _block_maxima(row, width, maxima)
    # k blocks reach this bound, so the k-th largest value does too.
    bound = _kth(maxima, blocks, k, histogram)[0] if blocks >= k else 0
    count = 0
    for b in range(blocks):
        if maxima[b] >= bound:
            for j in range(b * width, min(n, b * width + width)):
                magnitude = np.uint16(row[j] & np.uint16(0x7FFF))
                if magnitude >= bound:
                    found[count] = j
                    magnitudes[count] = magnitude
                    count += 1
    last, above = _kth(magnitudes, count, k, histogram)
    ties = k - above
    at = 0
    for i in range(count):
        if magnitudes[i] > last or (magnitudes[i] == last and ties > 0):
            ties -= 1 if magnitudes[i] == last else 0
            out[at] = found[i]
            at += 1


@njit(**_OPTIONS)
def _sift(keys, ids, hole, size, key, index):
    """Heap of the smallest key on top: fill the hole from below, then let the new entry rise, as libstdc++ does."""
    top, child = hole, hole
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if keys[child] > keys[child - 1]:
            child -= 1
        keys[hole], ids[hole] = keys[child], ids[child]
        hole = child
    if size & 1 == 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        keys[hole], ids[hole] = keys[child - 1], ids[child - 1]
        hole = child - 1
    parent = (hole - 1) // 2
    while hole > top and keys[parent] > key:
        keys[hole], ids[hole] = keys[parent], ids[parent]
        hole = parent
        parent = (hole - 1) // 2
    keys[hole], ids[hole] = key, index


@njit(**_OPTIONS)
def _select_heap(row, k, maxima, keys, ids, out):
    """The k largest as torch's CPU top-k leaves them among equals (a partial sort), in any order."""
    n = row.size
    for i in range(k):
        keys[i], ids[i] = row[i] & 0x7FFF, i
    for parent in range((k - 2) // 2, -1, -1):
        _sift(keys, ids, parent, k, keys[parent], ids[parent])
    _block_maxima(row, WIDTH, maxima)
    for b in range(k // WIDTH, -(-n // WIDTH)):
        if maxima[b] > keys[0]:
            for j in range(max(k, b * WIDTH), min(n, b * WIDTH + WIDTH)):
                magnitude = row[j] & 0x7FFF
                if magnitude > keys[0]:
                    _sift(keys, ids, 0, k, magnitude, j)
    out[:] = ids[:k]


@njit(**_OPTIONS)
def top(rows, k, heap):
    """Indices of each row's k largest magnitudes, int64 ``(chunks, k)``; ``rows`` uint16 ``(chunks, n)``."""
    count, n = rows.shape
    maxima = np.empty(-(-n // NARROW), dtype=np.uint16)
    out = np.empty((count, k), dtype=np.int64)
    histogram = np.empty(256, dtype=np.int64)
    found = np.empty(n + 1 if not heap else k, dtype=np.int64)
    magnitudes = np.empty(n + 1 if not heap else k, dtype=np.int64)
    for c in range(count):
        if heap:
            _select_heap(rows[c], k, maxima, magnitudes, found, out[c])
        else:
            _select(rows[c], k, maxima, found, magnitudes, histogram, out[c])
    return out


# -- polynomials ------------------------------------------------------------------------------------------------


@njit(**_OPTIONS)
def _times_root(below, same, negative, out):
    for j in range(out.size):
        out[j] = _fold(uint32(below[j] + _fold(uint32(same[j] * negative))))


@njit(**_OPTIONS)
def _product(x, old, new):
    """Coefficients of prod(t - x_i), ascending, behind one leading zero: the returned of two ``(k + 2,)`` buffers."""
    old[:] = 0
    new[:] = 0
    old[1] = 1
    for i in range(x.size):
        negative = uint32(uint32(P) - x[i])
        _times_root(old[: i + 2], old[1 : i + 3], negative, new[1 : i + 3])
        old, new = new, old
    return old


@njit(**_OPTIONS)
def _slopes(x, m, q, slope):
    """M'(x_i) of M = prod(t - x_i): the value of M / (t - x_i) at x_i, two Horner schemes side by side."""
    k = x.size
    q[:] = 1
    slope[:] = 1
    for j in range(k - 1, 0, -1):
        add = m[j + 1]
        for i in range(k):
            q[i] = _fold(uint32(add + _fold(uint32(q[i] * x[i]))))
        for i in range(k):
            slope[i] = _fold(uint32(q[i] + _fold(uint32(slope[i] * x[i]))))


@njit(**_OPTIONS)
def _combine(x, m, weights, q, out):
    """Sum over i of weights_i M / (t - x_i), coefficient by coefficient from the highest."""
    k = x.size
    q[:] = weights
    for j in range(k - 1, -1, -1):
        total = uint32(0)
        for i in range(k):
            total = uint32(total + q[i])
        out[j] = total % uint32(P)
        add = m[j + 1]
        for i in range(k):
            q[i] = _fold(uint32(_fold(uint32(add * weights[i])) + _fold(uint32(q[i] * x[i]))))


@njit(**_OPTIONS)
def interpolate(x, y, inverse, out):
    """Each row's polynomial; ``x`` and ``y`` uint32 ``(chunks, k)`` below P; ``out`` int64 ``(chunks, k)``."""
    k = x.shape[1]
    old, new = np.empty(k + 2, dtype=np.uint32), np.empty(k + 2, dtype=np.uint32)
    q = np.empty(k, dtype=np.uint32)
    weights = np.empty(k, dtype=np.uint32)
    for c in range(len(x)):
        m = _product(x[c], old, new)
        _slopes(x[c], m, q, weights)
        for i in range(k):
            weights[i] = _canonical(uint32(y[c, i] * inverse[_canonical(weights[i])]))
        _combine(x[c], m, weights, q, out[c])


@njit(**_OPTIONS)
def evaluate(coefficients, x, out):
    """Each row's polynomial at the row's points by Horner in lanes; uint32 ``(chunks, k)``, ``(chunks, n)``."""
    k = coefficients.shape[1]
    for c in range(len(x)):
        value, points, row = out[c], x[c], coefficients[c]
        for i in range(points.size):
            value[i] = row[k - 1]
        for j in range(k - 2, -1, -1):
            add = row[j]
            for i in range(points.size):
                value[i] = _fold(uint32(add + _fold(uint32(value[i] * points[i]))))
        for i in range(points.size):
            value[i] = _canonical(value[i])


@lru_cache(maxsize=1)
def inverse_table():
    """`field.inverses` as uint32."""
    return inverses().astype(np.uint32)


# -- sampling ---------------------------------------------------------------------------------------------------


@njit(inline="always")
def _mix(x):
    x = uint64(x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = uint64(x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return uint64(x ^ (x >> uint64(31))) >> uint64(12)


@njit(inline="always")
def _score(logit, temperature, bits):
    v = (float(bits) + 0.5) * 2.0**-52
    return float(logit) / temperature - math.log(-math.log(1.0 - v))


@njit(fastmath={"nnan", "nsz"}, **_OPTIONS)
def _largest(block):
    """Largest of some numbers; that NaN may be ignored is what lets it run in lanes."""
    high = block[0]
    for j in range(block.size):
        high = max(high, block[j])
    return high


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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
