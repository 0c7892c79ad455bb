"""Merge rules: exact, independent of order, equal to the consensus merge where they must be, and hard to fool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import fixed
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import MergeSpec
from commonweight.diloco.aggregate import (
    RULES,
    Aggregator,
    add_grams,
    cosine_filter,
    gram_matrix,
    trimmed_mean,
)

LANE = st.integers(-(2**30), 2**30)
MESSAGES = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.lists(LANE, min_size=n, max_size=n), min_size=1, max_size=9)
)


@given(MESSAGES)
def test_the_gram_matrix_is_exact(rows: list[list[int]]) -> None:
    expected = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    assert gram_matrix(np.array(rows, dtype=np.int64)) == expected


def test_the_gram_matrix_of_extremes_is_exact_over_many_lanes() -> None:
    rows = np.array([[-(2**31)] * 5000, [2**31 - 1] * 5000], dtype=np.int64)
    low, high = -(2**31), 2**31 - 1
    assert gram_matrix(rows) == [
        [5000 * low * low, 5000 * low * high],
        [5000 * low * high, 5000 * high * high],
    ]


@given(MESSAGES, st.data())
def test_every_rule_ignores_the_order_of_messages(rows: list[list[int]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    weights = data.draw(st.lists(st.integers(1, 2**31 - 1), min_size=len(rows), max_size=len(rows)))
    messages = np.array(rows, dtype=np.int64)
    for name in RULES:
        if name == "clip-cosine":  # exact ties may go either way
            continue
        first = Aggregator(name).combine(messages, weights)
        second = Aggregator(name).combine(messages[list(order)], [weights[i] for i in order])
        assert (first == second).all(), name


@given(MESSAGES)
def test_shards_merge_to_what_the_whole_merges_to(rows: list[list[int]]) -> None:
    messages, weights = np.array(rows, dtype=np.int64), [1] * len(rows)
    cut = messages.shape[1] // 2
    for name in RULES:
        rule = Aggregator(name)
        parts = [messages[:, :cut], messages[:, cut:]]
        gram = add_grams([gram_matrix(p) for p in parts])
        merged = np.concatenate([rule.combine(p, weights, gram) for p in parts])
        assert (merged == rule.combine(messages, weights)).all(), name


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_mean_and_outer_step_are_the_consensus_merge(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule = MergeSpec(update_shift=8)
    version = fixed.ModelVersion(*rng.integers(-(2**28), 2**28, (2, 50)).astype(np.int32))
    updates = [rng.integers(-(2**15) + 1, 2**15, 50).astype(np.int32) for _ in range(k)]
    merged = Aggregator("mean").combine(np.stack(updates).astype(np.int64) << rule.update_shift, [7] * k)
    assert fixed.outer_step(version, merged, rule).root == fixed.merge(version, updates, rule).root


def test_weights_are_tokens_and_absent_messages_do_not_count() -> None:
    messages = np.array([[10, 100], [40, 400], [999, 999]], dtype=np.int64)
    assert Aggregator("mean").combine(messages, [200, 100, 0]).tolist() == [20, 200]
    for name in RULES:
        without = Aggregator(name).combine(messages[:2], [1, 1])
        assert (Aggregator(name).combine(messages, [1, 1, 0]) == without).all(), name
        assert Aggregator(name).combine(messages, [0, 0, 0]).tolist() == [0, 0], name


def test_trimming_keeps_the_middle() -> None:
    column = np.array([[5], [-1000], [7], [1000]], dtype=np.int64)
    assert trimmed_mean(column, 1).tolist() == [6]
    assert trimmed_mean(column, 9).tolist() == [6]


def crowd(attack: str) -> tuple[np.ndarray, np.ndarray]:
    """Eight messages of one direction with noise, two of them by attackers; and the honest direction."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=4000) * 2**16
    messages = truth + rng.normal(size=(8, 4000)) * 2**17
    honest = messages[2:].mean(axis=0)
    if attack == "sign flip":
        messages[:2] *= -1
    elif attack == "sign flip x2":
        messages[:2] *= -2
    elif attack == "scaled":
        messages[:2] *= -30
    elif attack == "noise":
        messages[:2] = rng.normal(size=(2, 4000)) * 2**21
    elif attack == "collusion":
        messages[:2] = -3 * honest
    return np.rint(messages).astype(np.int64), honest


@pytest.mark.parametrize("attack", ["none", "sign flip", "sign flip x2", "scaled", "noise", "collusion"])
def test_clip_and_cosine_keep_the_honest_direction(attack: str) -> None:
    messages, honest = crowd(attack)

    def error(name: str) -> float:
        merged = Aggregator(name).combine(messages, [1] * 8)
        return float(np.linalg.norm(merged - honest) / np.linalg.norm(honest))

    assert error("clip-cosine") < 0.55
    if attack != "none":
        assert error("mean") > 1.5 * error("clip-cosine")


def test_the_filter_drops_exactly_the_flippers() -> None:
    messages, _ = crowd("collusion")
    gram = gram_matrix(messages)
    assert cosine_filter(gram, [1 << 16] * 8) == [False, False, *[True] * 6]


def test_at_least_half_of_the_messages_stay() -> None:
    messages = np.array([[1000], [1000], [1000], [-1000], [-1000], [-1000]], dtype=np.int64)
    assert sum(cosine_filter(gram_matrix(messages), [1 << 16] * 6)) >= 3


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(CommonweightError) as caught:
        Aggregator("krum")
    assert caught.value.code == "E1704"
