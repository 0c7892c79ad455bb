"""Different speeds: paces keep nobody waiting for nothing, merging by arrival is exact, stale, and as published."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import fixed
from commonweight.core.errors import CommonweightError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec, ModelSpec, TrainingSpec
from commonweight.diloco import outer
from commonweight.diloco.asynchrony import Merger, Speeds, discount, paced_round, run_arrivals, speed_up
from commonweight.diloco.local import InnerLoop, InnerSpec, Text
from commonweight.models import initial_parameters, pin

PERIODS = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0)
RULE = MergeSpec(update_shift=0)


def version(n: int = 20, seed: int = 0) -> ModelVersion:
    rng = np.random.default_rng(seed)
    return ModelVersion(*rng.integers(-(2**27), 2**27, (2, n)).astype(np.int32))


def deltas(count: int, n: int = 20) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(-(2**20), 2**20, (count, n)))


def test_lockstep_waits_and_the_other_paces_do_not() -> None:
    speeds = Speeds(PERIODS)
    steps, ticks = paced_round("lockstep", speeds, 0, 30)
    assert (steps, ticks) == ([30] * 8, 120)
    for pace in ("deadline", "dynamic"):
        steps, ticks = paced_round(pace, speeds, 0, 30)
        assert steps == [48, 48, 48, 24, 24, 24, 12, 12]
        assert ticks == 48
        assert speed_up(speeds, steps, ticks) == pytest.approx(2.5)


@given(st.floats(0, 0.5), st.integers(0, 50), st.integers(1, 100))
def test_jitter_never_lets_a_deadline_slip_nor_a_worker_do_nothing(
    jitter: float, turn: int, mean: int
) -> None:
    speeds = Speeds(PERIODS, jitter, seed=4)
    steps, ticks = paced_round("deadline", speeds, turn, mean)
    assert all(s >= 1 for s in steps)
    assert all(s == 1 or s * speeds.period(i, turn) <= ticks + 1e-9 for i, s in enumerate(steps))
    planned, longest = paced_round("dynamic", speeds, turn, mean)
    assert longest == max(s * speeds.period(i, turn) for i, s in enumerate(planned))
    for i, base in enumerate(PERIODS):
        assert base * (1 - jitter) - 1e-9 <= speeds.period(i, turn) <= base * (1 + jitter) + 1e-9


def test_staleness_halves_at_one_round_of_merges() -> None:
    assert [discount(s, 8) for s in (0, 8, 24)] == [1, Fraction(1, 2), Fraction(1, 4)]


def test_a_full_quorum_of_fresh_results_is_the_consensus_merge() -> None:
    base, rows = version(), deltas(4)
    merger = Merger(base, RULE, "buffered", 4, quorum=4)
    for row in rows[:3]:
        merger.arrive(row, 100, 0)
        assert merger.version is base
    merger.arrive(rows[3], 100, 0)
    expected = fixed.merge(base, [row.astype(np.int32) for row in rows], RULE)
    assert merger.version.root == expected.root
    assert merger.merges == 1


def test_stale_results_weigh_less() -> None:
    rule = MergeSpec(update_shift=0, lr_num=1, lr_den=1, momentum_num=0)
    base = ModelVersion(np.zeros(1, np.int32), np.zeros(1, np.int32))
    merger = Merger(base, rule, "buffered", 4, quorum=2)
    merger.merges = 4
    merger.arrive(np.array([300]), 10, 4)
    merger.arrive(np.array([0]), 10, 0)
    assert merger.version.weights[0] == -200


def test_naive_arrivals_take_a_whole_step_each() -> None:
    base, rows = version(), deltas(2)
    merger = Merger(base, RULE, "naive", 8)
    for row in rows:
        merger.arrive(row, 1, 0)
    once = fixed.outer_step(base, rows[0], RULE)
    assert merger.version.root == fixed.outer_step(once, rows[1], RULE).root


def test_delayed_momentum_is_renewed_once_per_worker_and_applied_once() -> None:
    base = ModelVersion(np.full(3, 1000, np.int32), np.zeros(3, np.int32))
    merger, row = Merger(base, RULE, "delayed", 2), np.full(3, 100)
    merger.arrive(row, 1, 0)
    assert merger.version.momentum.tolist() == [0] * 3
    assert merger.version.weights.tolist() == [1000 - 35] * 3
    merger.arrive(row, 1, 1)
    assert merger.version.momentum.tolist() == [100] * 3
    assert merger.version.weights.tolist() == [965 - 35 - 63] * 3


def test_an_asynchronous_run_is_deterministic_and_fast_workers_do_more() -> None:
    pin()
    model = ModelSpec(dim=16, layers=1, heads=2, hidden=24, context=16)
    text = Text.split(model, bytes(range(97, 123)) * 80, batch=2, seed=3, windows=8)
    start = outer.start(initial_parameters(model).numpy(), RULE)

    def run() -> tuple[bytes, dict[int, int], float, float]:
        loops = {i: InnerLoop(text, InnerSpec("adamw", TrainingSpec(lr=0.01, batch=2)), i) for i in range(3)}
        merger = Merger(start, RULE, "buffered", 3, quorum=2)
        done = run_arrivals(
            loops, merger, Speeds((1.0, 2.0, 4.0)), 3, 42, lambda v: text.loss(outer.weights_of(v, RULE)), 14
        )
        assert done.steps == 42
        assert len(done.losses) == 3
        return (
            merger.version.root,
            {i: loop.drawn for i, loop in loops.items()},
            done.ticks,
            done.losses[-1][2],
        )

    first = run()
    assert first == run()
    assert first[1] == {0: 24, 1: 12, 2: 6}
    assert first[2] == 24
    assert first[3] < text.loss(outer.weights_of(start, RULE)) - 0.2


def test_unknown_paces_and_policies_are_refused() -> None:
    for make in (
        lambda: paced_round("hurry", Speeds(PERIODS), 0, 4),
        lambda: Merger(version(), RULE, "hurry", 2),
    ):
        with pytest.raises(CommonweightError) as caught:
            make()
        assert caught.value.code == "E1710"
