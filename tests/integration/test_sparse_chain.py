"""A sparse task on a real chain: replicas of their own, mixed with neighbours', and one trainer who mixes wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonweight.cli.demo import report
from commonweight.cli.demo.world import DemoPlan
from commonweight.core.state import WorkState
from commonweight.core.works import TREE_STEPS
from commonweight.nodes import metrics
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.soak, pytest.mark.timeout(500)]
RING = '[exchange]\ntopology = "ring"\ndegree = 2\n\n'


def test_replicas_are_mixed_checked_and_paid_and_a_wrong_mix_is_not(tmp_path: Path) -> None:
    plan = DemoPlan("none", rounds=3, trainers=4, validators=1, seed=6, runs=tmp_path)
    with small_world(tmp_path, plan, RING) as (world, spectator):
        wait_for(spectator, lambda task: True)
        for name in plan.names:
            who = world.people[name]
            cheats = ["--attack", "wrong-mix"] if name == "trainer-4" else []
            world.spawn(who, who.role, "run", "--task", "1", *cheats)
        task = wait_for(spectator, lambda t: t.finished and not world.running(), limit=300)
        assert not world.failed()
        liar = world.people["trainer-4"].address
        (validator,) = (p for p in world.people.values() if p.role == "validator")
        checks = [r for r in metrics.read(validator.home / "metrics.jsonl") if r["event"] == "check"]
        mixed = 0
        for round_ in task.rounds.values():
            for work in round_.works.values():
                seen = next(r for r in checks if (r["round"], r["slot"]) == (round_.index, work.slot))
                if (
                    work.trainer == liar
                    and "mixes" not in seen["evidence"]
                    and seen["leaf"] == plan_leaf(seen)
                ):
                    assert (work.state, work.paid) == (WorkState.HARD, 0)
                    assert (seen["outcome"], seen["tree"]) == ("invalid", TREE_STEPS)
                else:
                    assert (work.state, work.included) == (WorkState.VALID, True), (work, seen)
                    mixed += seen["evidence"].get("mixes", 0)
        # the liar was honest in round 0, lied in round 1, and starts afresh from the task's version in round 2
        caught = [r for r in checks if r["outcome"] == "invalid"]
        assert [(r["round"], r["leaf"]) for r in caught] == [(1, 4)]
        assert mixed == 2 * 3
        finals = {(report.result(p) or {}).get("final") for p in world.people.values()}
        assert finals == {task.latest.hex()}


def plan_leaf(seen: dict) -> int:
    """The leaf of the mixing step behind four segments, in a check that found it wrong."""
    return 4 if seen["outcome"] == "invalid" else -1
