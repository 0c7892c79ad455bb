"""The streaming merge: the same bits as the merge in memory, however it is cut, late or trimmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commonweight.core import fixed, merkle
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec
from commonweight.shardcast import merging
from commonweight.shardcast.merging import Part, Progress, merge_stored
from commonweight.shardcast.store import Store

RULE = MergeSpec()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def random_version(count: int, rng: np.random.Generator) -> ModelVersion:
    lanes = rng.integers(-(2**30), 2**30, (2, count)).astype(np.int32)
    return ModelVersion(lanes[0], lanes[1] >> 8)


def random_updates(n: int, count: int, rng: np.random.Generator) -> list[fixed.Lanes]:
    limit = fixed.UPDATE_LIMIT
    return [rng.integers(-limit, limit, count, endpoint=True).astype(np.int32) for _ in range(n)]


def put(store: Store, updates: list[fixed.Lanes]) -> list[Part]:
    return [Part(store.put(fixed.to_bytes(update))) for update in updates]


@pytest.mark.parametrize("count", [1, 255, 256, 1000, merging.TILE + 1, merging.SPAN - 1, merging.SPAN + 300])
def test_equals_the_merge_in_memory(store: Store, count: int) -> None:
    rng = np.random.default_rng(count)
    version, updates = random_version(count, rng), random_updates(3, count, rng)
    seen: list[Progress] = []
    root = merge_stored(
        store, store.put(version.encode()), put(store, updates), count, RULE, on_progress=seen.append
    )
    expected = fixed.merge(version, updates, RULE)
    assert root == expected.root
    assert store.get(root) == expected.encode()
    assert seen[-1] == Progress(count, count)
    assert list((store.folder / "partial").iterdir()) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 700), st.integers(0, 99))
def test_trimmed_mean_equals_its_definition(store: Store, n: int, trim: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    version, updates = random_version(count, rng), random_updates(n, count, rng)
    args = store, store.put(version.encode()), put(store, updates), count, RULE, trim
    if n <= 2 * trim:
        with pytest.raises(EncodingError):
            merge_stored(*args)
        return
    gradient = np.empty(count, dtype=np.int64)
    for lane in range(count):
        kept = sorted(int(u[lane]) for u in updates)[trim : n - trim]
        gradient[lane] = (sum(kept) << RULE.update_shift) // len(kept)
    assert merge_stored(*args) == fixed.outer_step(version, gradient, RULE).root


def test_a_trimmed_mean_without_trimming_is_the_mean() -> None:
    updates = random_updates(5, 100, np.random.default_rng(3))
    plain, trimmed = fixed.gradient(updates, RULE), fixed.gradient(updates, RULE, trim=0)
    assert plain is not None
    assert trimmed is not None
    assert (plain == trimmed).all()
    assert fixed.gradient([], RULE) is fixed.gradient([], RULE, trim=2) is None


def test_one_liar_moves_a_trimmed_mean_no_further_than_the_honest(store: Store) -> None:
    honest = [np.full(10, value, dtype=np.int32) for value in (10, 11, 12)]
    liar = np.full(10, -fixed.UPDATE_LIMIT, dtype=np.int32)
    merged = fixed.gradient([*honest, liar], MergeSpec(update_shift=0), trim=1)
    assert merged is not None
    assert set(merged.tolist()) <= {10, 11}


@pytest.mark.parametrize("staleness", [0, 1, 5, 31, 40])
def test_a_late_update_enters_shifted_right(store: Store, staleness: int) -> None:
    rng = np.random.default_rng(staleness)
    version, (fresh, late) = random_version(300, rng), random_updates(2, 300, rng)
    parts = put(store, [fresh, late])
    parts[1] = Part(parts[1].update, staleness)
    root = merge_stored(store, store.put(version.encode()), parts, 300, RULE)
    shifted = np.array([int(x) >> min(staleness, 31) for x in late], dtype=np.int32)
    assert root == fixed.merge(version, [fresh, shifted], RULE).root


def test_an_empty_mask_leaves_the_version_alone(store: Store) -> None:
    base = store.put(random_version(300, np.random.default_rng(1)).encode())
    assert merge_stored(store, base, [], 300, RULE) == base


def padded(lanes: bytes) -> bytes:
    return lanes[:-1] + b"\x01"


def too_large(lanes: bytes) -> bytes:
    return (1 << 15).to_bytes(4, "little") + lanes[4:]


def too_small(lanes: bytes) -> bytes:
    return (-(1 << 31)).to_bytes(4, "little", signed=True) + lanes[4:]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("spoil", [padded, too_large, too_small])
def test_what_no_honest_trainer_sends_is_merged_as_the_chain_computes_it(
    store: Store, spoil: Callable[[bytes], bytes], late: bool
) -> None:
    """Found in review: the bounded merge refused what the chain had accepted, and a second merge had to exist."""
    version = random_version(300, np.random.default_rng(1))
    raw = spoil(fixed.to_bytes(np.ones(300, np.int32)))
    base, update = store.put(version.encode()), store.put(raw)
    halves = np.frombuffer(version.encode(), dtype="<i4").astype(np.int32).reshape(2, -1)
    expected = fixed.merge(ModelVersion(halves[0], halves[1]), [fixed.accepted(raw, late)], RULE)
    assert merge_stored(store, base, [Part(update, int(late))], 300, RULE) == expected.root


def test_an_update_of_another_length_is_refused(store: Store) -> None:
    base = store.put(random_version(300, np.random.default_rng(1)).encode())
    update = store.put(fixed.to_bytes(np.ones(300, np.int32)) + bytes(1024))
    before = store.roots()
    with pytest.raises(EncodingError):
        merge_stored(store, base, [Part(update)], 300, RULE)
    assert store.roots() == before


def test_a_flipped_bit_on_disk_is_never_merged(store: Store) -> None:
    base = store.put(random_version(300, np.random.default_rng(1)).encode())
    (part,) = put(store, random_updates(1, 300, np.random.default_rng(2)))
    path = store.folder / "public" / part.update.hex()
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CommonweightError) as caught:
        merge_stored(store, base, [part], 300, RULE)
    assert caught.value.code == "E1403"


def test_a_missing_update_is_said(store: Store) -> None:
    base = store.put(random_version(300, np.random.default_rng(1)).encode())
    with pytest.raises(CommonweightError) as caught:
        merge_stored(store, base, [Part(merkle.root(b"nowhere"))], 300, RULE)
    assert caught.value.code == "E1408"


def test_the_bound_does_not_grow_with_the_updates_of_a_mean() -> None:
    assert merging.memory_bound(4) == merging.memory_bound(64) < 64 << 20
    assert merging.memory_bound(64, trim=1) < 512 << 20


def test_the_root_of_a_merge_is_the_same_on_every_machine(store: Store) -> None:
    """A fixed merge: integers made by a formula, so that no generator's version matters."""
    i = np.arange(5000, dtype=np.int64)
    version = ModelVersion(
        ((i * 2654435761) % 2**31 - 2**30).astype(np.int32), ((i * 40503) % 2**20 - 2**19).astype(np.int32)
    )
    updates = [((i * (2 * k + 3) * 7919) % 65535 - 32767).astype(np.int32) for k in range(5)]
    base, parts = store.put(version.encode()), put(store, updates)
    assert merge_stored(store, base, parts, 5000, RULE).hex() == MEAN
    assert merge_stored(store, base, parts, 5000, RULE, trim=1).hex() == TRIMMED


MEAN = "a364b3790bf8bdf0bb0107bbc264f7f70559049362e9bbd6639de07d67da1d1a"
TRIMMED = "36bebe88186e01e98ebe3d68b451e7814331dd41dec1507b6ebb8aff5a08656d"
