"""Manifests: whatever the bytes, either the one manifest that the root names, or an EncodingError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import merkle
from commonweight.core.errors import EncodingError
from commonweight.shardcast.manifest import Manifest

LENGTHS = st.integers(1, 5 * merkle.SHARD)


@given(st.binary(min_size=1, max_size=5000))
def test_of_data_names_the_artifact_and_round_trips(data: bytes) -> None:
    manifest = Manifest.of(data)
    assert manifest.root == merkle.root(data)
    assert Manifest.decode(manifest.encode(), manifest.root) == manifest


@given(LENGTHS, st.data())
def test_any_changed_bit_is_refused(length: int, data: st.DataObject) -> None:
    hashes = tuple(bytes([i]) * 32 for i in range(merkle.shard_count(length)))
    manifest = Manifest(length, hashes)
    wire = bytearray(manifest.encode())
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EncodingError):
        Manifest.decode(bytes(wire), manifest.root)


@given(st.binary(max_size=200))
def test_decoding_is_total(data: bytes) -> None:
    with pytest.raises(EncodingError):
        Manifest.decode(data, bytes(32))


@given(LENGTHS)
def test_sizes_add_up(length: int) -> None:
    manifest = Manifest(length, (bytes(32),) * merkle.shard_count(length))
    sizes = [manifest.size(i) for i in range(len(manifest.shards))]
    assert sum(sizes) == length
    assert all(0 < size <= merkle.SHARD for size in sizes)
