"""Whom a member joins, and who may found a session: whoever looks, the same history holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from commonweight.collectives.interface import Standing
from commonweight.collectives.lookout import Seen, alike, hindrance, session
from commonweight.collectives.messages import Member, Position

NAMES = ("ada", "bob", "cyd", "dan", "eve")


def seen(name: str, work: int, root: int = 1, engaged: bool = False, leader: str = "") -> Seen:
    follows = (Member(leader, "127.0.0.1", 1),) if leader else ()
    return Seen(name, "127.0.0.1", 1, Position(work, bytes([root]) * 32, engaged or bool(leader), follows))


def others(everybody: list[Seen], me: Seen) -> dict[str, Seen]:
    return {s.name: s for s in everybody if s is not me}


histories = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.sets(st.sampled_from(NAMES), min_size=1)),
    min_size=1,
    max_size=len(NAMES),
)


@given(histories, st.integers(0, 4))
def test_of_members_who_see_each_other_at_most_one_founds(
    held: list[tuple[int, int, set[str]]], founder: int
) -> None:
    waiting = [seen(name, *state[:2]) for name, state in zip(NAMES, held, strict=False)]
    founding = [
        me
        for me, (work, _, members) in zip(waiting, held, strict=True)
        if not hindrance(
            me, Standing(work, tuple(sorted(members))), me.name == NAMES[founder], others(waiting, me)
        )
    ]
    assert len(founding) <= 1
    if founding:
        assert founding[0].position.work == max(w.position.work for w in waiting)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=2, max_size=5))
def test_of_two_sessions_exactly_one_gives_way(held: list[tuple[int, int]]) -> None:
    leaders = [seen(name, *state, leader=name) for name, state in zip(NAMES, held, strict=False)]
    best = session({s.name: s for s in leaders})
    assert best is not None
    for one in leaders:
        for two in leaders:
            assert one is two or one.outranks(two) != two.outranks(one)
        assert one is best or best.outranks(one)


def test_a_minority_waits_and_says_for_whom() -> None:
    me, last = seen("ada", 9), Standing(9, ("ada", "bob", "cyd"))
    assert hindrance(me, last, True, {}) == (
        "only 1 of the 3 members who took the last step are there; waiting for bob, cyd"
    )
    assert hindrance(me, last, False, {"bob": seen("bob", 9)}) == ""
    assert "waiting for bob, cyd" in hindrance(me, last, False, {"bob": seen("bob", 0, root=0)})
    assert "history that goes on is held by bob" in hindrance(me, last, True, {"bob": seen("bob", 10)})


def test_a_founder_without_history_founds_beside_nobody_who_has_one() -> None:
    assert hindrance(seen("ada", 0), Standing(), True, {"bob": seen("bob", 0)}) == ""
    assert "bob" in hindrance(seen("ada", 0), Standing(), True, {"bob": seen("bob", 1)})
    assert "no session" in hindrance(seen("bob", 0), Standing(), False, {"ada": seen("ada", 0)})
    assert "cannot be joined" in hindrance(
        seen("ada", 0), Standing(), True, {"bob": seen("bob", 0, engaged=True)}
    )


def test_who_follows_a_dead_leader_leads_nothing() -> None:
    assert session({"bob": seen("bob", 5, leader="ada")}) is None
    assert (
        alike(
            seen("ada", 5),
            {"bob": seen("bob", 5), "cyd": seen("cyd", 4, 2), "dan": seen("dan", 5, engaged=True)},
        )
        == 2
    )
