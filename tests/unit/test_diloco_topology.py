"""Graphs of a swarm: what each must be, whatever its size, and that mixing over it converges as its gap says."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core.errors import CommonweightError
from commonweight.diloco.topology import NAMES, build, stable_above


@given(st.sampled_from(NAMES), st.integers(1, 40), st.integers(2, 6), st.floats(0, 1), st.integers(0, 2**32))
def test_every_graph_is_connected_simple_and_symmetric(
    name: str, n: int, degree: int, rewire: float, seed: int
) -> None:
    graph = build(name, n, degree=degree, rewire=rewire, seed=seed)
    assert graph.n == n
    assert graph.connected
    for i, row in enumerate(graph.links):
        assert list(row) == sorted(set(row) - {i})
        assert all(i in graph.links[j] for j in row)


@given(st.sampled_from(NAMES), st.integers(1, 24), st.integers(0, 100), st.data())
def test_the_mixing_matrix_is_doubly_stochastic_on_whoever_is_alive(
    name: str, n: int, seed: int, data: st.DataObject
) -> None:
    graph = build(name, n, seed=seed)
    alive = data.draw(st.sets(st.integers(0, n - 1)))
    w = graph.mixing(alive)
    assert np.allclose(w, w.T)
    assert np.allclose(w.sum(axis=1), 1)
    assert (w >= -1e-12).all()
    for i in set(range(n)) - alive:
        assert w[i, i] == 1


@given(st.sampled_from(NAMES), st.integers(2, 24))
def test_integer_rows_are_the_exact_weights(name: str, n: int) -> None:
    graph = build(name, n)
    for i in range(n):
        numerators, denominator = graph.integer_row(i)
        assert {j: Fraction(a, denominator) for j, a in numerators.items()} == graph.row(i)
        assert sum(numerators.values()) < denominator or n == 2


@pytest.mark.parametrize(
    ("name", "n", "gap"),
    [
        ("complete", 8, 1.0),
        ("ring", 8, 1 - (1 / 3 + 2 / 3 * np.cos(2 * np.pi / 8))),
        ("ring", 64, 1 - (1 / 3 + 2 / 3 * np.cos(2 * np.pi / 64))),
        ("hypercube", 16, 2 / 5),
        ("exponential", 8, 2 / 3),
    ],
)
def test_gaps_are_those_of_the_books(name: str, n: int, gap: float) -> None:
    assert build(name, n).gap == pytest.approx(gap)
    assert f"{gap:.4f}" in build(name, n).describe()


@pytest.mark.parametrize("n", [16, 64, 200])
def test_expanders_keep_their_gap_as_swarms_grow_and_rings_do_not(n: int) -> None:
    limit = 1 - (1 + 2 * np.sqrt(3)) / 5  # Alon and Boppana, for degree 4 with Metropolis weights
    expander = build("expander", n)
    assert {len(row) for row in expander.links} == {4}
    assert expander.gap > 0.8 * limit
    assert build("ring", n).gap < expander.gap / 4


def test_graphs_depend_on_the_seed_alone() -> None:
    for name in ("expander", "small-world"):
        assert build(name, 20, seed=1) == build(name, 20, seed=1)
        assert build(name, 20, seed=1) != build(name, 20, seed=2)


def test_plain_mixing_shrinks_disagreement_by_the_gap() -> None:
    graph = build("expander", 32)
    x = np.random.default_rng(0).normal(size=(32, 4))
    x -= x.mean(axis=0)
    before = np.linalg.norm(x)
    for _ in range(20):
        x = graph.mixing() @ x
    assert np.linalg.norm(x) <= before * (1 - graph.gap) ** 20 * 1.0001


def test_accelerated_mixing_is_stable_exactly_above_the_bound() -> None:
    def radius(eigenvalue: float, lr: float, momentum: float) -> float:
        mu = 1 - eigenvalue
        step = np.array([[1 - lr * (1 + momentum) * mu, -lr * momentum**2], [mu, momentum]])
        return float(np.abs(np.linalg.eigvals(step)).max())

    for lr, momentum in ((0.7, 0.9), (1.0, 0.5), (0.9, 0.8)):
        bound = stable_above(lr, momentum)
        assert radius(bound + 0.01, lr, momentum) < 1 < radius(bound - 0.01, lr, momentum)
    assert all(build(name, 8).least_eigenvalue > stable_above(0.7, 0.9) for name in NAMES)


@pytest.mark.parametrize("bad", [("star", 8, 4), ("ring", 0, 4), ("expander", 8, 1)])
def test_what_names_no_graph_is_refused(bad: tuple[str, int, int]) -> None:
    with pytest.raises(CommonweightError) as caught:
        build(bad[0], bad[1], degree=bad[2])
    assert caught.value.code == "E1701"
