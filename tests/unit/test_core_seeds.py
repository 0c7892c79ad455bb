"""Sortition, audit assignment and seeds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import seeds
from commonweight.core.verdict import Outcome, Verdict, read_vote, vote_word
from commonweight.core.works import WITHHELD

SEED = st.binary(min_size=32, max_size=32)


@given(SEED, st.integers(0, 255), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_drawn_seats_cover_distinct_segments(
    seed: bytes, item: int, members: int, checks: int, segments: int
) -> None:
    checks = min(checks, segments)
    drawn = list(range(1, members + 1))
    taken = [seeds.audit_segments(seed, item, segments, checks, seat, drawn) for seat in drawn]
    assert all(len(set(t)) == len(t) == checks and set(t) <= set(range(segments)) for t in taken)
    assert len({s for t in taken for s in t}) == min(segments, members * checks)


@given(SEED, st.integers(1, 500), st.integers(1, 500))
def test_everybody_is_drawn_when_there_are_few_seats(seed: bytes, seats: int, want: int) -> None:
    drawn = [seeds.is_drawn(seed, 0, seat, seats, want) for seat in range(1, seats + 1)]
    assert all(drawn) if seats <= want else True


def test_the_draw_is_close_to_what_is_wanted() -> None:
    counts = [
        sum(seeds.is_drawn(seeds.tagged("t", i.to_bytes(4, "big")), 0, s, 200, 5) for s in range(200))
        for i in range(100)
    ]
    assert 4 < sum(counts) / len(counts) < 6


@given(SEED, st.integers(0, 1000))
def test_batches_are_a_function_of_seed_and_step(seed: bytes, step: int) -> None:
    one = seeds.batch_offsets(seed, step, 8, 1000)
    assert one == seeds.batch_offsets(seed, step, 8, 1000)
    assert all(0 <= offset < 1000 for offset in one)
    assert one != seeds.batch_offsets(seed, step + 1, 8, 10**9)


def test_lease_seed_depends_on_every_part() -> None:
    parts: list[object] = [1, bytes(20), 2, 3, 4, bytes(32), bytes(32), bytes(20)]
    base = seeds.lease_seed(*parts)  # type: ignore[arg-type]
    for i, part in enumerate(parts):
        changed = parts.copy()
        changed[i] = part + 1 if isinstance(part, int) else b"\x01" + part[1:]  # type: ignore[index]
        assert seeds.lease_seed(*changed) != base  # type: ignore[arg-type]


@given(st.integers(0, 255), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_vote_words_read_back(item: int, tree: int, value: int) -> None:
    assert read_vote(vote_word(item, tree, value)) == (item, tree, value)


@pytest.mark.parametrize(
    ("verdict", "vote"),
    [
        (Verdict(Outcome.VALID, "", tree=3, leaf=2), (5, 0, 0)),
        (Verdict(Outcome.INVALID, "", tree=3, leaf=2), (5, 3, 3)),
        (Verdict(Outcome.WITHHELD, ""), (5, 0, WITHHELD)),
    ],
)
def test_verdicts_become_votes(verdict: Verdict, vote: tuple[int, int, int]) -> None:
    word = verdict.vote(5)
    assert word is not None
    assert read_vote(word) == vote


def test_our_own_failure_is_no_vote() -> None:
    assert Verdict(Outcome.ERROR, "crashed").vote(0) is None
