"""`core.economics`: the inequalities, one by one, and what they are for. That the contracts agree is a forge test."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import economics
from commonweight.core.economics import Complaint, Host, Rule, Terms

GOOD = Terms()
HOST = Host()


def whats(terms: Terms = GOOD, rule: Rule | None = None, host: Host = HOST) -> list[str]:
    """Names of what is refused."""
    return [c.what for c in economics.complaints(terms, rule or Rule(), host)]


def test_the_defaults_are_accepted() -> None:
    assert whats() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"reward": 0, "agg_reward": 0}, "reward"),
        ({"want": 0}, "want"),
        ({"bond": GOOD.reward - 1}, "bond"),
        ({"want": 1, "quorum": 1}, "bond"),
        ({"agg_reward": GOOD.reward + 1}, "aggReward"),
        ({"agg_bond": 0}, "aggBond"),
        ({"fee_bps": 99}, "feeBps"),
        ({"decoy_one_in": 9}, "decoyOneIn"),
        ({"decoy_one_in": 4096}, "risk"),
        ({"slots": 257}, "slots"),
        ({"rounds": 0}, "rounds"),
        ({"quorum": 6}, "quorum"),
        ({"lag": 5}, "lag"),
        ({"train_t": 0}, "trainT"),
        ({"seal_t": 7 * 86_400}, "exitDelay"),
    ],
)
def test_one_thing_is_refused(change: dict[str, int], what: str) -> None:
    assert what in whats(replace(GOOD, **change))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"length": 1000}, "length"),
        ({"length": 0}, "length"),
        ({"shift": 25}, "shift"),
        ({"trim": 50}, "trim"),
        ({"lr_den": 0}, "lrDen"),
        ({"momentum_den": 0}, "momentumDen"),
        ({"momentum_num": 11}, "momentumNum"),
    ],
)
def test_one_part_of_a_rule_is_refused(change: dict[str, int], what: str) -> None:
    assert what in whats(rule=replace(Rule(), **change))


def test_a_complaint_says_what_would_do() -> None:
    found = economics.complaints(replace(GOOD, fee_bps=5001), Rule(), HOST)
    assert found == [Complaint("feeBps", 5001, 100, 5000)]


@given(st.integers(1, 60), st.integers(1, 10**22))
def test_at_the_least_bond_a_cheat_does_not_win(want: int, reward: int) -> None:
    """Expected gain of faking: the reward when missed, minus the bond when found."""
    missed = economics.missed(want)
    bond = economics.least_bond(replace(GOOD, want=want, reward=reward))
    assert missed * reward <= (1 - missed) * bond * (1 + 1e-9)
    assert bond >= reward


@given(st.integers(10, 4096), st.integers(1, 64), st.integers(100, 5000))
def test_with_decoys_laziness_loses(one_in: int, want: int, fee_bps: int) -> None:
    """A lazy accept saves one check, whose cost is at most the fee's share, and risks the stake once in ``one_in``."""
    terms = replace(GOOD, decoy_one_in=one_in, want=want, fee_bps=fee_bps)
    share = economics.fee(terms) / want
    assert economics.risk(terms, 1) / one_in >= 2 * share - 1


@given(st.integers(10, 4096), st.integers(1, 10**22))
def test_decoy_farming_loses(one_in: int, reward: int) -> None:
    """Dropping every lease that is no decoy costs an eighth of the bond each."""
    bond = economics.least_bond(replace(GOOD, reward=reward))
    assert (one_in - 1) * bond / economics.LATE_SHARE > reward


@given(st.integers(1, 256), st.integers(1, 65_535), st.integers(1, 10**22), st.integers(100, 5000))
def test_the_budget_covers_every_payment(slots: int, rounds: int, reward: int, fee_bps: int) -> None:
    terms = replace(GOOD, slots=slots, rounds=rounds, reward=reward, agg_reward=reward // 4, fee_bps=fee_bps)
    assert economics.budget(terms) == economics.estimate(terms, HOST).honest


def test_an_estimate() -> None:
    found = economics.estimate(replace(GOOD, decoy_one_in=16), HOST)
    assert found.budget == 16 * (8 * 11 * 10**18 + 5 * 10**18 // 2)
    assert found.decoys == 8
    assert found.risk == 2 * 16 * 10**18 // 5
    assert found.seconds_most == 16 * 9600
    assert math.isclose(found.missed, math.exp(-2))
    assert found.bond_least == 10 * 10**18
