"""The integer mixing step: exact against plain integers, blind to order, DiLoCo on the complete graph, refutable."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import fixed, merkle
from commonweight.core.errors import EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec
from commonweight.diloco import mixing
from commonweight.diloco.topology import build

INT32 = st.integers(-(2**31), 2**31 - 1)
RULES = st.builds(
    MergeSpec,
    lr_num=st.integers(1, 2**16 - 1),
    lr_den=st.integers(1, 2**16 - 1),
    momentum_num=st.integers(0, 100),
    momentum_den=st.just(100),
)


@st.composite
def rows(draw: st.DataObject) -> tuple[dict[int, int], int]:
    """Weights of up to six neighbours that sum to at most one."""
    numerators = draw(st.lists(st.integers(1, 2**12), max_size=6))
    slack = draw(st.integers(0, 2**12))
    return dict(enumerate(numerators, 1)), max(1, sum(numerators) + slack)


@settings(max_examples=200)
@given(rows(), RULES, st.integers(1, 5), st.data())
def test_mix_is_exact(row: tuple[dict[int, int], int], rule: MergeSpec, n: int, data: st.DataObject) -> None:
    weights, denominator = row
    lanes = st.lists(INT32, min_size=n, max_size=n)
    x, m, y = (np.array(data.draw(lanes), dtype=np.int32) for _ in range(3))
    states = {j: np.array(data.draw(lanes), dtype=np.int32) for j in weights}
    mixed = mixing.mix(ModelVersion(x, m), y, states, weights, denominator, rule)
    for i in range(n):
        pairs = [(weights[j], int(states[j][i])) for j in weights]
        expected = mixing.mix_lane(int(x[i]), int(m[i]), int(y[i]), pairs, denominator, rule)
        assert (int(mixed.weights[i]), int(mixed.momentum[i])) == expected


def swarm(n: int, seed: int = 0) -> tuple[ModelVersion, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    base = ModelVersion(*rng.integers(-(2**27), 2**27, (2, 600)).astype(np.int32))
    return base, [(base.weights + rng.integers(-(2**20), 2**20, 600)).astype(np.int32) for _ in range(n)]


def test_neighbours_may_come_in_any_order() -> None:
    base, trained = swarm(5)
    weights = {1: 1, 2: 2, 3: 1, 4: 3}
    states = {j: trained[j] for j in weights}
    turned = dict(reversed(states.items()))
    one, two = (mixing.mix(base, trained[0], s, weights, 9, MergeSpec()) for s in (states, turned))
    assert one.root == two.root


@pytest.mark.parametrize("n", [2, 4, 8])
def test_on_the_complete_graph_every_replica_takes_the_merge(n: int) -> None:
    base, trained = swarm(n)
    rule = MergeSpec(update_shift=0)
    merged = fixed.merge(base, [(base.weights - t).astype(np.int32) for t in trained], rule)
    graph = build("complete", n)
    for i in range(n):
        row, denominator = graph.integer_row(i)
        mixed = mixing.mix(base, trained[i], {j: trained[j] for j in row}, row, denominator, rule)
        for ours, theirs in ((mixed.weights, merged.weights), (mixed.momentum, merged.momentum)):
            assert np.abs(ours.astype(np.int64) - theirs).max() <= 4


def test_replicas_come_closer_on_a_sparse_graph_and_keep_their_mean() -> None:
    base, trained = swarm(12)
    graph, rule = build("expander", 12), MergeSpec(lr_num=1, lr_den=1, momentum_num=0, momentum_den=1)
    versions = []
    for i in range(12):
        row, denominator = graph.integer_row(i)
        versions.append(mixing.mix(base, trained[i], {j: trained[j] for j in row}, row, denominator, rule))
    before, after = np.stack(trained), np.stack([v.weights for v in versions])
    assert after.std(axis=0).mean() < 0.7 * before.std(axis=0).mean()
    assert np.abs(after.mean(axis=0) - before.mean(axis=0)).max() <= 1


def commit_one() -> tuple[mixing.MixLeaf, ModelVersion, ModelVersion, np.ndarray, dict[int, np.ndarray]]:
    base, trained = swarm(3)
    states = {1: trained[1], 2: trained[2]}
    leaf, result = mixing.commit(4, 0, base, trained[0], states, {1: 1, 2: 1}, 3, MergeSpec())
    return leaf, result, base, trained[0], states


def test_a_commitment_names_its_inputs_and_fits_one_leaf() -> None:
    leaf, result, base, own, states = commit_one()
    assert mixing.MixLeaf.decode(leaf.encode()) == leaf
    assert leaf.result == result.root
    assert leaf.states == tuple(mixing.state_root(states[j]) for j in (1, 2))
    assert mixing.first_wrong_lane(leaf, base, own, states, result, MergeSpec()) is None
    most = range(1, mixing.MAX_NEIGHBOURS + 1)
    full = replace(
        leaf,
        denominator=mixing.MAX_DENOMINATOR,
        neighbours=tuple(most),
        numerators=(1,) * len(most),
        states=(b"s" * 32,) * len(most),
    )
    assert len(full.encode()) <= merkle.LEAF


@pytest.mark.parametrize("part", ["weights", "momentum"])
@pytest.mark.parametrize("lane", [0, 300, 599])
def test_one_wrong_lane_is_found(part: str, lane: int) -> None:
    leaf, result, base, own, states = commit_one()
    forged = ModelVersion(result.weights.copy(), result.momentum.copy())
    getattr(forged, part)[lane] += 1
    leaf = replace(leaf, result=forged.root)
    assert mixing.first_wrong_lane(leaf, base, own, states, forged, MergeSpec()) == lane


def test_states_that_were_not_named_prove_nothing() -> None:
    leaf, result, base, own, states = commit_one()
    with pytest.raises(EncodingError):
        mixing.first_wrong_lane(leaf, base, states[1], states, result, MergeSpec())
    with pytest.raises(EncodingError):
        mixing.first_wrong_lane(leaf, base, own, {1: states[1]}, result, MergeSpec())


@pytest.mark.parametrize(
    "change",
    [
        {"neighbours": (2, 1)},
        {"neighbours": (1, 1)},
        {"neighbours": (0, 2)},
        {"neighbours": (1,)},
        {"numerators": (0, 1)},
        {"numerators": (2, 2)},
        {"denominator": 0},
        {"denominator": 2**17},
    ],
)
def test_malformed_commitments_are_refused(change: dict[str, object]) -> None:
    leaf = commit_one()[0]
    with pytest.raises(EncodingError):
        replace(leaf, **change)  # type: ignore[arg-type]


def test_a_mix_needs_one_weight_and_one_state_each() -> None:
    base, trained = swarm(2)
    with pytest.raises(EncodingError):
        mixing.mix(base, trained[0], {1: trained[1]}, {}, 2, MergeSpec())
    with pytest.raises(EncodingError):
        mixing.mix(base, trained[0], {1: trained[1][:5]}, {1: 1}, 2, MergeSpec())


def test_the_last_version_is_the_mean_of_the_replicas() -> None:
    replicas = {i: ModelVersion(np.array([i, -i], np.int32), np.array([9, 9], np.int32)) for i in range(4)}
    merged = mixing.final_merge(replicas)
    assert merged.weights.tolist() == [1, -2]
    assert merged.momentum.tolist() == [0, 0]
    with pytest.raises(EncodingError):
        mixing.final_merge({})


def test_a_leaf_holds_exactly_one_mix() -> None:
    leaf = commit_one()[0]
    assert len(leaf.leaf) == merkle.LEAF
    assert mixing.MixLeaf.of(leaf.leaf) == leaf
    for at in (len(leaf.encode()), merkle.LEAF - 1):
        with pytest.raises(EncodingError):
            mixing.MixLeaf.of(leaf.leaf[:at] + b"\x01" + leaf.leaf[at + 1 :])


@given(st.binary(max_size=200), st.integers(0, 1023))
def test_reading_a_leaf_is_total(junk: bytes, at: int) -> None:
    raw = (commit_one()[0].leaf[:at] + junk).ljust(merkle.LEAF, b"\x00")[: merkle.LEAF]
    with contextlib.suppress(EncodingError):
        assert mixing.MixLeaf.of(raw).leaf == raw
