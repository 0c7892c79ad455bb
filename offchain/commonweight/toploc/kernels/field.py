"""Compiled twin of `field`: polynomials over GF(65497) in float64.

Everything is a whole number: products of two residues stay below 2**32, sums of a hundred and more of them below
2**53, so that many products share one reduction. A reduced value lies in 0..P; ``P`` itself becomes 0 at the end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from ..field import GIANT, P, inverses
from .options import WHOLE

_Q = 1.0 / P


@njit(inline="always")
def _reduce(value):
    return value - np.floor(value * _Q) * P


@njit(inline="always")
def _whole(value):
    found = np.int64(value)
    return np.int64(0) if found == P else found


@njit(**WHOLE)
def _powers(x, powers):
    """``x**1 .. x**16`` in the rows of ``powers`` ``(16, n)``."""
    powers[0] = x
    for b in range(1, GIANT):
        below, row = powers[b - 1], powers[b]
        for i in range(x.size):
            row[i] = _reduce(below[i] * x[i])


@njit(**WHOLE)
def _horner(c, powers, out):
    """Values of the polynomial ``c`` (its length a multiple of 16) at the points that ``powers`` belong to.

    Sixteen coefficients at a time, so that a value is loaded, reduced and stored once for all of them.
    """
    p1, p2, p3, p4, p5, p6, p7, p8 = (
        powers[0],
        powers[1],
        powers[2],
        powers[3],
        powers[4],
        powers[5],
        powers[6],
        powers[7],
    )
    p9, p10, p11, p12, p13, p14, p15, p16 = (
        powers[8],
        powers[9],
        powers[10],
        powers[11],
        powers[12],
        powers[13],
        powers[14],
        powers[15],
    )
    out[:] = 0
    for at in range(c.size - GIANT, -1, -GIANT):
        q = c[at : at + GIANT]
        c0, c1, c2, c3, c4, c5, c6, c7 = q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7]
        c8, c9, c10, c11, c12, c13, c14, c15 = q[8], q[9], q[10], q[11], q[12], q[13], q[14], q[15]
        for i in range(out.size):
            low = (
                c0 + c1 * p1[i] + c2 * p2[i] + c3 * p3[i] + c4 * p4[i] + c5 * p5[i] + c6 * p6[i] + c7 * p7[i]
            )
            high = c8 * p8[i] + c9 * p9[i] + c10 * p10[i] + c11 * p11[i] + c12 * p12[i] + c13 * p13[i]
            rest = c14 * p14[i] + c15 * p15[i] + out[i] * p16[i]
            out[i] = _reduce(low + high + rest)


@njit(**WHOLE)
def _product(x, old, new):
    """Coefficients of prod(t - x_i), ascending: the first ``x.size + 1`` of the returned one of two buffers.

    Four roots at a time; the buffers have 4 zeros in front, which are left out of what is returned.
    """
    old[:] = 0
    new[:] = 0
    old[4] = 1
    k = x.size
    full = k // 4 * 4
    for i in range(0, full, 4):
        s1, p1 = P - _reduce(x[i] + x[i + 1]), _reduce(x[i] * x[i + 1])
        s2, p2 = P - _reduce(x[i + 2] + x[i + 3]), _reduce(x[i + 2] * x[i + 3])
        c3, c2 = _reduce(s1 + s2), _reduce(p1 + p2 + s1 * s2)
        c1, c0 = _reduce(s1 * p2 + s2 * p1), _reduce(p1 * p2)
        size = i + 5
        o4, o3, o2, o1 = old[:size], old[1 : size + 1], old[2 : size + 2], old[3 : size + 3]
        same, to = old[4 : size + 4], new[4 : size + 4]
        for j in range(size):
            to[j] = _reduce(o4[j] + c3 * o3[j] + c2 * o2[j] + c1 * o1[j] + c0 * same[j])
        old, new = new, old
    for i in range(full, k):
        negative = P - x[i]
        below, same, to = old[3 : i + 5], old[4 : i + 6], new[4 : i + 6]
        for j in range(to.size):
            to[j] = _reduce(below[j] + negative * same[j])
        old, new = new, old
    return old[4:]


@njit(**WHOLE)
def _interpolate(x, y, inverse, powers, old, new, padded, weights, sums, out):
    """One polynomial: see `field.interpolate` for the method."""
    k = x.size
    m = _product(x, old, new)
    padded[:] = 0
    for j in range(k):
        padded[j] = _reduce((j + 1.0) * m[j + 1])
    _powers(x, powers)
    _horner(padded, powers, weights)
    for i in range(k):
        weights[i] = _reduce(y[i] * inverse[_whole(weights[i])])
    giant = powers[GIANT - 1]
    for at in range(0, k, GIANT):
        for b in range(min(GIANT, k - at)):
            total = 0.0
            if b == 0:
                for i in range(k):
                    total += weights[i]
            else:
                row = powers[b - 1]
                for i in range(k):
                    total += weights[i] * row[i]
            sums[at + b] = _reduce(total)
        for i in range(k):
            weights[i] = _reduce(weights[i] * giant[i])
    weights[:] = 0
    for s in range(k):
        factor, shifted, left = sums[s], m[s + 1 : k + 1], weights[: k - s]
        for j in range(left.size):
            left[j] += factor * shifted[j]
    for j in range(k):
        out[j] = _whole(_reduce(weights[j]))


@njit(**WHOLE)
def interpolate(x, y, inverse, out):
    """Each row's polynomial; ``x`` below P and ``y`` int64 ``(chunks, k)``; ``out`` the same."""
    chunks, k = x.shape
    points, values = np.empty(k), np.empty(k)
    powers, weights, sums = np.empty((GIANT, k)), np.empty(k), np.empty(k)
    old, new = np.empty(k + 9), np.empty(k + 9)
    padded = np.empty(-(-k // GIANT) * GIANT)
    for c in range(chunks):
        for i in range(k):
            points[i] = x[c, i]
            values[i] = y[c, i]
        _interpolate(points, values, inverse, powers, old, new, padded, weights, sums, out[c])


@njit(**WHOLE)
def evaluate(coefficients, x, out):
    """Each row's polynomial at the row's points; int64 ``(chunks, k)``, ``(chunks, n)``; ``out`` int64 as ``x``."""
    chunks, k = coefficients.shape
    n = x.shape[1]
    points, values, powers = np.empty(n), np.empty(n), np.empty((GIANT, n))
    padded = np.zeros(-(-k // GIANT) * GIANT)
    for c in range(chunks):
        for j in range(k):
            padded[j] = coefficients[c, j]
        for i in range(n):
            points[i] = x[c, i]
        _powers(points, powers)
        _horner(padded, powers, values)
        for i in range(n):
            out[c, i] = _whole(values[i])


@lru_cache(maxsize=1)
def inverse_table():
    """`field.inverses` as float64."""
    return inverses().astype(np.float64)
