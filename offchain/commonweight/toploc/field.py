"""Polynomials over GF(65497), batched over chunks.

Exact throughout: matrix products and FFTs in float64 stay far below 2**53, and every result is reduced in int64.
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

    ``x``, ``y``: shape ``(chunks, k)``, values in ``[0, P)``, each row of ``x`` distinct. Lagrange's form without
    divisions of polynomials: with ``M = prod(x - x_i)``, ``w_i = y_i / M'(x_i)`` and the power sums
    ``S_s = sum_i w_i x_i**s``, the answer is the polynomial part of ``M(x) * sum_s S_s x**-(s+1)``.
    """
    compiled = fast.kernels(x.size * x.shape[1])
    if compiled is not None:
        out = np.empty(x.shape, dtype=np.int64)
        compiled.interpolate(x.astype(np.uint32), (y % P).astype(np.uint32), compiled.inverse_table(), out)
        return out
    return _blockwise(_interpolate, x, y)


def _interpolate(x: Ints, y: Ints) -> Ints:
    k = x.shape[1]
    product = _product(x)
    derivative = product[:, 1:] * np.arange(1, k + 1) % P
    weights = y % P * inverses()[_evaluate(derivative, x)] % P
    sums = _power_sums(weights, x, k)
    return _convolve(product, sums[:, ::-1])[:, k : 2 * k]


def evaluate(coefficients: Ints, x: Ints) -> Ints:
    """Values of each row's polynomial at the row's points. Shapes ``(chunks, k)`` and ``(chunks, n)``.

    Baby steps and giant steps: ``sum_a (x**16)**a sum_b c[16a + b] x**b``, the inner sums as one matrix product.
    """
    compiled = fast.kernels(x.size * coefficients.shape[1])
    if compiled is not None:
        out = np.empty(x.shape, dtype=np.uint32)
        compiled.evaluate(coefficients.astype(np.uint32), x.astype(np.uint32), out)
        return out.astype(np.int64)
    return _blockwise(_evaluate, coefficients, x)


def _evaluate(coefficients: Ints, x: Ints) -> Ints:
    k = coefficients.shape[1]
    giants = -(-k // GIANT)
    blocks = np.zeros((x.shape[0], giants * GIANT))
    blocks[:, :k] = coefficients
    small = _powers(x, GIANT)
    inner = small.transpose(0, 2, 1) @ blocks.reshape(-1, giants, GIANT).transpose(0, 2, 1)
    large = _powers(_times(small[:, -1], x), giants).transpose(0, 2, 1)
    return (inner.astype(np.int64) % P * large.astype(np.int64) % P).sum(axis=2) % P


def _blockwise(function: Callable[[Ints, Ints], Ints], a: Ints, b: Ints) -> Ints:
    if len(a) <= BLOCK:
        return function(a, b)
    return np.concatenate([function(a[i : i + BLOCK], b[i : i + BLOCK]) for i in range(0, len(a), BLOCK)])


def _power_sums(weights: Ints, x: Ints, count: int) -> Ints:
    """``sum_i w_i x_i**s`` for s below ``count``, shape ``(chunks, count)``."""
    giants = -(-count // GIANT)
    small = _powers(x, GIANT)
    large = _powers(_times(small[:, -1], x), giants)
    weighted = (small.astype(np.int64) * weights[:, None, :] % P).astype(np.float64)
    sums = large @ weighted.transpose(0, 2, 1)
    return (sums.astype(np.int64) % P).reshape(x.shape[0], -1)[:, :count]


def _powers(x: Ints, count: int) -> Floats:
    """``x**0 .. x**(count-1)`` as float64, shape ``(chunks, count, n)``."""
    out = np.ones((x.shape[0], count, x.shape[1]))
    power = np.ones_like(x)
    for i in range(1, count):
        power = power * x % P
        out[:, i] = power
    return out


def _times(a: Floats, b: Ints) -> Ints:
    return a.astype(np.int64) * b % P


def _product(x: Ints) -> Ints:
    """``prod_i (t - x_i)`` of each row by a product tree: shape ``(chunks, k + 1)``, ascending."""
    chunks, k = x.shape
    width = 1 << (k - 1).bit_length()
    level = np.zeros((chunks, width, 2), dtype=np.int64)
    level[:, :, 0] = 1
    level[:, :k, 0] = -x % P
    level[:, :k, 1] = 1
    while level.shape[1] > 1:
        level = _convolve(level[:, ::2], level[:, 1::2])
    return level[:, 0, : k + 1]


def _convolve(a: Ints, b: Ints) -> Ints:
    """Products of polynomials along the last axis, reduced; rounding errors stay below 0.01 up to degree 1024."""
    length = a.shape[-1] + b.shape[-1] - 1
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(a, size) * np.fft.rfft(b, size)
    return np.rint(np.fft.irfft(spectrum, size)[..., :length]).astype(np.int64) % P
