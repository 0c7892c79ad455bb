"""Rollout leases: trajectories and nothing else, checked like any; and leases that learn from accepted ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_HEADER, TREE_STEPS, TREE_TRAJECTORIES, TREE_UPDATE, WITHHELD
from commonweight.rl.learner import chosen
from commonweight.rl.trajectories import Columns
from commonweight.tasks import evidence, grpo
from commonweight.tasks.isolation import Checker
from commonweight.tasks.lease import Lease, Product
from commonweight.tasks.rl_cheats import CHEATS
from commonweight.tasks.rl_sources import gathered
from tests.leases import BOB, Shelf, with_header
from tests.rl_leases import KIND, TinyRl, tiny_rl


def rollout_of(task: TinyRl, slot: int = 5) -> tuple[Lease, Product]:
    lease = task.lease(slot=slot, trainer=BOB, rollout=True)
    return lease, task.train(lease)


def learning(task: TinyRl, *products: Product) -> tuple[Lease, Shelf]:
    """A later lease that learns from these works, and a shelf that serves them."""
    lease = task.lease(round_=1, sources=tuple(p.root for p in products))
    return lease, Shelf(products[0], {k: v for p in products for k, v in p.artifacts.items()})


def trained(task: TinyRl, lease: Lease, served: Shelf, cheat: str = "") -> Shelf:
    train = CHEATS[cheat] if cheat else KIND.train
    product = task.train(gathered(task.spec, lease, served.fetch), train)
    return Shelf(product, served.artifacts | product.artifacts)


def test_a_rollout_work_is_trajectories_without_an_update() -> None:
    task = tiny_rl()
    lease, product = rollout_of(task)
    header = product.header
    assert (header.update_length, header.update_root) == (0, bytes(32))
    assert (header.trajectory_count, header.step_count) == (96, 3)
    assert sum(map(len, product.artifacts.values())) < sum(
        map(len, task.train(task.lease()).artifacts.values())
    )
    verdict = task.check(lease, Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    counts = dict(verdict.evidence)
    assert counts["rewards"] == 96
    assert "segments" not in counts, "there is no learning to replay"
    for unit in range(KIND.units(task.spec)):
        assert dict(task.check(lease, Shelf.of(product), unit).evidence)["sampled_tokens"] > 0
    for tree, leaf in ((TREE_TRAJECTORIES, 0), (TREE_TRAJECTORIES, 95), (TREE_STEPS, 2), (0, WITHHELD - 1)):
        assert task.judge(lease, Shelf.of(product), tree, leaf).outcome is Outcome.VALID


def test_a_work_of_one_kind_is_none_of_the_other() -> None:
    """Else whoever holds a learning lease could be paid for rollouts alone."""
    task = tiny_rl()
    for rollout in (False, True):
        lease = task.lease(rollout=rollout)
        verdict = task.check(replace(lease, rollout=not rollout), Shelf.of(task.train(lease)))
        assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_HEADER)


def test_a_rollout_work_with_an_update_is_rejected() -> None:
    task = tiny_rl()
    lease, product = rollout_of(task)
    for change in ({"update_length": 1024}, {"update_root": b"u" * 32}):
        verdict = task.check(lease, Shelf.of(with_header(product, **change)))
        assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_HEADER)


@pytest.mark.parametrize(
    "name",
    ["prompt-shopping", "resampling", "dropping", "duplicating", "editing", "other-model", "inflating"],
)
def test_forged_rollouts_are_rejected_in_rollout_leases_too(name: str) -> None:
    task = tiny_rl()
    lease = task.lease(rollout=True)
    product = task.train(lease, CHEATS[name])
    assert task.check(lease, Shelf.of(product)).outcome is Outcome.INVALID


def test_a_lease_learns_from_the_rollouts_it_is_given() -> None:
    task = tiny_rl()
    _, one = rollout_of(task)
    _, two = rollout_of(task, 6)
    lease, served = learning(task, one, two)
    shelf = trained(task, lease, served)
    verdict = task.check(lease, shelf)
    assert verdict.outcome is Outcome.VALID, verdict.reason
    alone = task.train(task.lease(round_=1))
    assert shelf.product.header.update_root != alone.header.update_root, "they taught something"
    for tree, leaf in ((TREE_TRAJECTORIES, 95), (TREE_STEPS, 0), (TREE_STEPS, 2), (TREE_UPDATE, 0)):
        assert task.judge(lease, shelf, tree, leaf).outcome is Outcome.VALID


def test_sources_other_than_the_derived_ones_are_refused() -> None:
    """Older, fewer, none, or in another order: the work names what it used, and all know what it must be."""
    task = tiny_rl()
    (_, one), (_, two), (_, old) = rollout_of(task), rollout_of(task, 6), rollout_of(task, 7)
    right, served = learning(task, one, two)
    everything = Shelf(one, served.artifacts | old.artifacts)
    for roots in ((old.root, two.root), (one.root,), (two.root, one.root), ()):
        lease = replace(right, sources=roots)
        shelf = trained(task, lease, everything)
        assert task.check(lease, shelf).outcome is Outcome.VALID
        verdict = task.check(right, shelf)
        assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_HEADER)
        assert "sources" in verdict.reason


def test_whoever_ignores_the_rollouts_of_others_is_found_by_replay() -> None:
    task = tiny_rl()
    lease, served = learning(task, rollout_of(task)[1])
    verdict = task.check(lease, trained(task, lease, served, "ignoring"))
    assert (verdict.outcome, verdict.tree) == (Outcome.INVALID, TREE_STEPS)


def test_rollouts_that_nobody_serves_any_more_are_no_fault_of_the_learner() -> None:
    task = tiny_rl()
    lease, served = learning(task, rollout_of(task)[1])
    shelf = trained(task, lease, served)
    verdict = task.check(lease, Shelf.of(shelf.product))
    assert verdict.outcome is Outcome.ERROR
    assert "E1612" in verdict.reason
    assert verdict.vote(0) is None


def test_an_accepted_work_that_makes_no_sense_teaches_nobody() -> None:
    """A quorum of liars may vouch for anything; learners must neither stop nor differ."""
    task = tiny_rl()
    lease, served = learning(task, rollout_of(task)[1])
    product = served.product
    columns = next(p for p in product.artifacts.values() if p.startswith(b"CWRL1"))
    mad = Columns.of([replace(r, tokens=r.tokens + 10_000) for r in Columns.decode(columns).rows()]).encode()
    for piece in (b"nothing", mad, Columns.of([]).encode()):
        contents = (piece,) * task.spec.training.segments
        found = KIND.train(
            task.spec, task.data, task.base, replace(lease, contents=contents), blinding=bytes(32)
        )
        alone = task.train(task.lease(round_=1))
        assert found.header.update_root == alone.header.update_root


def test_kind_and_sources_of_a_lease_reach_the_checking_process() -> None:
    task = tiny_rl()
    lease, served = learning(task, rollout_of(task)[1])
    shelf = trained(task, lease, served)
    checker = Checker()
    try:
        verdict = checker.check(
            task.spec, task.data, task.base, lease, shelf.product.root, (0, 3), shelf.fetch
        )
    finally:
        checker.close()
    assert verdict.outcome is Outcome.VALID, verdict.reason
    record = evidence.read(evidence.write(lease, task.spec.root, shelf.product.root, (0,), verdict).encode())
    assert evidence.lease_of(record) == lease
    assert evidence.claimed_lease(shelf.product.root, shelf.fetch) == (lease, task.spec.root)


def test_difficulty_filter_plays_more_and_learns_from_the_first_groups_that_fit() -> None:
    task = tiny_rl(oversample=2, min_solved=0.1, max_solved=0.4)
    lease = task.lease()
    product = task.train(lease)
    assert product.header.trajectory_count == 192
    verdict = task.check(lease, Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    rows = task.court(lease, Shelf.of(product)).columns(0)
    groups = chosen(task.spec.rl, rows, 8)
    means = [sum(r.reward for r in g) / 4 / 1e6 for g in groups]
    assert means, [r.reward for r in rows]
    assert all(0.1 <= mean <= 0.4 for mean in means)
    every = chosen(replace(task.spec.rl, min_solved=0.0, max_solved=1.0), rows, 99)
    assert len(every) == 16 > len(groups)
    other = tiny_rl(oversample=2)
    assert other.train(other.lease()).header.update_root != product.header.update_root


def test_a_filter_that_nothing_passes_leaves_nothing_to_learn() -> None:
    task = tiny_rl(min_solved=1.0)
    lease = task.lease()
    product = task.train(lease)
    verdict = task.check(lease, Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    assert grpo.units(task.spec) == len(range(KIND.units(task.spec)))
