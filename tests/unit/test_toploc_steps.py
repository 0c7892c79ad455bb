"""Sketches are linear and tell distances; chunks show what hides in a sketch's null space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import merkle
from commonweight.core.errors import EncodingError
from commonweight.diloco.inner import TrainState
from commonweight.toploc import steps
from commonweight.toploc.steps import Sketch, State, sketch, sketch_vector

SEED = b"s" * 32


def vector(count: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def state(count: int = 5000, seed: int = 0) -> State:
    return State(vector(count, seed), vector(count, seed + 1, 0.01), np.square(vector(count, seed + 2, 0.01)))


def encoded(s: State) -> bytes:
    import torch

    return TrainState(*(torch.from_numpy(np.array(x)) for x in (s.theta, s.m, s.v))).encode()


@settings(max_examples=30)
@given(st.integers(1, 9000), st.integers(0, 99), st.floats(-3, 3))
def test_sketches_are_linear(count: int, seed: int, factor: float) -> None:
    a, b = vector(count, seed), vector(count, seed + 1)
    both = sketch_vector((a + np.float32(factor) * b).astype(np.float32), SEED)
    apart = sketch_vector(a, SEED) + np.float32(factor) * sketch_vector(b, SEED)
    assert np.abs(both - apart).max() <= 1e-4 * (np.abs(both).max() + 1)


def test_norms_are_estimated_for_dense_sparse_and_low_rank_vectors() -> None:
    """Over many seeds the estimate is unbiased and, for dense vectors, within the bounds of 128 dimensions."""
    sparse = np.zeros(100_000, dtype=np.float32)
    sparse[[5, 70_000]] = 1, -1
    layered = np.tile(vector(256, 3), 400)
    for values, spread in ((vector(100_000, 1), 0.35), (sparse, 1.0), (layered, 0.9)):
        ratios = []
        for i in range(60):
            found = sketch_vector(values, bytes([i]) * 32)
            ratios.append(float(np.linalg.norm(found)) / 2 / float(np.linalg.norm(values)))
        assert np.mean(np.square(ratios)) == pytest.approx(1, abs=0.15)
        assert max(abs(r - 1) for r in ratios) <= spread


def test_two_equal_entries_never_cancel_in_every_row() -> None:
    """A 2-sparse vector vanishes only if it does in all four rows at once."""
    for i in range(300):
        values = np.zeros(20_000, dtype=np.float32)
        values[[i, 10_000 + 31 * i]] = 1, -1
        assert np.abs(sketch_vector(values, SEED)).max() > 0


def test_another_seed_gives_another_sketch() -> None:
    values = vector(4000, 0)
    assert (sketch_vector(values, SEED) != sketch_vector(values, b"t" * 32)).any()


def test_encoding_is_strict() -> None:
    before, after = vector(5000, 9), state()
    raw = sketch(before, after, SEED).encode()
    assert len(raw) == steps.SKETCH_BYTES
    assert Sketch.decode(raw).encode() == raw
    for bad in (b"", raw[:-1], raw + b"\x00", b"\x00\x00\xc0\x7f" + raw[4:], b"\x00\x00\x80\xff" + raw[4:]):
        with pytest.raises(EncodingError):
            Sketch.decode(bad)


def test_distance_estimates_the_true_distance() -> None:
    before, after = vector(200_000, 9), state(200_000)
    for size in (1e-5, 1e-2, 0.3):
        other = State(
            after.theta + vector(200_000, 5, size),
            after.m,
            np.square(np.sqrt(after.v) + vector(200_000, 6, 1e-6)),
        )
        true = steps.true_distance(before, other, after)
        found = steps.distance(sketch(before, other, SEED), sketch(before, after, SEED))
        assert 0.6 <= found / true <= 1.5
    assert steps.distance(sketch(before, after, SEED), sketch(before, after, SEED)) == 0


def test_from_nothing_to_something_is_far() -> None:
    assert steps.relative(vector(9, 0), np.zeros(9, dtype=np.float32)) == steps.FAR
    assert steps.relative(np.zeros(9, dtype=np.float32), np.zeros(9, dtype=np.float32)) == 0


def test_segments_add_up_to_the_work() -> None:
    states = [state(seed=10 * i) for i in range(5)]
    parts = [sketch(a.theta, b, SEED) for a, b in itertools.pairwise(states)]
    assert steps.adds_up(parts, states[0].theta, states[-1].theta, SEED)
    assert not steps.adds_up(parts[:-1], states[0].theta, states[-1].theta, SEED)
    assert not steps.adds_up(parts, states[0].theta, states[-1].theta + np.float32(0.01), SEED)
    assert not steps.adds_up(parts, states[0].theta, states[-1].theta, b"t" * 32)


# -- chunks ------------------------------------------------------------------------------------------------------


def poisoned(after: State, before: np.ndarray) -> State:
    """Moves the parameters inside the sketch's null space: in one group, orthogonal to all of its signs."""
    plan = steps._plan(SEED, after.theta.size)
    poison = vector(steps.GROUP, 77)
    signs = plan.within[3 % steps.CLASSES]
    poison -= signs @ np.linalg.lstsq(signs, poison, rcond=None)[0]
    theta = after.theta.copy()
    theta[3 * steps.GROUP : 4 * steps.GROUP] += poison
    return State(theta, after.m, after.v)


def test_null_space_poison_passes_the_sketch_and_fails_its_chunk() -> None:
    before, after = vector(5000, 9), state()
    bad = poisoned(after, before)
    assert steps.distance(sketch(before, bad, SEED), sketch(before, after, SEED)) < 1e-5
    assert steps.true_distance(before, bad, after) > 0.05
    raw, replayed = encoded(bad), encoded(after)
    leaves = merkle.leaf_count(len(raw))
    bounds = steps.chunk_bounds(before, after, 1e-4)
    everything = tuple(range(leaves))
    assert steps.bad_chunk(raw, replayed, everything, bounds) == 3
    caught = 0
    for i in range(200):
        drawn = steps.draw_chunks(bytes([i]) * 32, leaves, 16)
        reason = steps.judge_chunks(merkle.root(raw), steps.open_chunks(raw, drawn), drawn, replayed, bounds)
        assert bool(reason) == (3 in drawn)
        caught += bool(reason)
    assert caught / 200 == pytest.approx(16 / leaves, abs=0.12)


def test_drawn_chunks_are_different_and_inside() -> None:
    drawn = steps.draw_chunks(SEED, 60, 16)
    assert len(set(drawn)) == 16
    assert list(drawn) == sorted(drawn)
    assert all(0 <= i < 60 for i in drawn)
    assert steps.draw_chunks(SEED, 3, 16) == (0, 1, 2)
    assert steps.draw_chunks(SEED, 60, 16) == drawn != steps.draw_chunks(b"t" * 32, 60, 16)


def test_openings_are_held_to_the_root_and_the_draw() -> None:
    before, after = vector(5000, 9), state()
    raw = encoded(after)
    root, bounds = merkle.root(raw), steps.chunk_bounds(before, after, 1e-4)
    drawn = steps.draw_chunks(SEED, merkle.leaf_count(len(raw)), 8)
    openings = steps.open_chunks(raw, drawn)
    assert steps.judge_chunks(root, openings, drawn, raw, bounds) == ""
    assert "drawn" in steps.judge_chunks(root, openings[:-1], drawn, raw, bounds)
    assert "drawn" in steps.judge_chunks(root, openings[::-1], drawn, raw, bounds)
    assert "belong" in steps.judge_chunks(merkle.root(encoded(state(seed=50))), openings, drawn, raw, bounds)
    assert "belong" in steps.judge_chunks(
        root, steps.open_chunks(raw + bytes(3072), drawn), drawn, raw, bounds
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_impossible_second_moments_are_bad(value: float) -> None:
    before, after = vector(5000, 9), state()
    v = after.v.copy()
    v[17] = value
    raw, replayed = encoded(State(after.theta, after.m, v)), encoded(after)
    each = merkle.leaf_count(len(raw)) // 3
    bounds = steps.chunk_bounds(before, after, 1e-2)
    with np.errstate(invalid="ignore"):
        assert steps.bad_chunk(raw, replayed, range(3 * each), bounds) == 2 * each
