"""The simulated swarm: repeatable, complete, close to its bound, and spared by liars and stallers."""

from __future__ import annotations

import pytest

from ..benchmarks.shardcast.simulation import Swarm, bound

SIZE = 50_000_000
UP, DOWN = 25e6, 1.25e9


def swarm(nodes: int, seed: int = 1, **options: object) -> Swarm:
    return Swarm(SIZE, [UP] * nodes, [DOWN] * nodes, seed=seed, **options)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_run() -> None:
    assert swarm(6, seed=5).run() == swarm(6, seed=5).run()


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_everybody_is_served_close_to_the_bound(nodes: int) -> None:
    made = swarm(nodes)
    seconds = made.run()
    low = bound(SIZE, [UP] * nodes, [DOWN] * nodes)
    assert low <= seconds < 1.5 * low
    assert all(not node.plan.missing for node in made.nodes)
    assert sum(node.received for node in made.nodes) < 1.05 * (nodes - 1) * SIZE


def test_a_quarter_of_hostile_relays_costs_less_than_twice_the_time() -> None:
    calm, storm = swarm(6), swarm(8, liars=frozenset({3}), stallers=frozenset({5}))
    assert storm.run() < 2 * calm.run()
