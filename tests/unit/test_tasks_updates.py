"""Updates in a wire codec: lanes, wire bytes and residual hang together, and a checker sees when they do not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.collectives.codecs import CODECS
from commonweight.collectives.codecs import codec as codec_of
from commonweight.core import codec, fixed, merkle
from commonweight.core.errors import EncodingError
from commonweight.core.spec import UPDATE_CODECS, MergeSpec, ModelSpec, TrainingSpec, VerificationSpec
from commonweight.core.verdict import Outcome
from commonweight.core.works import NONE, TREE_HEADER, TREE_UPDATE, Meta
from commonweight.shardcast.packing import pack_update, unpack_update, wire_size
from commonweight.shardcast.store import Store
from commonweight.tasks.lease import Lease, Product
from tests.leases import Shelf, Tiny, make, with_header

SHARDS = (0, 2)


@lru_cache(maxsize=8)
def task(name: str) -> Tiny:
    """The tiny task with this codec."""
    return make(
        ModelSpec(dim=16, layers=1, heads=2, hidden=32, context=16),
        TrainingSpec(steps=8, segment=2, batch=4, lr=0.01),
        VerificationSpec(topk=64),
        MergeSpec(codec=name),
    )


def two_rounds(name: str) -> tuple[Tiny, Lease, Product, Lease, Product]:
    """A work, and the same trainer's next one that carries its residual (from the same base, which is as good)."""
    t = task(name)
    first = t.lease(0)
    before = t.train(first)
    meta = codec.decode(Meta, before.artifacts[before.header.meta_root])
    lease = replace(t.lease(1), previous=before.root)
    after = t.train(replace(lease, carried=before.artifacts[meta.residual]))
    return t, first, before, lease, after


def meta_of(product: Product) -> Meta:
    return codec.decode(Meta, product.artifacts[product.header.meta_root])


def with_meta(product: Product, **fields: object) -> Product:
    """The product with another meta record."""
    raw = codec.encode(replace(meta_of(product), **fields))  # type: ignore[arg-type]
    changed = with_header(product, meta_root=merkle.root(raw))
    return replace(changed, artifacts={**changed.artifacts, merkle.root(raw): raw})


def shelf(*products: Product) -> Shelf:
    """The last product, with the artifacts of all."""
    return Shelf(products[-1], {k: v for p in products for k, v in p.artifacts.items()})


def test_a_spec_names_codecs_that_exist_and_are_exact() -> None:
    assert set(UPDATE_CODECS) <= set(CODECS)
    assert all(codec_of(name).exact for name in UPDATE_CODECS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("updates")


@pytest.mark.parametrize("name", [n for n in UPDATE_CODECS if n != "none"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 9000), bits=st.integers(1, 15))
def test_nothing_is_lost_but_delayed(folder: Path, name: str, seed: int, count: int, bits: int) -> None:
    """Lanes and residual add up to what was to be sent; lanes have 16 bits; wire bytes are the update and small."""
    rng = np.random.default_rng(seed)
    lanes, carried = rng.integers(-(2**bits) + 1, 2**bits, (2, count)).astype(np.int32)
    packed = pack_update(name, lanes, carried)
    sent, left = fixed.decode_update(packed.lanes, count), fixed.from_bytes(packed.residual, count)
    assert (sent.astype(np.int64) + left == lanes.astype(np.int64) + carried).all()
    assert len(packed.wire) == wire_size(name, count)
    store, update = Store(Path(tempfile.mkdtemp(dir=folder))), merkle.root(packed.lanes)
    unpack_update(store, name, packed.wire, count, update)
    assert store.get(update) == packed.lanes
    with pytest.raises(EncodingError):
        unpack_update(store, name, packed.wire, count, merkle.root(b"another one"))
    assert (store.roots(), store.roots(published=False)) == ([], [update])


def test_without_a_codec_nothing_is_carried() -> None:
    packed = pack_update("none", np.arange(10, dtype=np.int32))
    assert (packed.wire, packed.residual) == (b"", b"")
    product = task("none").train(task("none").lease())
    assert (meta_of(product).wire, meta_of(product).residual, meta_of(product).previous) == (NONE,) * 3


@pytest.mark.parametrize("name", ["int8", "topk8"])
def test_honest_work_with_a_carried_residual_is_valid(name: str) -> None:
    t, first, before, lease, after = two_rounds(name)
    assert t.check(first, shelf(before), SHARDS).outcome is Outcome.VALID
    assert meta_of(after).previous == before.root
    verdict = t.check(lease, shelf(before, after), SHARDS)
    assert verdict.outcome is Outcome.VALID, verdict.reason
    assert dict(verdict.evidence)["update_lanes"] > 0


def test_a_trainer_that_lost_its_residual_starts_anew() -> None:
    t, _, before, lease, _ = two_rounds("int8")
    product = t.train(lease)
    assert meta_of(product).previous == NONE
    assert t.check(lease, shelf(before, product), SHARDS).outcome is Outcome.VALID


def test_validators_need_the_wire_form_and_not_the_lanes() -> None:
    t, first, before, _, _ = two_rounds("int8")
    here = shelf(before)
    del here.artifacts[before.header.update_root]
    assert t.check(first, here, SHARDS).outcome is Outcome.VALID
    here = shelf(before)
    del here.artifacts[meta_of(before).wire]
    assert t.check(first, here, SHARDS).outcome is Outcome.WITHHELD


def test_a_residual_that_is_not_served_is_withheld() -> None:
    t, _, before, lease, after = two_rounds("int8")
    here = shelf(before, after)
    del here.artifacts[meta_of(before).residual]
    assert t.check(lease, here, SHARDS).outcome is Outcome.WITHHELD


def other_wire(before: Product, after: Product) -> Product:
    return with_meta(after, wire=meta_of(before).wire)


def no_wire(before: Product, after: Product) -> Product:
    return with_meta(after, wire=NONE)


def forged_residual(before: Product, after: Product) -> Product:
    """Something to push the next update with."""
    return with_meta(after, residual=meta_of(before).residual)


def foreign_work(before: Product, after: Product) -> Product:
    return with_meta(after, previous=merkle.root(b"somebody else's"))


@pytest.mark.parametrize("lie", [other_wire, no_wire, forged_residual, foreign_work])
def test_a_lie_about_the_wire_form_is_the_headers_fault(lie: Callable[[Product, Product], Product]) -> None:
    t, _, before, lease, after = two_rounds("int8")
    forged = lie(before, after)
    verdict = t.check(lease, shelf(before, after, forged), SHARDS)
    assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_HEADER, 0)
    assert t.judge(lease, shelf(before, after, forged), TREE_HEADER, 0).outcome is Outcome.INVALID
    assert t.judge(lease, shelf(before, after), TREE_HEADER, 0).outcome is Outcome.VALID


def test_lanes_that_are_not_the_quantised_ones_are_shown_by_their_leaf() -> None:
    t, first, before, _, _ = two_rounds("int8")
    lanes = np.frombuffer(before.artifacts[before.header.update_root], dtype="<i4").copy()
    lanes[300] += 1
    raw = lanes.tobytes()
    forged = with_header(before, update_root=merkle.root(raw))
    here = shelf(before, replace(forged, artifacts={**forged.artifacts, merkle.root(raw): raw}))
    verdict = t.check(first, here, SHARDS)
    assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_UPDATE, 1)
    assert t.judge(first, here, TREE_UPDATE, 1).outcome is Outcome.INVALID
    assert t.judge(first, here, TREE_UPDATE, 0).outcome is Outcome.VALID


def test_a_residual_that_was_not_added_is_found() -> None:
    """Says that it carries, and does not: the lanes are others."""
    t, _, before, lease, _ = two_rounds("int8")
    forged = with_meta(t.train(lease), previous=before.root)
    verdict = t.check(lease, shelf(before, forged), SHARDS)
    assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_UPDATE)
