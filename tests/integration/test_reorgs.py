"""Reorganisations of every depth at every step of the protocol: nodes end with the canonical chain, and go on.

One of a few depths at each step; `make test-reorgs` takes all from 1 to 64 at each (reorg_matrix.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from commonweight.core import seeds
from commonweight.core.state import WorkState
from commonweight.nodes.node import Node

from .reorg_life import PARAMS, SCRIPT, Life, essence, survive

pytestmark = [pytest.mark.chain, pytest.mark.slow, pytest.mark.timeout(600)]
DEPTHS = {step: (1, 7, 64, 20)[i % 4] for i, step in enumerate(SCRIPT)}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    life = Life(tmp_path_factory.mktemp("life"))
    yield life
    life.close()


@pytest.mark.parametrize("step", SCRIPT)
def test_a_reorganisation_of_any_depth_leaves_every_node_with_the_canonical_chain(
    life: Life, step: str
) -> None:
    life.reach(step)
    life.pump()
    reached = essence(life.state)
    survive(life, step, DEPTHS[step], reached)


def test_the_life_ended_as_the_rules_say(life: Life) -> None:
    life.reach("withdraw")
    (task,) = life.state.tasks.values()
    assert task.finished
    assert [w.state for _, w in sorted(task.rounds[0].works.items())] == [WorkState.VALID, WorkState.VALID]
    assert life.chain.view("Vault", "owed") == life.chain.token_balance(life.chain.addresses["Vault"])


def test_a_claim_that_another_branch_gave_to_somebody_else_is_given_up(life: Life) -> None:
    """One slot: on the first branch it is trainer-1's, on the second trainer-2 is there first. Nobody loses a bond."""
    life.reach("publish")
    life.pump()
    first, second = (life.nodes[name] for name in ("trainer-1", "trainer-2"))
    number = max(life.state.tasks) + 1
    publish = life.nodes["publisher"].kit.sender
    args = (PARAMS | {"slots": 1}, b"t" * 32, b"m" * 32, "http://127.0.0.1:8700")
    publish.request(f"publish:{number}", "Tasks", "publish", args)
    life.mine()
    free = {who.me: life.state.free[who.me] for who in (first, second)}

    def claim(who: Node) -> None:
        seal = seeds.seal_of(b"\x09" * 32, who.me)
        who.kit.sender.request(f"claim:{number}", "Tasks", "claim", (number, 0, seal))

    claim(first)
    life.check_states()
    assert life.state.tasks[number].rounds[0].works[0].trainer == first.me
    life.undo(1)
    claim(second)
    life.pump()
    life.check_states()
    life.check_journals()
    (work,) = life.state.tasks[number].rounds[0].works.values()
    assert work.trainer == second.me
    lost = first.kit.sender.effect(f"claim:{number}")
    assert lost is not None
    assert (lost.state, lost.error) == ("failed", "ClaimOver"), lost
    assert life.state.free[first.me] == free[first.me]
    assert life.state.free[second.me] == free[second.me] - PARAMS["bond"]
