"""The reference merge agrees with `core.fixed.merge` wherever both are defined: a mean of works in time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import fixed
from commonweight.core.spec import MergeSpec
from commonweight.nodes import exhibits
from tests.reference import merge
from tests.reference.protocol import merges

LANE = st.integers(-(2**31), 2**31 - 1)
UPDATE = st.integers(-merge.LIMIT, merge.LIMIT)


@given(st.lists(st.tuples(LANE, LANE), min_size=1, max_size=8), st.integers(1, 9), st.data())
def test_reference_is_core_fixed(start: list[tuple[int, int]], n: int, data: st.DataObject) -> None:
    size = len(start)
    weights, momentum = (np.array(x, dtype=np.int64) for x in zip(*start, strict=True))
    rows = [data.draw(st.lists(UPDATE, min_size=size, max_size=size)) for _ in range(n)]
    updates = [np.array(row, dtype=np.int64) for row in rows]
    spec = MergeSpec()
    version = fixed.ModelVersion(weights.astype(np.int32), momentum.astype(np.int32))
    theirs = fixed.merge(version, [u.astype(np.int32) for u in updates], spec)
    ours = merge.merge(weights, momentum, updates, [False] * n, merge.Rule())
    assert theirs.weights.tolist() == ours[0].tolist()
    assert theirs.momentum.tolist() == ours[1].tolist()


@given(st.lists(UPDATE, min_size=4, max_size=16), st.integers(-(2**31), 2**31 - 1))
def test_one_hostile_update_cannot_leave_the_honest_range(honest: list[int], hostile: int) -> None:
    rule = merge.Rule(shift=0, trim=25)
    updates = [np.array([x], dtype=np.int64) for x in [*honest, hostile]]
    g = int(merge.gradient(updates, [False] * len(updates), rule)[0])
    assert min(honest) <= g <= max(honest)


@given(st.lists(UPDATE, min_size=1, max_size=9))
def test_lateness_is_a_floor_shift(lanes: list[int]) -> None:
    late = merge.gradient([np.array([x]) for x in lanes], [True] * len(lanes), merge.Rule(shift=0))
    halved = merge.gradient([np.array([x // 2]) for x in lanes], [False] * len(lanes), merge.Rule(shift=0))
    assert late.tolist() == halved.tolist()


@given(st.integers(0, 32), st.integers(0, 2**64 - 1))
def test_a_packed_leaf_is_read_again(bits: int, seed: int) -> None:
    """In as few bits as its lanes need, whatever they are."""
    half = 1 << bits >> 1
    lanes = np.random.default_rng(seed).integers(-half, max(half, 1), 256).astype("<i4")
    packed = exhibits.packed_leaf(lanes.tobytes())
    assert merges.parsed_leaf(packed, 0) == (lanes.tobytes(), len(packed))
    assert len(packed) <= 1 + 32 * bits
