"""What a task may promise and what it costs: the twin of the contracts' `Terms`, without a chain.

`complaints` lists what `Tasks.publish` would refuse, in the order in which it looks, so its first entry is the revert.
`estimate` is a publisher's forecast. Amounts are token wei, durations seconds. docs/protocol.md explains where the
inequalities come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

U16, U40, U96 = 2**16 - 1, 2**40 - 1, 2**96 - 1
MAX_WINDOW = 7 * 86_400
MAX_LEAVES = 2**24 - 2
VOTES_PER_SEAT = 16
LATE_SHARE = 8
HOSTILE = 0.5
"""Share of hostile seats against which a bond has to suffice."""
SENSITIVITY = 0.8
"""Chance that an honest check of a wholly faked work hits the fault."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the deployment fixes."""

    seat_stake: int = 1000 * 10**18
    exit_delay: int = 7 * 86_400
    risk_min: int = 10**17


@dataclass(frozen=True, slots=True)
class Terms:
    """Twin of `Types.Params`, apart from the merge."""

    reward: int = 10 * 10**18
    bond: int = 10 * 10**18
    agg_reward: int = 5 * 10**18 // 2
    agg_bond: int = 10 * 10**18
    slots: int = 8
    rounds: int = 16
    fee_bps: int = 1000
    want: int = 5
    quorum: int = 2
    lag: int = 1
    decoy_one_in: int = 0
    claim_t: int = 600
    train_t: int = 3600
    seal_t: int = 1800
    reveal_t: int = 900
    open_t: int = 900
    agg_t: int = 1800


@dataclass(frozen=True, slots=True)
class Rule:
    """How updates are merged: the other fields of `Types.Params`."""

    length: int = 4096
    shift: int = 8
    trim: int = 0
    lr_num: int = 7
    lr_den: int = 10
    momentum_num: int = 9
    momentum_den: int = 10


RULE = ("length", "shift", "trim", "lrNum", "lrDen", "momentumNum", "momentumDen")
"""The fields of `Rule` as the chain names them."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """`value` of ``what`` lies outside ``least..most`` (contracts: ``OutOfRange``, with the contracts' names)."""

    what: str
    value: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A publisher's forecast; see `estimate`."""

    budget: int
    """Locked at `publish`: the most that all rounds can cost."""
    honest: int
    """Cost when every lease is claimed, accepted and merged."""
    fee: int
    """Validators' share of one work."""
    risk: int
    """What each vote stakes."""
    decoys: float
    """Expected works that are paid and not merged."""
    seconds_most: int
    """From the first claim to the last merge when every window runs out and nothing is contested."""
    missed: float
    """Chance that no honest drawn seat finds a wholly faked work."""
    bond_least: int
    """Bond below which a cheat may expect to win."""


def fee(terms: Terms) -> int:
    """Validators' share of one work."""
    return terms.reward * terms.fee_bps // 10_000


def risk(terms: Terms, risk_min: int) -> int:
    """What each vote stakes: with decoys, skipping a check costs twice the fee that it saves, in expectation."""
    return max(risk_min, 2 * fee(terms) * max(terms.decoy_one_in, 1) // terms.want)


def budget(terms: Terms) -> int:
    """The most that all rounds can cost; what `publish` locks."""
    return terms.rounds * (terms.slots * (terms.reward + fee(terms)) + terms.agg_reward)


def least_bond(terms: Terms) -> int:
    """Bond from which faking a work loses money with half of all seats hostile.

    A fake is missed with ``exp(-0.4 want)``, so ``bond * (exp(0.4 want) - 1) >= reward`` is enough;
    ``exp(x) - 1 >= x + x**2 / 2`` makes that integer: ``bond * (10 want + 2 want**2) >= 25 reward``.
    """
    odds = 10 * terms.want + 2 * terms.want**2
    return max(terms.reward, -(-25 * terms.reward // odds))


def complaints(terms: Terms, rule: Rule, host: Host) -> list[Complaint]:
    """Everything that `publish` would refuse, in its order; empty when it would not."""
    return [c for c in _checks(terms, rule, host) if not c.least <= c.value <= c.most]


def _checks(t: Terms, rule: Rule, host: Host) -> Iterator[Complaint]:
    yield from _amounts(t, host)
    yield Complaint("slots", t.slots, 1, 256)
    yield Complaint("rounds", t.rounds, 1, U16)
    yield Complaint("quorum", t.quorum, 1, t.want)
    yield Complaint("lag", t.lag, 1, 4)
    windows = (t.claim_t, t.train_t, t.seal_t, t.reveal_t, t.open_t, t.agg_t)
    for name, value in zip(("claimT", "trainT", "sealT", "revealT", "openT", "aggT"), windows, strict=True):
        yield Complaint(name, value, 1, MAX_WINDOW)
    # A stake outlives twice the votes that it backs and the four juries that may follow.
    yield Complaint("exitDelay", host.exit_delay, 10 * (t.seal_t + t.reveal_t + t.open_t), U40)
    yield from _rules(rule)


def _amounts(t: Terms, host: Host) -> Iterator[Complaint]:
    yield Complaint("reward", t.reward, 1, U96)
    yield Complaint("want", t.want, 1, U16)
    if t.want < 1:
        return
    yield Complaint("bond", t.bond, least_bond(t), U96)
    yield Complaint("aggReward", t.agg_reward, 0, t.reward)
    yield Complaint("aggBond", t.agg_bond, 1, U96)
    yield Complaint("feeBps", t.fee_bps, 100, 5000)
    # Dropping every lease that is no decoy has to lose: bond / 8 * (D - 1) > reward, and bond >= reward.
    if t.decoy_one_in:
        yield Complaint("decoyOneIn", t.decoy_one_in, 10, 4096)
    yield Complaint("risk", risk(t, host.risk_min), 1, host.seat_stake // VOTES_PER_SEAT)


def _rules(rule: Rule) -> Iterator[Complaint]:
    yield Complaint("length", rule.length % 1024, 0, 0)
    yield Complaint("length", rule.length // 1024, 1, MAX_LEAVES // 2)
    yield Complaint("shift", rule.shift, 0, 24)
    yield Complaint("trim", rule.trim, 0, 49)
    yield Complaint("lrDen", rule.lr_den, 1, U16)
    yield Complaint("momentumDen", rule.momentum_den, 1, U16)
    yield Complaint("momentumNum", rule.momentum_num, 0, rule.momentum_den)


def missed(want: int, hostile: float = HOSTILE, sensitivity: float = SENSITIVITY) -> float:
    """Chance that no honest drawn seat finds a fake: a Poisson number of seats, each honest and lucky or not."""
    return math.exp(-want * (1 - hostile) * sensitivity)


def estimate(terms: Terms, host: Host) -> Estimate:
    """Forecast of a task that `complaints` does not refuse."""
    works = terms.rounds * terms.slots
    honest = works * (terms.reward + fee(terms)) + terms.rounds * terms.agg_reward
    training = terms.claim_t + terms.train_t
    checking = terms.seal_t + terms.reveal_t + terms.open_t + terms.agg_t
    return Estimate(
        budget=budget(terms),
        honest=honest,
        fee=fee(terms),
        risk=risk(terms, host.risk_min),
        decoys=works / terms.decoy_one_in if terms.decoy_one_in else 0.0,
        seconds_most=terms.rounds * (training + checking),
        missed=missed(terms.want),
        bond_least=least_bond(terms),
    )
