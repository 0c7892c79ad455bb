"""Every named forger of reinforcement learning is rejected when drawn, and jurors agree; nobody honest is."""

from __future__ import annotations

import pytest

from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_HEADER, TREE_STEPS, TREE_TRAJECTORIES
from commonweight.tasks import grpo
from commonweight.tasks.rl_cheats import CHEATS
from commonweight.tasks.rl_sources import gathered
from tests.leases import Shelf
from tests.rl_leases import KIND, tiny_rl

# What each lie touches, and whether looking through without replaying anything suffices.
EXPECTED = {
    "prompt-shopping": (TREE_TRAJECTORIES, True),
    "resampling": (TREE_TRAJECTORIES, False),
    "dropping": (TREE_HEADER, True),
    "duplicating": (TREE_TRAJECTORIES, False),
    "editing": (TREE_TRAJECTORIES, False),
    "stale-rollouts": (TREE_TRAJECTORIES, False),
    "other-model": (TREE_TRAJECTORIES, False),
    "inflating": (TREE_TRAJECTORIES, True),
    "weighting": (TREE_STEPS, False),
    "reordering": (TREE_STEPS, False),
    "reusing": (TREE_TRAJECTORIES, True),
    "blunting": (TREE_TRAJECTORIES, False),
    "silencing": (TREE_TRAJECTORIES, True),
    "ignoring": (TREE_STEPS, False),
    "unsourced": (TREE_HEADER, True),
}


def test_every_forger_is_expected_here() -> None:
    assert set(EXPECTED) == set(CHEATS) == set(KIND.cheats)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_forger_is_rejected_when_drawn_and_a_juror_agrees(name: str) -> None:
    task = tiny_rl()
    given = task.train(task.lease(slot=5, rollout=True))
    lease = task.lease(round_=1, sources=(given.root,))
    product = task.train(gathered(task.spec, lease, Shelf.of(given).fetch), CHEATS[name])
    assert product.cheated
    shelf = Shelf(product, given.artifacts | product.artifacts)
    tree, cheap = EXPECTED[name]
    verdict = task.check(lease, shelf)
    assert verdict.outcome is Outcome.INVALID, verdict.reason
    assert verdict.tree == tree
    if tree != TREE_HEADER:
        assert task.judge(lease, shelf, tree, verdict.leaf).outcome is Outcome.INVALID
    if cheap:
        # The learning of the last segment is honest: what is found is found by looking through.
        last = task.spec.training.segments - 1
        assert task.check(lease, shelf, last).outcome is Outcome.INVALID


@pytest.mark.parametrize("name", ["weighting", "reordering"])
def test_false_learning_is_found_exactly_where_it_is_drawn(name: str) -> None:
    task = tiny_rl()
    lease = task.lease()
    product = task.train(lease, CHEATS[name])
    segments = task.spec.training.segments
    for number in range(grpo.units(task.spec)):
        outcome = task.check(lease, Shelf.of(product), number).outcome
        assert outcome is (Outcome.INVALID if number < segments else Outcome.VALID)


def test_a_work_of_somebody_else_is_not_ones_own() -> None:
    task = tiny_rl()
    product = task.train(task.lease())
    for other in (task.lease(slot=1), task.lease(round_=1), task.lease(trainer=b"b" * 20)):
        verdict = task.check(other, Shelf.of(product))
        assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_HEADER)


@pytest.mark.parametrize("round_", range(8))
def test_nobody_honest_is_rejected(round_: int) -> None:
    """The benchmark does this for 200 leases."""
    task = tiny_rl()
    lease = task.lease(round_=round_)
    verdict = task.check(lease, Shelf.of(task.train(lease)))
    assert verdict.outcome is Outcome.VALID, verdict.reason
