"""Compiled twin of `proofs.verify`: proofs of many chunks against the verifier's own activations, in one pass."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..field import GIANT
from .field import _horner, _powers, _whole
from .options import WHOLE
from .select import NARROW, select


@njit(**WHOLE)
def judge(rows, moduli, coefficients, every, not_finite, out):
    """Statistics of each chunk, int64 ``(chunks, 4)`` into ``out``; False when activations are not finite.

    ``rows`` uint16 ``(chunks, n)``; ``moduli`` ``(chunks,)`` and ``coefficients`` ``(chunks, k)`` int64; every
    ``every``-th top index has a control point. Columns: exponents that differ, sum of mantissa errors over the
    others, signs that differ, control points that look like a top value.
    """
    chunks, n = rows.shape
    k = coefficients.shape[1]
    controls = -(-k // every)
    maxima = np.empty(-(-n // NARROW), dtype=np.uint16)
    found, magnitudes = np.empty(n + 1, dtype=np.int64), np.empty(n + 1, dtype=np.uint16)
    top = np.empty(k, dtype=np.int64)
    points, values = np.empty(k + controls), np.empty(k + controls)
    powers, padded = np.empty((GIANT, k + controls)), np.zeros(-(-k // GIANT) * GIANT)
    fine = True
    for c in range(chunks):
        row, modulus = rows[c], moduli[c]
        select(row, k, maxima, found, magnitudes, top)
        for i in range(k):
            points[i] = top[i] % modulus
            padded[i] = coefficients[c, i]
        for i in range(controls):
            points[k + i] = (np.int64(points[i * every]) + modulus // 2) % modulus
        _powers(points, powers)
        _horner(padded, powers, values)
        low, high = 255, 0
        exponents = errors = signs = hits = 0
        for i in range(k):
            own, claimed = np.int64(row[top[i]]), _whole(values[i])
            fine &= own & 0x7FFF < not_finite
            exponent = own >> 7 & 0xFF
            low, high = min(low, exponent), max(high, exponent)
            other = (own ^ claimed) & 0x7F80 != 0
            exponents += other
            errors += 0 if other else abs((own & 0x7F) - (claimed & 0x7F))
            signs += own >> 15 != claimed >> 15
        for i in range(k, k + controls):
            exponent = _whole(values[i]) >> 7 & 0xFF
            hits += low <= exponent <= high
        out[c, 0], out[c, 1], out[c, 2], out[c, 3] = exponents, errors, signs, hits
    return fine
