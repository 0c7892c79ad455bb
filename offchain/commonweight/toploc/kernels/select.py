"""Compiled twin of `topk`: indices of the k largest magnitudes of each chunk."""

from __future__ import annotations

import numpy as np
from numba import njit

from .options import EXACT

# -- the k largest magnitudes -----------------------------------------------------------------------------------


WIDTH, NARROW = 64, 16
DIRECT = 1 << 13
"""Rows up to this long are searched as they are; of longer ones, first the largest value of each block."""
MOST = 1 << 15


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


@njit(**EXACT)
def _block_maxima(row, width, maxima):
    """Largest magnitude of every ``width`` values; ``row`` uint16 ``(n,)``; a ragged tail is a block of its own."""
    # Written out, so that the loops have constant lengths and run in lanes.
    if width == WIDTH:
        _maxima_of(row, WIDTH, maxima)
    else:
        _maxima_of(row, NARROW, maxima)


@njit(inline="always")
def _at_least(values, bound):
    """How many values reach ``bound``. Counters of 16 bits run in twice as many lanes, but hold no more than that."""
    count = 0
    for start in range(0, values.size, MOST):
        part, found = values[start : start + MOST], np.uint16(0)
        for i in range(part.size):
            found = np.uint16(found + np.uint16(part[i] >= bound))
        count += np.int64(found)
    return count


@njit(**EXACT)
def _kth(values, k):
    """k-th largest of 15-bit values, bit by bit: fifteen passes of counting, which run in lanes."""
    found = 0
    for bit in range(14, -1, -1):
        bound = np.uint16(found | (1 << bit))
        if _at_least(values, bound) >= k:
            found = np.int64(bound)
    return np.uint16(found)


@njit(**EXACT)
def _candidates(row, k, maxima, found, magnitudes):
    """Places and magnitudes of whatever can be among the k largest, in order: how many there are."""
    width = WIDTH if row.size >= 16 * k * WIDTH else NARROW
    blocks = -(-row.size // width)
    _block_maxima(row, width, maxima)
    # k blocks reach this bound, so the k-th largest value does too.
    bound = _kth(maxima[:blocks], k)
    count = 0
    for b in range(blocks):
        if maxima[b] >= bound:
            for j in range(b * width, min(row.size, b * width + width)):
                magnitude = np.uint16(row[j] & np.uint16(0x7FFF))
                # Every place is written, and kept by counting on: no branch to guess wrongly.
                found[count], magnitudes[count] = j, magnitude
                count += magnitude >= bound
    return count


@njit(**EXACT)
def select(row, k, maxima, found, magnitudes, out):
    """Indices of the k largest magnitudes, ascending; among equals the smaller index.

    ``found`` int64 and ``magnitudes`` uint16 have room for one value more than the row.
    """
    n = row.size
    direct = n <= DIRECT or n < k * NARROW
    if direct:
        for j in range(n):
            magnitudes[j] = np.uint16(row[j] & np.uint16(0x7FFF))
        count = n
    else:
        count = _candidates(row, k, maxima, found, magnitudes)
    last = _kth(magnitudes[:count], k)
    ties = k - (_at_least(magnitudes[:count], np.uint16(last + 1)) if last < 0x7FFF else 0)
    if direct:
        count = 0
        for j in range(n):
            found[count] = j
            count += magnitudes[j] >= last
        for i in range(count):
            magnitudes[i] = magnitudes[found[i]]
    at = 0
    for i in range(count):
        if magnitudes[i] > last or (magnitudes[i] == last and ties > 0):
            ties -= np.int64(magnitudes[i] == last)
            out[at] = found[i]
            at += 1


@njit(**EXACT)
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


@njit(**EXACT)
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


@njit(**EXACT)
def top(rows, k, heap):
    """Indices of each row's k largest magnitudes, int64 ``(chunks, k)``; ``rows`` uint16 ``(chunks, n)``."""
    count, n = rows.shape
    maxima = np.empty(-(-n // NARROW), dtype=np.uint16)
    out = np.empty((count, k), dtype=np.int64)
    found = np.empty(n + 1, dtype=np.int64)
    magnitudes = np.empty(n + 1, dtype=np.uint16)
    keys = np.empty(k, dtype=np.int64)
    for c in range(count):
        if heap:
            _select_heap(rows[c], k, maxima, keys, found[:k], out[c])
        else:
            select(rows[c], k, maxima, found, magnitudes, out[c])
    return out
