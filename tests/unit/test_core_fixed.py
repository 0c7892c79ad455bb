"""The integer outer step: exact, order-free, saturating, equal to big-integer arithmetic lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import fixed
from commonweight.core.errors import EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec

I32 = st.integers(-(2**31), 2**31 - 1)
UPDATE = st.integers(-fixed.UPDATE_LIMIT, fixed.UPDATE_LIMIT)
RULES = st.builds(
    MergeSpec,
    update_shift=st.integers(0, 15),
    lr_num=st.integers(1, 2**16 - 1),
    lr_den=st.integers(1, 2**16 - 1),
    momentum_num=st.integers(0, 99),
    momentum_den=st.just(100),
)


def clamp(x: int) -> int:
    return max(-(2**31), min(2**31 - 1, x))


def merge_one(w: int, m: int, updates: list[int], rule: MergeSpec) -> tuple[int, int]:
    """The rule of `fixed.merge` on one lane, in Python's unbounded integers."""
    g = (sum(updates) << rule.update_shift) // len(updates)
    m2 = rule.momentum_num * m // rule.momentum_den + g
    step = rule.lr_num * (g + rule.momentum_num * m2 // rule.momentum_den) // rule.lr_den
    return clamp(w - step), clamp(m2)


@settings(max_examples=200)
@given(I32, I32, st.lists(UPDATE, min_size=1, max_size=6), RULES)
def test_merge_equals_big_integer_arithmetic(w: int, m: int, updates: list[int], rule: MergeSpec) -> None:
    version = ModelVersion(np.array([w], np.int32), np.array([m], np.int32))
    merged = fixed.merge(version, [np.array([u], np.int32) for u in updates], rule)
    assert (int(merged.weights[0]), int(merged.momentum[0])) == merge_one(w, m, updates, rule)


@given(st.lists(st.lists(UPDATE, min_size=3, max_size=3), min_size=1, max_size=5), st.randoms())
def test_merge_does_not_depend_on_order(updates: list[list[int]], rng: object) -> None:
    version = ModelVersion(np.array([5, -5, 0], np.int32), np.array([1, 2, 3], np.int32))
    arrays = [np.array(u, np.int32) for u in updates]
    shuffled = list(arrays)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fixed.merge(version, arrays, MergeSpec()).root == fixed.merge(version, shuffled, MergeSpec()).root


def test_an_empty_mask_leaves_the_version_alone() -> None:
    version = ModelVersion(np.array([1], np.int32), np.array([2], np.int32))
    assert fixed.merge(version, [], MergeSpec()) is version


@given(st.lists(I32, min_size=1, max_size=600))
def test_version_round_trip(lanes: list[int]) -> None:
    array = np.array(lanes, np.int32)
    version = ModelVersion(array, array[::-1].copy())
    again = ModelVersion.decode(version.encode(), len(lanes))
    assert again.root == version.root
    assert np.array_equal(again.weights, version.weights)


def test_dirty_padding_and_wrong_lengths_are_refused() -> None:
    data = bytearray(fixed.to_bytes(np.arange(10, dtype=np.int32)))
    data[-1] = 1
    for bad in (bytes(data), bytes(data[:-4])):
        with pytest.raises(EncodingError):
            fixed.from_bytes(bad, 10)


def test_update_lanes_are_bounded() -> None:
    good = np.array([fixed.UPDATE_LIMIT, -fixed.UPDATE_LIMIT], np.int32)
    assert np.array_equal(fixed.decode_update(fixed.to_bytes(good), 2), good)
    for lane in (fixed.UPDATE_LIMIT + 1, -fixed.UPDATE_LIMIT - 1, -(2**31)):
        with pytest.raises(EncodingError):
            fixed.decode_update(fixed.to_bytes(np.array([lane], np.int32)), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_weights_that_are_not_finite_or_too_large_are_refused(bad: float) -> None:
    with pytest.raises(EncodingError):
        fixed.quantise_weights(np.array([bad], np.float32), 24)


@given(st.lists(st.floats(-7, 7, width=32), min_size=1, max_size=50))
def test_quantising_dequantised_weights_is_stable(values: list[float]) -> None:
    lanes = fixed.quantise_weights(np.array(values, np.float32), 20)
    back = fixed.dequantise_weights(lanes, 20)
    assert np.array_equal(fixed.quantise_weights(back, 20), lanes)


def test_update_of_an_unchanged_model_is_zero_and_rounds_half_up() -> None:
    rule = MergeSpec(weight_bits=24, update_shift=8)
    base = np.array([0, 1000, -1000], np.int32)
    same = fixed.dequantise_weights(base, 24)
    assert not fixed.make_update(base, same, rule).any()
    moved = fixed.dequantise_weights(base - np.array([128, 127, -128], np.int32), 24)
    assert fixed.make_update(base, moved, rule).tolist() == [1, 0, 0]
