"""kill -9 of a trainer and a validator of a reinforcement-learning task at each transition: no lease is lost."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from commonweight.rl import loops
from commonweight.tasks import grpo
from tests.benchmarks.rl import survival


@pytest.mark.parametrize(
    ("module", "points"),
    [(loops, (*loops.ROLLOUT_POINTS, *loops.LEARNER_POINTS)), (grpo, grpo.SEGMENT_POINTS)],
)
def test_every_fault_point_of_the_code_is_in_its_list(module: object, points: tuple[str, ...]) -> None:
    tree = ast.parse(Path(str(vars(module)["__file__"])).read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = [
        ast.literal_eval(c.args[0]) for c in calls if isinstance(c.func, ast.Name) and c.func.id == "fault"
    ]
    assert sorted(named) == sorted(points)


@pytest.mark.chain
@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_anywhere_loses_no_lease() -> None:
    found = survival.run()
    assert found["transitions_missed"] == []
    assert set(survival.EFFECTS["trainer"]) <= set(found["effects_in_their_journals"]["trainer-1"])
    assert set(survival.EFFECTS["validator"]) <= set(found["effects_in_their_journals"]["validator-1"])
    assert found["kills"] == 2 * 3 * len(survival.TRANSITIONS) + len(grpo.SEGMENT_POINTS)
    assert found["accepted_and_paid"] == found["leases"] == 6
    assert found["ledger_balances"]
