"""The agreed state of a swarm of processes: one encoding, one root, and nothing else decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.cli.swarm.member import Keeper
from commonweight.cli.swarm.plan import TOKEN, LocalSwarm, free_ports
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.diloco.peer import PAST, Anchor, AnchorHead, Vitals

COUNT = 300


def anchor(members: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> Anchor:
    lanes = np.random.default_rng(seed).integers(-(2**31), 2**31, (2, COUNT)).astype(np.int32)
    return Anchor(AnchorHead(7, 2, members), ModelVersion(*lanes))


@given(st.sets(st.text(max_size=20), max_size=6), st.integers(0, 5))
def test_an_anchor_has_one_encoding_and_its_root_names_all_of_it(members: set[str], seed: int) -> None:
    one = anchor(tuple(sorted(members)), seed)
    again = Anchor.decode(one.encode(), COUNT)
    assert again.head == one.head
    assert again.encode() == one.encode()
    assert again.root == one.root
    assert one.root != anchor((*sorted(members), "zzz"), seed).root


@given(st.binary(max_size=200))
def test_junk_is_no_anchor(junk: bytes) -> None:
    with pytest.raises(EncodingError):
        Anchor.decode(junk, COUNT)


@given(st.integers(0, 2600), st.integers(1, 255))
def test_a_changed_byte_is_another_anchor_or_none(place: int, change: int) -> None:
    data = bytearray(anchor().encode())
    data[place % len(data)] ^= change
    try:
        other = Anchor.decode(bytes(data), COUNT)
    except EncodingError:
        return
    assert other.encode() == bytes(data)
    assert other.root != anchor().root


def test_members_ascend_and_appear_once() -> None:
    for members in (("b", "a"), ("a", "a")):
        with pytest.raises(EncodingError):
            Anchor.decode(anchor(members).encode(), COUNT)


def test_an_anchor_knows_its_history_and_who_left_it() -> None:
    start = Anchor.first(anchor().version)
    one = start.next(4, ("a", "b"), anchor(seed=1).version)
    two, fork = (one.next(8, ("a",), anchor(seed=k).version) for k in (2, 3))
    assert (two.head.number, two.head.work) == (2, 3)
    assert start.leads_to(fork)
    assert one.leads_to(two)
    assert one.leads_to(fork)
    assert two.leads_to(two)
    assert not two.leads_to(fork)
    assert not two.leads_to(fork.next(12, ("b",), anchor().version))
    assert not two.leads_to(one)
    far = fork
    for r in range(PAST + 2):
        far = far.next(r, ("b",), anchor().version)
    assert len(far.head.past) == PAST
    assert two.leads_to(far)  # too long ago to tell
    assert Anchor.decode(far.encode(), COUNT) is not None


def test_an_anchor_of_a_history_that_is_left_is_put_aside(tmp_path: Path) -> None:
    one = Anchor.first(anchor().version).next(4, ("a", "b"), anchor(seed=1).version)
    two, fork = (one.next(8, ("a",), anchor(seed=k).version) for k in (2, 3))
    file = tmp_path / "w0.anchor"
    keep = Keeper(file, one)
    keep(two)
    assert not file.with_suffix(".left").exists()
    keep(fork)
    assert Anchor.decode(file.read_bytes(), COUNT).root == fork.root
    assert Anchor.decode(file.with_suffix(".left").read_bytes(), COUNT).root == two.root


@given(st.binary(max_size=12))
def test_vitals_are_total(junk: bytes) -> None:
    assert 0 <= Vitals.decode(junk).round <= 2**31


def test_a_plan_comes_back_and_its_token_is_private(tmp_path: Path) -> None:
    plan = LocalSwarm((("w0", 4001), ("w1", 4002)), rounds=5, open_ended=True)
    plan.save(tmp_path)
    token = (tmp_path / TOKEN).read_text()
    assert (tmp_path / TOKEN).stat().st_mode & 0o077 == 0
    plan.save(tmp_path)
    assert (tmp_path / TOKEN).read_text() == token
    assert LocalSwarm.load(tmp_path) == plan
    assert len(set(free_ports(5))) == 5


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"members": [["a"]]}', '{"members": [], "speed": 3}']
)
def test_a_broken_plan_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    with pytest.raises(CommonweightError) as caught:
        LocalSwarm.load(tmp_path)
    assert caught.value.code == "E1910"
