"""What a node tells its operator: what is about him and what moves a round, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commonweight.core.events import Event
from commonweight.core.state import Dispute, Round, Seat, State, Task, Work
from commonweight.nodes.metrics import Metrics, read
from commonweight.nodes.node import Node, Settings
from commonweight.nodes.story import own_line, record_line

ME, OTHER = b"\1" * 20, b"\2" * 20
TOKEN = 10**18


def state() -> State:
    """My work in slot 0 and another's in slot 1, my seat 1 and another's seat 2, a dispute about either work."""
    works = {0: Work(0, ME, b"", 1), 1: Work(1, OTHER, b"", 1)}
    task = Task(1, OTHER, b"s" * 32, b"m" * 32, {}, {}, "", rounds={3: Round(3, b"m" * 32, 100, 0, works)})
    disputes = {n: Dispute(n, 1, 3, slot, 1, 0) for n, slot in ((1, 0), (2, 1))}
    return State(tasks={1: task}, seats={1: Seat(1, ME, 1), 2: Seat(2, OTHER, 1)}, disputes=disputes)


def event(contract: str, name: str, **args: Any) -> Event:
    return Event(contract, name, args, 1, b"", 0, 0, b"")


def opened(slot: int) -> Event:
    return event("Tasks", "Opened", task=1, round=3, slot=slot, included=True, paid=10 * TOKEN)


@pytest.mark.parametrize(
    ("about_me", "about_another", "words"),
    [
        (opened(0), opened(1), "paid 10"),
        (
            event("Tasks", "Claimed", task=1, round=3, slot=0, trainer=ME),
            event("Tasks", "Claimed", task=1, round=3, slot=1, trainer=OTHER),
            "this node claims slot 0",
        ),
        (
            event("Panel", "Settled", poll=4, seat=1, paid=TOKEN // 2, lost=0),
            event("Panel", "Settled", poll=4, seat=2, paid=TOKEN // 2, lost=0),
            "seat 1 is paid 0.5, lost 0",
        ),
        (
            event("Court", "Convened", dispute=1, level=0, poll=9),
            event("Court", "Convened", dispute=2, level=0, poll=9),
            "jury 1 is called",
        ),
    ],
    ids=["work", "claim", "fee", "dispute"],
)
def test_an_operator_reads_what_is_about_his_node_only(
    about_me: Event, about_another: Event, words: str
) -> None:
    assert words in (own_line(about_me, ME, state()) or "")
    assert own_line(about_another, ME, state()) is None


def test_everybody_reads_when_a_round_moves() -> None:
    moved = event("Tasks", "Advanced", task=1, round=3, model=b"\xab" * 32, mask=1, skipped=False)
    assert "round 3: model is now abababababab" in (own_line(moved, ME, state()) or "")


def test_a_record_becomes_a_line_where_a_person_waits_for_it() -> None:
    place = {"task": 1, "round": 2, "slot": 0}
    assert record_line("segment", {**place, "done": 1, "of": 4}) == "round 2: slot 0: segment 1 of 4 done"
    trained = record_line("train", {**place, "seconds": 5.0, "loss": 2.5})
    assert trained == "round 2: slot 0 trained in 5.0 s, loss 2.5000"
    assert record_line("train", {**place, "seconds": 5.0}) is None  # it failed, and the log says why
    merged = {**place, "seconds": 0.1, "root": b"\xcd" * 32, "received": 400_000, "full": 2_800_000}
    assert "cdcdcdcdcdcd recomputed in 0.1 s, 0.4 of 2.8 MB" in (record_line("merge", merged) or "")
    assert record_line("effect", {"id": "claim:1:0", "error": ""}) is None
    assert "claim:1:0 failed: Gone" in (record_line("effect", {"id": "claim:1:0", "error": "Gone"}) or "")


def test_a_listener_hears_what_is_written(tmp_path: Path) -> None:
    heard: list[str] = []
    metrics = Metrics(tmp_path / "metrics.jsonl", lambda name, fields: heard.append(f"{name} {fields}"))
    metrics.write("merge", round=1)
    assert heard == ["merge {'round': 1}"]
    assert [r["event"] for r in read(metrics.path)] == ["merge"]


def test_two_duties_that_lack_money_at_once_ask_for_one_deposit() -> None:
    asked: list[tuple[str, int]] = []
    sent: list[Any] = []

    def request(name: str, contract: str, function: str, args: tuple[Any, ...]) -> Any:
        if function == "deposit":
            asked.append((name, args[0]))
            sent.append(SimpleNamespace(effect_id=name))
        return SimpleNamespace()

    kit: Any = SimpleNamespace(
        state=State(),
        sender=SimpleNamespace(
            address=ME, request=request, pending=lambda: sent, effect=lambda name: SimpleNamespace(ok=True)
        ),
        store=SimpleNamespace(put=None),
        library=SimpleNamespace(store=None, get=None),
        book=SimpleNamespace(),
        chain=SimpleNamespace(chain_id=31337, token_balance=lambda who: 100, addresses={"Vault": b"v" * 20}),
    )
    node = Node(kit, Settings(home=Path("."), task=1))
    assert not node.fund(10)
    assert not node.fund(25)
    assert asked == [("deposit:0:10", 10)]
    node.state.free[ME], node.state.deposits[ME] = 10, 1
    sent.clear()
    assert node.fund(10)
    assert not node.fund(25)
    assert asked[1:] == [("deposit:1:15", 15)]
