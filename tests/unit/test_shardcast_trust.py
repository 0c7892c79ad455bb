"""What need not be hashed again, and what must be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from commonweight.core import merkle
from commonweight.core.errors import CommonweightError
from commonweight.shardcast.store import Store
from commonweight.shardcast.trust import MAX_FILES, Trust


def test_a_shard_is_trusted_until_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    trust = Trust(100.0)
    handle = os.open(path, os.O_RDWR)
    assert not trust.holds(b"r", 0, handle)
    trust.note(b"r", range(1), handle)
    assert trust.holds(b"r", 0, handle)
    assert not trust.holds(b"r", 1, handle)
    os.pwrite(handle, b"x", 0)
    os.utime(handle, ns=(0, 5))
    assert not trust.holds(b"r", 0, handle)
    os.close(handle)


def test_trust_runs_out_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    handle = os.open(path, os.O_RDONLY)
    trust = Trust(-1.0)
    trust.note(b"r", range(1), handle)
    assert not trust.holds(b"r", 0, handle)
    many = Trust(100.0)
    for i in range(MAX_FILES + 1):
        many.note(i.to_bytes(4, "big"), range(1), handle)
    assert not many.holds((0).to_bytes(4, "big"), 0, handle)
    assert many.holds((1).to_bytes(4, "big"), 0, handle)
    os.close(handle)


def test_a_lent_shard_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    root = store.put(b"a" * 5000)
    os.close(store.lend(root, 0).handle)
    path = tmp_path / "public" / root.hex()
    raw = bytearray(path.read_bytes())
    raw[9] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CommonweightError) as caught:
        store.lend(root, 0)
    assert caught.value.code == "E1403"


def test_reading_does_not_make_a_file_look_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    root = store.put(b"a" * 5000)
    os.close(store.lend(root, 0).handle)
    store.get(root)
    loan = store.lend(root, 0, hashing=False)
    assert loan is not None
    os.close(loan.handle)


def test_put_file_and_export_round_trip(tmp_path: Path) -> None:
    store, data = Store(tmp_path / "store"), bytes(range(256)) * 20_000
    (tmp_path / "in").write_bytes(data)
    root = store.put_file(tmp_path / "in")
    assert root == merkle.root(data)
    assert store.put_file(tmp_path / "in") == root
    store.export(root, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    with pytest.raises(CommonweightError) as caught:
        store.put_file(tmp_path / "nowhere")
    assert caught.value.code == "E1103"
    assert [p.name for p in (tmp_path / "store" / "partial").iterdir()] == []


def test_read_range_is_verified(tmp_path: Path) -> None:
    store, data = Store(tmp_path), bytes(range(256)) * 40_000
    root = store.put(data)
    at = merkle.SHARD - 100
    assert store.read_range(root, at, 300) == data[at : at + 300]
    assert store.read_range(root, 0, 0) == b""
    for offset, size in ((-1, 2), (0, len(data) + 1), (len(data), 1)):
        with pytest.raises(CommonweightError) as caught:
            store.read_range(root, offset, size)
        assert caught.value.code == "E1103"
