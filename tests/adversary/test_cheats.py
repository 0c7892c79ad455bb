"""Every named cheat at once, in processes of their own, on a real chain: each is found, none is paid for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonweight.cli.demo import report
from commonweight.cli.demo.world import DemoPlan
from commonweight.core.state import WorkState
from commonweight.nodes import metrics
from commonweight.tasks.cheats import NEED_REPLICAS
from commonweight.tasks.kinds import task_kind
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.slow, pytest.mark.timeout(600)]
HONEST = 2


def test_every_cheat_is_found_and_the_honest_are_paid_to_the_wei(tmp_path: Path) -> None:
    attacks = sorted(task_kind("pretrain").cheats.keys() - NEED_REPLICAS)
    # One seat replays three of four segments, more than any cheat leaves honest.
    plan = DemoPlan("none", rounds=2, trainers=HONEST + len(attacks), validators=1, seed=3, runs=tmp_path)
    with small_world(tmp_path, plan, merge="6") as (world, spectator):
        wait_for(spectator, lambda task: True)
        cheater = {f"trainer-{HONEST + 1 + i}": attack for i, attack in enumerate(attacks)}
        for name in plan.names:
            who = world.people[name]
            extra = ["--attack", cheater[name]] if name in cheater else []
            world.spawn(who, who.role, "run", "--task", "1", *extra)
        task = wait_for(spectator, lambda t: t.finished and not world.running(), limit=540)
        assert not world.failed()
        for name, attack in cheater.items():
            who = world.people[name]
            records = metrics.read(who.home / "metrics.jsonl")
            forged = {(r["round"], r["slot"]) for r in records if r.get("cheated")}
            # stale has nothing to hand in again in its first lease
            assert len(forged) == plan.rounds - (attack == "stale"), attack
            for index, slot in forged:
                work = task.rounds[index].works[slot]
                assert (work.state, work.paid, work.included) == (WorkState.HARD, 0, False), attack
                assert work.lost == world.task.economy.bond, attack
        honest = [world.people[name] for name in plan.names if name not in cheater]
        for who in [*honest, world.people["publisher"]]:
            row = report.person(world, spectator.state, task, who, set())
            assert row["gain"] == row["expected_gain"], who.name
            assert row["bond_lost"] == "0", who.name
        assert report.vault(world)["balances"]
        finals = {(report.result(p) or {}).get("final") for p in world.people.values()}
        assert finals == {task.latest.hex()}
