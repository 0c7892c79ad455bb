"""Polynomials over GF(65497), batched over chunks.

Exact throughout: numpy works in float64, where matrix products and FFTs stay far below 2**53, and reduces lazily to
``[0, P]``; the compiled kernels work in 32-bit integers. Both give the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from . import fast

P = 65_497
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
GIANT = 16
BLOCK = 32
"""Chunks that are computed together: their temporaries fit a second-level cache."""


@lru_cache(maxsize=1)
def inverses() -> Ints:
    """Multiplicative inverses of 1..P-1 (index 0 unused), by the recurrence ``inv(i) = -(P // i) inv(P mod i)``."""
    values = [0, 1]
    for i in range(2, P):
        values.append((P - P // i) * values[P % i] % P)
    return np.array(values, dtype=np.int64)


def interpolate(x: Ints, y: Ints) -> Ints:
    """Coefficients, ascending, of the polynomials of degree below k through k points each.

    ``x``, ``y``: shape ``(chunks, k)``, ``x`` in ``[0, P)`` and distinct in each row. Lagrange's form without
    divisions of polynomials: with ``M = prod(x - x_i)``, ``w_i = y_i / M'(x_i)`` and the power sums
    ``S_s = sum_i w_i x_i**s``, the answer is the polynomial part of ``M(x) * sum_s S_s x**-(s+1)``.
    """
    compiled = fast.kernels(x.size * x.shape[1])
    if compiled is not None:
        out = np.empty(x.shape, dtype=np.int64)
        compiled.interpolate(_flat(x), _flat(y), compiled.inverse_table(), out)
        return out
    return _blockwise(_interpolate, x, y)


def evaluate(coefficients: Ints, x: Ints) -> Ints:
    """Values of each row's polynomial at the row's points. Shapes ``(chunks, k)`` and ``(chunks, n)``."""
    compiled = fast.kernels(x.size * coefficients.shape[1])
    if compiled is not None:
        out = np.empty(x.shape, dtype=np.int64)
        compiled.evaluate(_flat(coefficients), _flat(x), out)
        return out
    return _blockwise(_evaluate, coefficients, x)


def _flat(values: Ints) -> Ints:
    """One type and layout, so that a kernel is compiled once."""
    return np.ascontiguousarray(values, dtype=np.int64)


def _blockwise(function: Callable[[Floats, Floats], Floats], a: Ints, b: Ints) -> Ints:
    parts = range(0, len(a), BLOCK)
    done = [function(a[i : i + BLOCK].astype(np.float64), b[i : i + BLOCK].astype(np.float64)) for i in parts]
    return _integers(np.concatenate(done) if len(done) > 1 else done[0])


def _reduce(x: Floats) -> Floats:
    """Modulo P in place, for values from 0 to 2**42; a multiple of P may stay P."""
    quotient = x * (1 / P)
    np.floor(quotient, out=quotient)
    quotient *= P
    x -= quotient
    return x


def _integers(x: Floats) -> Ints:
    out = x.astype(np.int64)
    out[out == P] = 0
    return out


def _interpolate(x: Floats, y: Floats) -> Floats:
    k = x.shape[1]
    product = _product(x)
    derivative = _reduce(product[:, 1:] * np.arange(1.0, k + 1))
    weights = inverses()[_integers(_evaluate(derivative, x))] * _reduce(y)
    sums = _power_sums(_reduce(weights.astype(np.float64)), x, k)
    return _convolve(product, sums[:, ::-1])[:, k : 2 * k]


def _evaluate(coefficients: Floats, x: Floats) -> Floats:
    """Baby steps and giant steps: ``sum_a (x**16)**a sum_b c[16a + b] x**b``, the inner sums as one matrix product."""
    k = coefficients.shape[1]
    giants = -(-k // GIANT)
    blocks = np.zeros((x.shape[0], giants * GIANT))
    blocks[:, :k] = coefficients
    small = _powers(x, GIANT)
    inner = _reduce(blocks.reshape(-1, giants, GIANT) @ small)
    inner *= _powers(_reduce(small[:, -1] * x), giants)
    return _reduce(inner.sum(axis=1))


def _power_sums(weights: Floats, x: Floats, count: int) -> Floats:
    """``sum_i w_i x_i**s`` for s below ``count``, shape ``(chunks, count)``."""
    giants = -(-count // GIANT)
    small = _powers(x, GIANT)
    large = _powers(_reduce(small[:, -1] * x), giants)
    weighted = _reduce(small * weights[:, None, :])
    sums = _reduce(large @ weighted.transpose(0, 2, 1))
    return sums.reshape(x.shape[0], -1)[:, :count]


def _powers(x: Floats, count: int) -> Floats:
    """``x**0 .. x**(count-1)``, shape ``(chunks, count, n)``."""
    out = np.ones((x.shape[0], count, x.shape[1]))
    power = np.ones_like(x)
    for i in range(1, count):
        power *= x
        out[:, i] = _reduce(power)
    return out


def _product(x: Floats) -> Floats:
    """``prod_i (t - x_i)`` of each row by a product tree: shape ``(chunks, k + 1)``, ascending."""
    chunks, k = x.shape
    width = 1 << (k - 1).bit_length()
    level = np.zeros((chunks, width, 2))
    level[:, :, 0] = 1
    level[:, :k, 0] = P - x
    level[:, :k, 1] = 1
    while level.shape[1] > 1:
        level = _convolve(level[:, ::2], level[:, 1::2])
    return level[:, 0, : k + 1]


def _convolve(a: Floats, b: Floats) -> Floats:
    """Products of polynomials along the last axis, reduced; rounding errors stay below 0.01 up to degree 1024."""
    length = a.shape[-1] + b.shape[-1] - 1
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(a, size)
    spectrum *= np.fft.rfft(b, size)
    return _reduce(np.abs(np.rint(np.fft.irfft(spectrum, size)[..., :length])))
