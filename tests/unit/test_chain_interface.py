"""ABIs: what goes in comes out, strangers' bytes never break the decoder, and reverts have names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web3 import Web3

from commonweight.chain.interface import Errors, Interface

PAIR = [{"name": "amount", "type": "uint96"}, {"name": "who", "type": "address"}]
ABI: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "put",
        "inputs": [
            {"name": "id", "type": "bytes32"},
            {"name": "pairs", "type": "tuple[]", "components": PAIR},
            {"name": "note", "type": "string"},
        ],
        "outputs": [{"name": "", "type": "tuple", "components": PAIR}, {"name": "", "type": "uint256[2]"}],
    },
    {"type": "function", "name": "put", "inputs": [], "outputs": []},
    {
        "type": "event",
        "name": "Put",
        "inputs": [
            {"name": "who", "type": "address", "indexed": True},
            {"name": "pair", "type": "tuple", "components": PAIR, "indexed": False},
            {"name": "tag", "type": "string", "indexed": True},
            {"name": "note", "type": "string", "indexed": False},
        ],
    },
    {"type": "error", "name": "Late", "inputs": [{"name": "since", "type": "uint40"}]},
]
FACE = Interface("Box", ABI)
CODEC = Web3().codec
PUT_TOPIC = bytes(Web3.keccak(text="Put(address,(uint96,address),string,string)"))


@dataclass(frozen=True, slots=True)
class Pair:
    amount: int
    who: bytes


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.tuples(st.integers(0, 2**96 - 1), st.binary(min_size=20, max_size=20)), max_size=3),
    st.text(max_size=40),
)
def test_structs_as_tuples_mappings_and_dataclasses_are_the_same_call(
    key: bytes, pairs: list[tuple[int, bytes]], note: str
) -> None:
    mappings = [{"who": who, "amount": amount} for amount, who in pairs]
    call = FACE.encode("put", [key, pairs, note])
    assert FACE.encode("put", [key, mappings, note]) == call
    assert FACE.encode("put", [key, [Pair(*p) for p in pairs], note]) == call
    assert FACE.function_of(call) == "put"
    plain = [(amount, "0x" + who.hex()) for amount, who in pairs]
    assert CODEC.decode(["bytes32", "(uint96,address)[]", "string"], call[4:]) == (key, tuple(plain), note)


@pytest.mark.parametrize(
    "args",
    [
        [b"\x00" * 31, [], ""],
        [b"\x00" * 33, [], ""],
        [b"\x00" * 32, [(2**96, b"\x01" * 20)], ""],
        [b"\x00" * 32, [(-1, b"\x01" * 20)], ""],
        [b"\x00" * 32, [(1, b"\x01" * 19)], ""],
        [b"\x00" * 32, [(1,)], ""],
        [b"\x00" * 32, [(1, b"\x01" * 20)], b"bytes"],
        [b"\x00" * 32],
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: list[Any]) -> None:
    with pytest.raises(ValueError):
        FACE.encode("put", args)


def test_results_have_structs_as_mappings_and_addresses_as_bytes() -> None:
    body = CODEC.encode(["(uint96,address)", "uint256[2]"], [(5, "0x" + "11" * 20), [1, 2]])
    assert FACE.decode_result("put", 3, body) == ({"amount": 5, "who": b"\x11" * 20}, (1, 2))
    assert FACE.decode_result("put", 0, b"") is None
    with pytest.raises(ValueError):
        FACE.decode_result("put", 3, body[:-1])


def event(note: bytes) -> tuple[list[bytes], bytes]:
    topics = [PUT_TOPIC, bytes(12) + b"\x22" * 20, b"\x33" * 32]
    return topics, CODEC.encode(["(uint96,address)", "bytes"], [(7, "0x" + "44" * 20), note])


def test_events_keep_the_order_of_their_fields() -> None:
    found = FACE.decode_event(*event(b"hello"))
    assert found is not None
    name, args = found
    assert name == "Put"
    assert list(args.items()) == [
        ("who", b"\x22" * 20),
        ("pair", {"amount": 7, "who": b"\x44" * 20}),
        ("tag", b"\x33" * 32),
        ("note", "hello"),
    ]


@given(st.binary(max_size=70))
def test_no_string_of_a_stranger_stops_the_follower(note: bytes) -> None:
    """Whoever calls ``announce`` chooses the bytes of a string; they need not be UTF-8."""
    found = FACE.decode_event(*event(note))
    assert found is not None
    assert found[1]["note"] == note.decode("utf-8", "replace")


def test_unknown_events_are_told_apart() -> None:
    assert FACE.decode_event([b"\x00" * 32], b"") is None
    assert FACE.decode_event([], b"") is None
    assert FACE.decode_event([PUT_TOPIC], b"") is None


def test_reverts_have_names() -> None:
    errors = Errors([FACE])
    late = bytes(Web3.keccak(text="Late(uint40)"))[:4]
    assert errors.decode(late + (9).to_bytes(32, "big")) == ("Late", (9,))
    assert errors.decode(late) == ("Unknown", (late,))
    words = bytes.fromhex("08c379a0") + CODEC.encode(["string"], ["no"])
    assert errors.decode(words) == ("Error", ("no",))
    assert errors.decode(bytes.fromhex("4e487b71") + (17).to_bytes(32, "big")) == ("Panic", (17,))
    assert errors.decode(b"\x01\x02\x03\x04") == ("Unknown", (b"\x01\x02\x03\x04",))
    assert errors.decode(b"", "execution reverted") == ("execution reverted", ())


@given(st.binary(max_size=100))
def test_any_revert_data_gets_a_name(data: bytes) -> None:
    name, _ = Errors([FACE]).decode(data)
    assert name
