"""What a trainer prepares before it can claim."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commonweight.core.state import Round, State, Task, Work
from commonweight.nodes.node import Settings
from commonweight.nodes.trainer import Trainer

ME, OTHER = b"\1" * 20, b"\2" * 20
PARAMS = {"rounds": 1, "slots": 2, "bond": 10, "lag": 1}


def trainer(state: State, leases: int = 1) -> tuple[Trainer, list[int]]:
    """A trainer with this state, and what it wants to have in the Vault."""
    kit: Any = SimpleNamespace(
        state=state,
        sender=SimpleNamespace(address=ME),
        store=SimpleNamespace(put=None),
        library=SimpleNamespace(store=None, get=None),
        book=SimpleNamespace(),
        chain=SimpleNamespace(chain_id=31337),
    )
    node = Trainer(kit, Settings(home=Path("."), task=1, leases=leases))
    wanted: list[int] = []
    node.announce = lambda: None  # type: ignore[method-assign]
    node.fund = lambda needed: wanted.append(needed) or True  # type: ignore[method-assign,func-returns-value]
    return node, wanted


def task_with(works: list[bytes], claim_end: int) -> State:
    """A task of one round, which has begun and in which these hold leases."""
    task = Task(1, OTHER, b"s" * 32, b"m" * 32, PARAMS, {}, "")
    held = {slot: Work(slot, who, b"", 1) for slot, who in enumerate(works)}
    task.rounds[0] = Round(0, b"m" * 32, claim_end, 0, held)
    return State(tasks={1: task})


@pytest.mark.parametrize(
    ("works", "now", "funds"),
    [
        (
            [OTHER],
            50,
            [10],
        ),  # who came after the last round had begun never paid his bond, and so never claimed
        ([OTHER, OTHER], 50, []),
        ([ME], 50, []),
        ([OTHER], 100, []),
    ],
    ids=["a slot is free", "full", "has his lease", "claims are over"],
)
def test_a_trainer_who_comes_during_the_last_rounds_claims_pays_his_bond(
    works: list[bytes], now: int, funds: list[int]
) -> None:
    node, wanted = trainer(task_with(works, claim_end=100))
    node.now = now
    node.prepare()
    assert wanted == funds


def test_all_leases_that_are_wanted_and_free_are_claimed_in_one_turn() -> None:
    node, _ = trainer(task_with([OTHER], claim_end=100), leases=3)
    node.state.free[ME] = 1_000
    claims: list[tuple[int, int, int]] = []
    node._claim = lambda *place: claims.append(place)  # type: ignore[method-assign]
    node.do_claim(1, 0)
    assert claims == [(1, 0, 0)]  # two slots, one of them taken
    node.state.free[ME] = 9
    node.do_claim(1, 0)
    assert len(claims) == 1


def test_a_lease_that_its_trainer_gave_back_is_not_claimed_again() -> None:
    node, _ = trainer(task_with([ME], claim_end=100))
    node.state.tasks[1].rounds[0].works[0].given_back = True
    node.state.free[ME] = 1_000
    claims: list[tuple[int, int, int]] = []
    node._claim = lambda *place: claims.append(place)  # type: ignore[method-assign]
    node.do_claim(1, 0)
    assert claims == []
