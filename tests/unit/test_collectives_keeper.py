"""Taking the lead over, step by step: what members say between the old leader's loss and the new one's first word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from commonweight.collectives import messages
from commonweight.collectives.keeper import Event, Keeper
from commonweight.collectives.messages import BEGIN, Member, Message, Part, Ready, Report, Result, View
from commonweight.collectives.session import Rules
from commonweight.collectives.wire import Credentials, Link

ROOT = bytes(31) + b"\x01"
ADA, CYD, DAN = (Member(name, "127.0.0.1", 1000 + i) for i, name in enumerate(("ada", "cyd", "dan")))
READY = Ready(9, BEGIN, "begin common", ROOT.hex())


class Wire(Link):
    """A connection that remembers what it was told to send."""

    def __init__(self, peer: str) -> None:
        self.peer, self.said, self.closed = peer, list[Message](), False

    def send(self, payload: bytes | memoryview, seconds: float) -> None:
        """Keep it."""
        self.said.append(messages.decode(bytes(payload)))

    def close(self) -> None:
        """Nothing is open."""
        self.closed = True


@pytest.fixture
def bob() -> Iterator[Keeper]:
    """The second member of a session whose leader is ada, after its eighth operation; its thread does not run."""
    keeper = Keeper(Credentials("bob", b"k" * 32), Rules(), ("127.0.0.1", 0), None, lambda *_, **__: None)
    keeper.view = View(4, (ADA, keeper.member, CYD, DAN))
    keeper._leader = Wire("ada")
    keeper._completed, keeper._last = 8, _eighth(keeper.view)
    yield keeper
    keeper.close()


def _eighth(view: View) -> Result:
    return Result(8, view, (), ROOT, False, tuple(Part(n, ROOT.hex()) for n in view.names))


def _report(of: Member, view: View, *waiting: Ready) -> Report:
    return Report(of, view, 8, (_eighth(view),), waiting, 0, ())


def test_a_ready_that_follows_a_report_is_not_lost(bob: Keeper) -> None:
    view, cyd, dan = bob.view, Wire("cyd"), Wire("dan")
    assert bob._leader is not None
    bob._handle(0.0, Event(bob._leader))
    bob._handle(0.1, Event(cyd, _report(CYD, view, READY)))
    bob._handle(0.2, Event(dan, _report(DAN, view)))
    bob._handle(0.3, Event(dan, READY))  # the barrier is reached, and nobody leads yet
    bob._handle(0.4, Event(None, READY))
    bob._tick(0.5)
    bob._tick(0.6)
    for wire in (cyd, dan):
        (result,) = [m for m in wire.said if isinstance(m, Result) and m.operation == 9]
        assert result.view.names == ("bob", "cyd", "dan")


def test_a_ready_of_a_stranger_changes_no_report(bob: Keeper) -> None:
    view, dan = bob.view, Wire("dan")
    assert bob._leader is not None
    bob._handle(0.0, Event(bob._leader))
    bob._handle(0.1, Event(dan, _report(DAN, view)))
    bob._handle(0.2, Event(Wire("dan"), READY))
    assert bob._reports["dan"][1].waiting == ()


def test_who_goes_after_its_report_is_not_waited_for(bob: Keeper) -> None:
    view, cyd, dan = bob.view, Wire("cyd"), Wire("dan")
    assert bob._leader is not None
    bob._handle(0.0, Event(bob._leader))
    bob._handle(0.1, Event(cyd, _report(CYD, view, READY)))
    bob._handle(0.2, Event(dan, _report(DAN, view)))
    bob._handle(0.3, Event(dan))
    bob._tick(0.4)
    assert bob._session is not None
    assert bob._session.view.names == ("bob", "cyd")
