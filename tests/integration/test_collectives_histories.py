"""A swarm that lost its quorum, or was cut in two, has two histories: they are found out, and one of them holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from commonweight.collectives.interface import Begun, Dropped, Standing
from commonweight.collectives.session import Rules
from commonweight.collectives.tcp import Settings, TcpCollective
from commonweight.collectives.wire import Credentials
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError
from tests.integration.collectives_swarm import free_port

LIMIT_S = 40.0
LIGHT, HEAVY = b"what two did", b"what three did"


class Member:
    """A collective, what it has told of itself, and the state it holds."""

    def __init__(self, name: str, ports: dict[str, int], state: bytes, standing: Standing) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.state, self.standing = state, standing
        contacts = tuple(("127.0.0.1", p) for n, p in ports.items() if n != name)
        rules = Rules(silence=1.0, grace=0.2)
        settings = Settings(port=ports[name], contacts=contacts, rules=rules, enter=3.0, operation=5.0)
        self.collective = TcpCollective(
            Credentials(name, b"h" * 32), settings, lambda event, **fields: self.told.append((event, fields))
        )

    def begin(self) -> Begun:
        """Begin a round with the state held, or with the one that it is given."""
        begun = self.collective.begin(merkle.root(self.state), self.standing)
        if begun.recovered is not None:
            self.state = begun.recovered
            self.standing = Standing(5 if begun.recovered == HEAVY else 2, ())
        return begun

    def settle(self) -> None:
        """End the round."""
        self.collective.settle(merkle.root(self.state), lambda: self.state, self.standing)

    def said(self, event: str) -> list[dict[str, Any]]:
        """What it told under that name."""
        return [fields for name, fields in list(self.told) if name == event]


@contextmanager
def members(states: dict[str, tuple[bytes, Standing]]) -> Iterator[dict[str, Member]]:
    ports = {name: free_port() for name in states}
    found = {name: Member(name, ports, *state) for name, state in states.items()}
    try:
        yield found
    finally:
        for member in reversed(found.values()):
            member.collective.close()


def keep_going(member: Member, over: Callable[[], bool]) -> None:
    """Rounds in a thread of its own, rejoining whenever put out, until it is over; the thread then ends by itself."""

    def run() -> None:
        while not over():
            try:
                member.begin()
                time.sleep(0.02)
                member.settle()
            except Dropped:
                continue
            except CommonweightError as error:
                if error.code != "E1515" and not over():
                    raise

    threading.Thread(target=run, daemon=True).start()


class Together:
    """Whether all were in one session with the newest state, once."""

    def __init__(self, swarm: dict[str, Member]) -> None:
        self._swarm, self._seen = swarm, False

    def __call__(self) -> bool:
        now = all(m.state == HEAVY and len(m.collective.members) == 3 for m in self._swarm.values())
        self._seen = self._seen or now
        return self._seen


def until(what: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, name
        time.sleep(0.02)


def test_a_member_of_a_lost_quorum_waits_and_does_not_start_a_history_of_its_own() -> None:
    last = Standing(5, ("ada", "bob", "cyd"))
    with members({"ada": (LIGHT, Standing(2, ("ada", "bob"))), "bob": (HEAVY, last)}) as swarm:
        swarm["bob"].collective._hold(merkle.root(HEAVY), last)  # it is there, and waits
        refused(swarm["ada"], "the history that goes on is held by bob, waiting too")
        missing = "only 2 of the 4 members who took the last step are there; waiting for cyd, dan"
        swarm["bob"].standing = Standing(5, ("ada", "bob", "cyd", "dan"))
        refused(swarm["bob"], missing)


def refused(member: Member, why: str) -> None:
    """It finds no session, says what it waits for, and founds none."""
    with pytest.raises(CommonweightError) as caught:
        member.begin()
    assert caught.value.code == "E1515"
    assert why in str(caught.value)
    assert [w["reason"] for w in member.said("waiting")][-1] == why
    assert not member.said("founded")


def test_a_swarm_that_fell_apart_goes_on_from_its_newest_history() -> None:
    last = Standing(5, ("ada", "bob", "cyd"))
    states = {"ada": (LIGHT, Standing(2, ("ada", "bob"))), "bob": (HEAVY, last), "cyd": (HEAVY, last)}
    with members(states) as swarm:
        together = Together(swarm)
        for member in swarm.values():
            keep_going(member, together)
        until(together, "all three in one session, with the newest state")
        assert not swarm["ada"].said("founded")


def test_two_histories_are_found_out_and_the_one_with_more_work_holds() -> None:
    states = {
        "ada": (LIGHT, Standing(2, ("ada",))),
        "bob": (HEAVY, Standing(5, ("bob",))),
        "cyd": (LIGHT, Standing(2, ("ada", "cyd"))),
    }
    with members(states) as swarm:
        # Cut in two, so that neither knows of the other: ada and cyd have gone on alone, and so has bob.
        addresses = {name: m.collective._addresses for name, m in swarm.items()}
        cut = threading.Event()
        for name, member in swarm.items():
            side = [m.collective.address for n, m in swarm.items() if n != name and "bob" not in (n, name)]
            member.collective._addresses = (  # type: ignore[method-assign]
                lambda side=side, all_=addresses[name]: all_() if cut.is_set() else side
            )
        together = Together(swarm)
        for member in swarm.values():
            keep_going(member, together)
        until(
            lambda: len(swarm["cyd"].collective.members) == 2 and bool(swarm["bob"].said("founded")),
            "two sessions",
        )
        assert swarm["ada"].state == LIGHT
        cut.set()
        until(together, "one session, with the heavier state")
        assert swarm["ada"].said("gave_way")[0]["to"] == "bob"
        assert not swarm["bob"].said("gave_way")
