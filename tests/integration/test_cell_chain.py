"""Cells on a real chain: processes of one operator earn one trainer's pay, and answer for each other's work."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonweight.cli.demo.world import DemoPlan
from commonweight.core.state import WorkState
from commonweight.nodes import metrics
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.soak, pytest.mark.timeout(500)]


def test_a_cell_of_two_is_paid_and_one_with_a_cheating_member_is_not(tmp_path: Path) -> None:
    # One seat replays three of four segments: at least one of the two that the cheating member computed.
    plan = DemoPlan("none", rounds=2, trainers=3, validators=1, seed=5, runs=tmp_path)
    with small_world(tmp_path, plan) as (world, spectator):
        wait_for(spectator, lambda task: True)
        extra = {
            "trainer-1": ["--cell", "2"],
            "trainer-2": ["--cell", "2", "--attack", "frozen-member"],
        }
        for name in plan.names:
            who = world.people[name]
            world.spawn(who, who.role, "run", "--task", "1", *extra.get(name, []))
        task = wait_for(spectator, lambda t: t.finished and not world.running(), limit=300)
        assert not world.failed()
        works = {n: [w for r in task.rounds.values() for w in r.works.values() if w.trainer == world.people[n].address]
                 for n in ("trainer-1", "trainer-2", "trainer-3")}  # fmt: skip
        for name in ("trainer-1", "trainer-3"):
            assert [(w.state, w.included) for w in works[name]] == [(WorkState.VALID, True)] * 2, name
        assert [(w.state, w.paid, w.included) for w in works["trainer-2"]] == [(WorkState.HARD, 0, False)] * 2
        assert {w.lost for w in works["trainer-2"]} == {world.task.economy.bond}
        for name in ("trainer-1", "trainer-2"):
            records = metrics.read(world.people[name].home / "metrics.jsonl")
            assert [r["machines"] for r in records if r["event"] == "cell"] == [2]
            assert sum(r["event"] == "assisted" for r in records) >= 1, name
