"""Neighbour exchange and replicas: nobody waits for the dead, late letters are dropped, joiners copy a neighbour."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest

from commonweight.collectives.codecs import codec
from commonweight.collectives.interface import Begun, Dropped
from commonweight.collectives.session import Rules
from commonweight.collectives.tcp import Settings, TcpCollective
from commonweight.collectives.wire import Credentials
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError, EncodingError
from tests.integration.collectives_swarm import free_port

T = TypeVar("T")
LIMIT_S = 60.0
R0 = bytes(31) + b"\x01"


@contextmanager
def swarm(*names: str, expect: int = 0, replicas: bool = False) -> Iterator[dict[str, TcpCollective]]:
    """Members in one process; they meet at the first."""
    port = free_port()
    members = {
        name: TcpCollective(
            Credentials(name, b"n" * 32),
            Settings(
                port=port if i == 0 else 0,
                contacts=(("127.0.0.1", port),),
                founder=i == 0,
                replicas=replicas,
                rules=Rules(silence=5, expect=expect or len(names)),
            ),
        )
        for i, name in enumerate(names)
    }
    try:
        yield members
    finally:
        for member in reversed(members.values()):
            member.close()


def each(members: dict[str, TcpCollective], act: Callable[[TcpCollective], T]) -> dict[str, T]:
    """Run ``act`` for all members at once; its results, or the exception of the first that failed."""
    out: dict[str, T] = {}
    failures: list[BaseException] = []

    def run(name: str, member: TcpCollective) -> None:
        try:
            out[name] = act(member)
        except BaseException as error:
            failures.append(error)

    threads = {item[0]: threading.Thread(target=run, args=item, daemon=True) for item in members.items()}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + LIMIT_S
    for thread in threads.values():
        thread.join(timeout=deadline - time.monotonic())
    late = [name for name, thread in threads.items() if thread.is_alive()]
    assert failures or not late, f"{late} still wait after {LIMIT_S:g} s"
    if failures:
        raise failures[0]
    return out


def test_neighbours_exchange_and_who_is_gone_is_left_out() -> None:
    with swarm("ada", "bob", "cyd") as members:
        each(members, lambda m: m.begin(R0))

        def swap(member: TcpCollective) -> dict[str, bytes]:
            others = [n for n in member.members if n != member.name]
            return member.exchange(1, {n: f"{member.name} to {n}".encode() for n in others}, others, 10)

        assert each(members, swap)["ada"] == {"bob": b"bob to ada", "cyd": b"cyd to ada"}
        members.pop("cyd").close()
        began = time.monotonic()
        found = each(
            members,
            lambda m: m.exchange(
                2,
                {n: b"x" for n in ("ada", "bob", "cyd") if n != m.name},
                {"ada", "bob", "cyd"} - {m.name},
                1,
            ),
        )
        assert found == {"ada": {"bob": b"x"}, "bob": {"ada": b"x"}}
        assert time.monotonic() - began < 8


def test_large_messages_and_the_latest_without_waiting() -> None:
    with swarm("ada", "bob") as members:
        each(members, lambda m: m.begin(R0))
        ada, bob = members.values()
        big = np.random.default_rng(1).bytes(5_000_000)
        for tag in (3, 4):
            assert ada.exchange(tag, {"bob": big[tag:]}, [], 10) == {}
        deadline = time.monotonic() + 10
        newest: dict[str, tuple[int, bytes]] = {}
        while newest.get("ada", (0, b""))[0] != 4 and time.monotonic() < deadline:
            newest |= bob.latest(["ada"])
        assert newest["ada"] == (4, big[4:])
        assert bob.latest(["ada"]) == {}


def test_a_joiner_copies_a_replica_and_is_told_its_root() -> None:
    states = {"ada": b"state of ada" * 100, "bob": b"state of bob" * 100}
    with swarm("ada", "bob", "cyd", expect=2, replicas=True) as members:
        pair = {name: members[name] for name in states}
        each(pair, lambda m: m.begin(R0))  # replicas start from one version
        begun: list[Begun] = []
        joiner = threading.Thread(
            target=lambda: begun.append(members["cyd"].begin(merkle.root(b"of another time"))), daemon=True
        )
        joiner.start()
        deadline = time.monotonic() + LIMIT_S
        # From the round that it is let in the others wait for a joiner: they may start no operation without it.
        while "cyd" not in pair["ada"].members:
            assert time.monotonic() < deadline, "the joiner was never let in"
            settled = each(pair, lambda m: m.settle(merkle.root(states[m.name]), lambda: states[m.name]))
            assert {name: s.root for name, s in settled.items()} == {
                n: merkle.root(v) for n, v in states.items()
            }
            assert not any(s.agreed for s in settled.values())
            each(pair, lambda m: m.begin(merkle.root(states[m.name])))
        joiner.join(timeout=LIMIT_S)
        assert begun[0].members == ("ada", "bob", "cyd")
        assert begun[0].recovered in states.values()
        states["cyd"] = begun[0].recovered
        settled = each(members, lambda m: m.settle(merkle.root(states[m.name]), lambda: states[m.name]))
        assert settled["ada"].roots == {name: merkle.root(state) for name, state in states.items()}


def test_a_member_whose_values_are_not_finite_is_told_and_the_others_go_on() -> None:
    with swarm("ada", "bob", "cyd") as members:
        each(members, lambda m: m.begin(R0))

        def reduce(member: TcpCollective) -> object:
            values = np.ones(10_000, dtype=np.float32)
            if member.name == "bob":
                values[5000] = np.nan
                with pytest.raises(EncodingError) as caught:
                    member.all_reduce(values, codec("int8"))
                return caught.value.message
            return member.all_reduce(values, codec("int8"))

        results = each(members, reduce)
        assert results["bob"] == "own values are not finite"
        for name in ("ada", "cyd"):
            total = results[name]
            assert total.members == ("ada", "cyd") or set(total.members) == {"ada", "cyd"}  # type: ignore[attr-defined]
            assert np.allclose(total.values, 2.0, atol=0.02)  # type: ignore[attr-defined]


def test_misuse_is_named() -> None:
    with swarm("ada") as members:
        (ada,) = members.values()
        with pytest.raises(Dropped):
            ada.all_reduce(np.ones(4, np.float32), codec("none"))
        ada.begin(R0)
        x = np.ones(4, np.float32)
        for values, name in (
            (x.reshape(2, 2), "none"),
            (x.astype(np.float64), "none"),
            (x.astype(np.int32), "int8"),
        ):
            with pytest.raises(EncodingError):
                ada.all_reduce(values, codec(name))
        for bad in (
            lambda: ada.all_reduce(x, codec("topk")),
            lambda: ada.all_reduce(x, codec("none"), out=x),
        ):
            with pytest.raises(EncodingError):
                bad()
        with pytest.raises(EncodingError):
            ada.gather(bytes(513))
        with pytest.raises(CommonweightError) as caught:
            ada.exchange(1, {str(i): b"" for i in range(17)}, [], 1)
        assert caught.value.code == "E1520"


def test_nobody_to_meet_is_an_error_with_advice() -> None:
    lonely = TcpCollective(
        Credentials("ada", b"n" * 32), Settings(contacts=(("127.0.0.1", free_port()),), enter=0.5)
    )
    with pytest.raises(CommonweightError) as caught:
        lonely.begin(R0)
    assert caught.value.code == "E1515"
    lonely.close()


def test_a_taken_port_is_named() -> None:
    with swarm("ada") as members:
        _, port = members["ada"].address
        with pytest.raises(CommonweightError) as caught:
            TcpCollective(Credentials("bob", b"n" * 32), Settings(port=port))
        assert caught.value.code == "E1501"


def test_the_token_appears_nowhere() -> None:
    me = Credentials("ada", b"super secret token bytes")
    assert "secret" not in repr(me)
    with pytest.raises(CommonweightError):
        Credentials("ada", b"short")
