"""Rollout leases on the chain's events: which slots they are, who claims them, and who learns from which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import duties, rollouts
from commonweight.core.duties import Duty
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import RlSpec, parse_task
from commonweight.core.verdict import vote_word
from tests.rl_leases import TOML
from tests.unit.test_core_fold import ANN, BOB, EVE, ROOT, SEAL, Tale

RL = RlSpec(rollout_slots=2, rollout_age=1)
SLOTS = 4


def root(round_: int, slot: int) -> bytes:
    return bytes([round_ + 1, slot]) * 16


def told(*, disputed: tuple[int, ...] = (), accepts: int = 1) -> Tale:
    """Round 0 with four accepted works and settled, round 1 with its claims closed."""
    tale = Tale(slots=SLOTS, quorum=1)
    tale.claimed(0, ANN, BOB, ANN, BOB)
    for slot in range(SLOTS):
        tale.tell("Tasks", "Submitted", round=0, slot=slot, trainer=ANN, root=root(0, slot))
    tale.checking(0, 1)
    for slot in range(SLOTS):
        for seat in range(accepts):
            tale.tell("Panel", "Voted", poll=1, seat=seat, vote=vote_word(slot, 0, 0), counted=True)
        if slot in disputed:
            tale.tell("Court", "Filed", dispute=slot, round=0, slot=slot, tree=3, leaf=0)
        tale.tell("Tasks", "Opened", round=0, slot=slot, included=slot < 2 and slot not in disputed, paid=10)
    tale.tell("Tasks", "Advanced", round=0, model=ROOT, mask=3, skipped=False)
    tale.claimed(1, ANN, BOB, ANN, BOB)
    return tale


def sources(tale: Tale, index: int, slot: int, rl: RlSpec = RL) -> tuple[bytes, ...]:
    return rollouts.sources(tale.state, tale.state.tasks[1], rl, index, slot)


def test_the_last_slots_of_a_round_are_rollout_leases() -> None:
    assert [rollouts.is_rollout(RL, SLOTS, slot) for slot in range(6)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert not any(rollouts.is_rollout(RlSpec(), SLOTS, slot) for slot in range(8))


def test_accepted_rollouts_are_dealt_out_to_the_learning_leases_of_the_next_round() -> None:
    tale = told()
    assert sources(tale, 0, 0) == ()
    assert sources(tale, 1, 0) == (root(0, 2),)
    assert sources(tale, 1, 1) == (root(0, 3),)
    assert sources(tale, 1, 2) == (), "a rollout lease learns from nobody"


def test_one_learning_lease_alone_takes_no_more_than_its_share() -> None:
    tale = Tale(slots=SLOTS, quorum=1)
    for index, who in ((0, (ANN, BOB, ANN, BOB)), (1, (ANN,))):
        tale.claimed(index, *who)
        if index == 0:
            for slot in range(SLOTS):
                tale.tell("Tasks", "Submitted", round=0, slot=slot, trainer=ANN, root=root(0, slot))
            tale.checking(0, 1)
            for slot in range(SLOTS):
                tale.tell("Panel", "Voted", poll=1, seat=1, vote=vote_word(slot, 0, 0), counted=True)
                tale.tell("Tasks", "Opened", round=0, slot=slot, included=True, paid=10)
            tale.tell("Tasks", "Advanced", round=0, model=ROOT, mask=3, skipped=False)
    assert sources(tale, 1, 0) == (root(0, 2),)


def test_what_was_disputed_is_used_by_nobody_even_when_it_was_acquitted() -> None:
    tale = told(disputed=(2,))
    assert sources(tale, 1, 0) == (root(0, 3),)
    tale.tell("Tasks", "Resolved", round=0, slot=2, state=4, paid=10, lost=0)
    assert sources(tale, 1, 0) == (root(0, 3),)


def test_paid_without_a_quorum_is_not_accepted() -> None:
    assert sources(told(accepts=0), 1, 0) == ()


def test_rollouts_of_an_older_policy_are_refused() -> None:
    """A rollout work that entered a round late was played by the policy of the round before."""
    assert sources(told(), 1, 0, RlSpec(rollout_slots=2, rollout_age=0)) == ()
    tale = told()
    late = tale.state.tasks[1].rounds[0].works[2]
    late.origin = (-1, 2)
    assert sources(tale, 1, 0) == (root(0, 3),)
    assert root(0, 2) in sources(tale, 1, 0, RlSpec(rollout_slots=2, rollout_age=2))


def test_a_small_device_waits_for_a_rollout_slot() -> None:
    tale = Tale(slots=SLOTS, quorum=1)
    tale.tell("Tasks", "RoundBegun", round=0, base=ROOT, claimEnd=1000)
    task = tale.state.tasks[1]

    def claims(wants_rollouts: bool) -> bool:
        found = duties.trainer(
            tale.state,
            EVE,
            task,
            tale.now,
            wants=lambda slot: not wants_rollouts or rollouts.is_rollout(RL, SLOTS, slot),
        )
        return Duty.CLAIM in {todo.duty for todo in found}

    for slot in range(2):
        assert (claims(False), claims(True)) == (True, False)
        tale.tell("Tasks", "Claimed", round=0, slot=slot, trainer=(ANN, BOB)[slot], seal=SEAL)
    assert (claims(False), claims(True)) == (True, True)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8))
def test_no_rollout_is_learnt_from_twice(learning: int, rollout: int, claimed: int) -> None:
    slots, rl = learning + rollout, RlSpec(rollout_slots=rollout, rollout_age=1)
    tale = Tale(slots=slots, quorum=0)
    tale.claimed(0, *[ANN] * slots)
    for slot in range(slots):
        tale.tell("Tasks", "Submitted", round=0, slot=slot, trainer=ANN, root=root(0, slot))
    tale.checking(0, 1)
    for slot in range(slots):
        tale.tell("Tasks", "Opened", round=0, slot=slot, included=True, paid=10)
    tale.tell("Tasks", "Advanced", round=0, model=ROOT, mask=1, skipped=False)
    held = min(max(1, claimed), learning)
    tale.claimed(1, *[ANN] * held)
    taken = [r for slot in range(held) for r in sources(tale, 1, slot, rl)]
    assert len(taken) == len(set(taken))
    assert set(taken) <= {root(0, slot) for slot in range(learning, slots)}
    if held == learning:
        assert len(taken) == rollout


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("rollout_slots = 8", "below economy.slots"),
        ("rollout_slots = 1\nrollout_age = 0", "too old"),
        ("oversample = 0", "oversample"),
        ("min_solved = 0.9\nmax_solved = 0.1", "min_solved"),
        ("rollout_age = 9", "rollout_age"),
    ],
)
def test_impossible_rollouts_are_refused_by_name(lines: str, why: str) -> None:
    text = TOML.format(source="reverse:4").replace("lag = 1\n", f"lag = 1\n{lines}\n")
    with pytest.raises(CommonweightError, match=why) as raised:
        parse_task(text)
    assert raised.value.code == "E1004"
