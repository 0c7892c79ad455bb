"""The one Merkle tree: openings, shards, and hostile openings."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import merkle
from commonweight.core.errors import CommonweightError, EncodingError

VECTORS = Path(__file__).parents[1] / "vectors" / "tree.json"
LENGTHS = st.integers(1, 9 * merkle.LEAF + 3)


def pattern(length: int) -> bytes:
    """Bytes that differ from leaf to leaf, without a file."""
    return b"".join(sha256(i.to_bytes(8, "big")).digest() for i in range(-(-length // 32)))[:length]


def slow_root(data: bytes) -> bytes:
    """RFC 6962's recursive definition with our tags, as an independent reference."""

    def top(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return sha256(b"\x00" + leaves[0].ljust(1024, b"\x00")).digest()
        k = 1
        while 2 * k < len(leaves):
            k *= 2
        return sha256(b"\x01" + top(leaves[:k]) + top(leaves[k:])).digest()

    chunks = [data[i : i + 1024] for i in range(0, len(data), 1024)]
    return sha256(b"\x02" + len(data).to_bytes(8, "big") + top(chunks)).digest()


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_root_equals_the_recursive_definition(length: int) -> None:
    assert merkle.root(pattern(length)) == slow_root(pattern(length))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.data())
def test_every_leaf_opens_and_nothing_else_does(length: int, data: st.DataObject) -> None:
    content = pattern(length)
    root = merkle.root(content)
    index = data.draw(st.integers(0, merkle.leaf_count(length) - 1))
    opening = merkle.open_leaf(content, index)
    assert merkle.verify_leaf(root, opening)
    assert not merkle.verify_leaf(root, replace(opening, index=opening.index + 1))
    assert not merkle.verify_leaf(root, replace(opening, length=length + merkle.LEAF))
    assert not merkle.verify_leaf(root, replace(opening, path=(*opening.path, bytes(32))))
    assert not merkle.verify_leaf(
        root, replace(opening, leaf=bytes([opening.leaf[0] ^ 1]) + opening.leaf[1:])
    )
    assert not merkle.verify_leaf(root, replace(opening, path=opening.path[:-1])) or not opening.path


def test_length_is_bound_into_the_root() -> None:
    assert merkle.root(b"a") != merkle.root(b"a\x00")


def test_shards_are_aligned_subtrees() -> None:
    content = pattern(merkle.SHARD + 5000)
    shards = [merkle.shard_hash(content[: merkle.SHARD]), merkle.shard_hash(content[merkle.SHARD :])]
    assert merkle.root_of_shards(len(content), shards) == merkle.root(content) == slow_root(content)
    with pytest.raises(EncodingError):
        merkle.root_of_shards(len(content), shards[:1])


def test_vectors_shared_with_solidity() -> None:
    for vector in json.loads(VECTORS.read_text()):
        content = pattern(vector["length"])
        opening = merkle.open_leaf(content, vector["index"])
        assert merkle.root(content).hex() == vector["root"]
        assert [p.hex() for p in opening.path] == vector["proof"]
        assert opening.leaf.hex() == vector["leaf"]


def test_an_artifact_that_is_not_its_name_is_refused() -> None:
    with pytest.raises(CommonweightError, match="does not match its root") as caught:
        merkle.require_root(b"other", merkle.root(b"this"), "the spec")
    assert caught.value.code == "E1102"


@pytest.mark.parametrize("length", [0, merkle.MAX_LENGTH + 1])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises(EncodingError):
        merkle.root_of_shards(length, [])


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("leaves", [95, 96, 97, 128, 129, 200, 4096, 4097, 4300])
@pytest.mark.parametrize("rest", [0, 1, 1023])
def test_large_artifacts_hash_alike_in_both_engines(
    leaves: int, rest: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lanes or one by one: the same root, whatever the number of leaves and the length of the last one."""
    monkeypatch.setenv("COMMONWEIGHT_NUMBA", mode)
    data = pattern(leaves * merkle.LEAF + rest)
    assert merkle.root(data) == slow_root(data)
    assert merkle.root(memoryview(bytearray(b"x" + data))[1:]) == slow_root(data), "not aligned"


@pytest.mark.parametrize("width", [64, 128, 1024])
@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_lanes_are_sha256(width: int, count: int) -> None:
    from commonweight.core import sha_lanes

    data = pattern(count * width)
    for tag in (0, 1, 255):
        each = [sha256(bytes([tag]) + data[i : i + width]).digest() for i in range(0, len(data), width)]
        assert sha_lanes.digests(data, width, tag) == b"".join(each)
