"""Canonical encoding: round trips, and a decoder that is strict, bounded and total."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core import codec
from commonweight.core.codec import B32, U8, U64
from commonweight.core.errors import EncodingError
from commonweight.core.works import Meta, StepLeaf, TrajectoryLeaf, pack, unpack


@dataclass(frozen=True)
class Inner:
    flag: bool
    size: U8


@dataclass(frozen=True)
class Outer:
    name: str
    root: B32
    number: U64
    share: float
    inner: Inner
    many: tuple[U8, ...]


OUTERS = st.builds(
    Outer,
    name=st.text(max_size=20),
    root=st.binary(min_size=32, max_size=32),
    number=st.integers(0, 2**64 - 1),
    share=st.floats(allow_nan=False, allow_infinity=False),
    inner=st.builds(Inner, flag=st.booleans(), size=st.integers(0, 255)),
    many=st.lists(st.integers(0, 255), max_size=5).map(tuple),
)


@given(OUTERS)
def test_decode_inverts_encode(value: Outer) -> None:
    assert codec.decode(Outer, codec.encode(value)) == value


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_decoder_is_total_and_canonical(data: bytes) -> None:
    try:
        value = codec.decode(Outer, data)
    except EncodingError:
        return
    assert codec.encode(value) == data


@given(OUTERS, st.data())
def test_truncated_and_trailing_bytes_are_refused(value: Outer, data: st.DataObject) -> None:
    raw = codec.encode(value)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for bad in (raw[:cut], raw + b"\x00"):
        with pytest.raises(EncodingError):
            codec.decode(Outer, bad)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2**64},
        {"number": -1},
        {"number": True},
        {"root": bytes(31)},
        {"share": float("nan")},
        {"name": "x" * 5000},
    ],
)
def test_values_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    good = {"name": "", "root": bytes(32), "number": 1, "share": 0.5, "inner": Inner(True, 1), "many": ()}
    with pytest.raises(EncodingError):
        codec.encode(Outer(**(good | change)))  # type: ignore[arg-type]


def test_negative_zero_has_one_encoding() -> None:
    one = StepLeaf(0, bytes(32), bytes(32), bytes(32), -0.0)
    assert codec.encode(one) == codec.encode(StepLeaf(0, bytes(32), bytes(32), bytes(32), 0.0))


def test_leaves_pack_one_record_each_and_reject_dirty_padding() -> None:
    leaves = tuple(StepLeaf(i, bytes([i]) * 32, bytes([i + 1]) * 32, bytes(32), 1.5) for i in range(3))
    data = pack(leaves)
    assert len(data) == 3 * 1024
    assert unpack(StepLeaf, data, 3) == leaves
    for bad in (data[:-1] + b"\x01", data[1024:] + data[:1024], data[:-1024]):
        with pytest.raises(EncodingError):
            unpack(StepLeaf, bad, 3)


def test_leaf_sizes_are_the_fixed_ones_unpack_relies_on() -> None:
    record = TrajectoryLeaf(1, bytes(32), 7, bytes(32))
    assert unpack(TrajectoryLeaf, pack([TrajectoryLeaf(0, bytes(32), 7, bytes(32)), record]), 2)[1] == record


def test_meta_binds_every_part_of_the_lease() -> None:
    meta = Meta(
        1, bytes(20), 2, 3, 4, bytes(20), *(bytes([i]) * 32 for i in range(5)), "profile", b"\x05" * 32
    )
    assert codec.decode(Meta, codec.encode(meta)) == meta
