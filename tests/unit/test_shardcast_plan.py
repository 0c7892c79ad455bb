"""What is asked of whom: rarest first, few at a time, measured sources, endgame; and what a sender gives."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from commonweight.shardcast.giving import Giving
from commonweight.shardcast.limits import LIMITS
from commonweight.shardcast.plan import Plan, Source

MIB = 1 << 20


def plan(shards: int = 8, held: int = 0, **haves: int) -> Plan:
    sources = {name: Source(have=have) for name, have in haves.items()}
    return Plan([4 * MIB] * shards, held, random.Random(1), LIMITS, sources)


def test_the_rarest_shards_are_asked_for_first() -> None:
    made = plan(8, a=0b1111_1111, b=0b0000_1111, c=0b0000_1111)
    assert set(made.ask("a", 0.0)) <= {4, 5, 6, 7}


def test_what_is_held_or_booked_is_not_asked_for() -> None:
    made = plan(8, held=0b0000_1111, a=255, b=255)
    first, second = made.ask("a", 0.0), made.ask("b", 0.0)
    assert set(first) | set(second) <= {4, 5, 6, 7}
    assert not set(first) & set(second)


def test_other_choices_are_free_again_once_the_source_has_chosen() -> None:
    made = plan(40, a=2**40 - 1, b=2**40 - 1)
    asked = made.ask("a", 0.0)
    assert len(asked) > 1
    assert made.started("a", asked[0])
    assert not made.started("a", 39 if 39 not in asked else 38)
    assert made.sources["a"].booked == (asked[0],)


@given(st.integers(1, 40), st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=9), st.integers(0, 99))
def test_at_most_four_requests_whatever_the_sources(shards: int, haves: list[int], seed: int) -> None:
    made = plan(shards, **{f"s{i}": have & (2**shards - 1) for i, have in enumerate(haves)})
    asked = {name: made.ask(name, 0.0) for name in made.ranked(made.sources)}
    flat = [index for indices in asked.values() for index in indices]
    assert sum(bool(indices) for indices in asked.values()) <= LIMITS.in_flight
    assert len(flat) == len(set(flat))
    for name, indices in asked.items():
        assert all(made.sources[name].have >> index & 1 for index in indices)


def test_the_better_measured_source_is_asked() -> None:
    made = plan(2, **{f"s{i}": 3 for i in range(6)})
    for i, source in enumerate(made.sources.values()):
        source.tried, source.rate = 1, 1e6 * (i + 1)
    assert made.ask("s0", 0.0) == ()
    assert made.ask("s5", 0.0)


def test_the_last_shard_is_asked_for_again_where_it_comes_sooner() -> None:
    made = plan(1, a=1, b=1)
    made.sources["b"].tried, made.sources["b"].rate = 1, 100.0 * MIB
    assert made.ask("a", 0.0) == (0,)
    made.started("a", 0)
    made.sources["a"].moved = 1000
    assert made.ask("b", 0.01) == ()
    assert made.ask("b", 1.0) == (0,)
    made.started("b", 0)
    made.finished("b", 1.1)
    assert made.overtaken(0) == ["a"]
    made.dropped("a", 1.2)
    assert not made.sources["a"].busy
    assert made.sources["a"].rate < 2000
    assert not made.missing


def test_who_refused_is_left_alone_for_a_moment() -> None:
    made = plan(1, a=1)
    made.ask("a", 0.0)
    made.released("a")
    made.refused("a", 0.0)
    assert made.ask("a", LIMITS.refusal_pause / 2) == ()
    assert made.ask("a", LIMITS.refusal_pause) == (0,)


def test_an_origin_gives_every_shard_once_before_any_twice() -> None:
    giving, rng = Giving(8, 4.0), random.Random(1)
    given_ = [giving.choose(list(range(8)), True, 0.0, rng) for _ in range(8)]
    assert sorted(i for i in given_ if i is not None) == list(range(8))
    assert giving.choose([3], True, 0.1, rng) == 3


def test_a_shard_given_a_moment_ago_is_held_back_and_not_for_long() -> None:
    giving, rng = Giving(8, 4.0), random.Random(1)
    assert giving.choose([3], True, 0.0, rng) == 3
    assert giving.choose([3], True, 1.0, rng) is None
    assert giving.choose([3], True, 5.0, rng) == 3
    assert giving.choose([3], False, 5.1, rng) == 3
    assert giving.choose([], True, 5.1, rng) is None


def test_those_who_only_refuse_do_not_keep_a_shard_from_the_others() -> None:
    """Two unmeasured sources that refused in turn were asked for the last shard for ever."""
    made = plan(1, a=1, b=1, good=1)
    made.sources["good"].tried, made.sources["good"].rate = 1, 1e6
    asked = []
    for turn in range(3):
        name = next(n for n in made.ranked(made.sources) if made.ask(n, float(turn)))
        asked.append(name)
        made.released(name)
        made.refused(name, float(turn))
    assert asked[2] == "good"
