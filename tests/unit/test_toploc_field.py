"""GF(65497): interpolation and evaluation are inverse, equal to the textbook, for any number of points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.toploc.field import P, evaluate, interpolate


def horner(coefficients: list[int], x: int) -> int:
    value = 0
    for c in reversed(coefficients):
        value = (value * x + c) % P
    return value


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32))
def test_evaluating_what_was_interpolated_gives_the_points(chunks: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.stack([rng.choice(P, k, replace=False) for _ in range(chunks)])
    y = rng.integers(0, P, (chunks, k))
    coefficients = interpolate(x, y)
    assert coefficients.shape == (chunks, k)
    assert 0 <= coefficients.min()
    assert coefficients.max() < P
    assert (evaluate(coefficients, x) == y).all()


@pytest.mark.parametrize("k", [127, 128, 129, 1024])
def test_extreme_values_stay_exact(k: int) -> None:
    x = np.arange(P - k, P)[None, :]
    y = np.full((1, k), P - 1)
    y[0, ::2] = 0
    assert (evaluate(interpolate(x, y), x) == y).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, P - 1), min_size=1, max_size=50),
    st.lists(st.integers(0, P - 1), min_size=1, max_size=5),
)
def test_evaluation_is_horner(coefficients: list[int], points: list[int]) -> None:
    got = evaluate(np.array([coefficients]), np.array([points]))
    assert got.tolist() == [[horner(coefficients, x) for x in points]]


def test_the_order_of_points_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.choice(P, (1, 128), replace=False), rng.integers(0, P, (1, 128))
    order = rng.permutation(128)
    assert (interpolate(x, y) == interpolate(x[:, order], y[:, order])).all()
