"""The leader's state machine under any order of messages and deaths: agreement, progress, quorum."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.collectives import messages
from commonweight.collectives.messages import (
    BEGIN,
    GATHER,
    REDUCE,
    SETTLE,
    Done,
    Fault,
    Member,
    Ready,
    Recover,
    Report,
    Result,
    Start,
    View,
)
from commonweight.collectives.session import Rules, Session
from commonweight.core.errors import EncodingError

A, B, C, D = (Member(name, "127.0.0.1", 1000 + i) for i, name in enumerate("abcd"))
R0, R1, R2 = (bytes([i]) * 32 for i in (1, 2, 3))
KINDS = {
    BEGIN: "begin common",
    SETTLE: "settle common",
    GATHER: "gather common",
    REDUCE: "reduce 8 float32 none common",
}


def session(*members: Member, **rules: float) -> Session:
    return Session(
        Rules(**{"grace": 1.0, "silence": 5.0, **rules}), members[0].name, View(1, members), R0, 0.0
    )


def ready(operation: int, kind: int, body: bytes = R0) -> Ready:
    return Ready(operation, kind, KINDS[kind], body.hex())


def said(s: Session, kind: type) -> list[tuple[str, object]]:
    return [(send.to, send.message) for send in s.out if isinstance(send.message, kind)]


def run(s: Session, now: float, kind: int, body: bytes = R0) -> Result:
    """All members of the view go through one operation."""
    s.out.clear()
    for name in s.view.names:
        s.ready(now, name, ready(s.completed + 1, kind, body))
    if kind == REDUCE:
        for name in s.view.names:
            s.done(now, name, Done(s.view.number, s.completed + 1))
    assert s.last is not None
    return s.last


def test_a_round_ends_with_the_same_result_for_all() -> None:
    s = session(A, B, C)
    for kind in (BEGIN, GATHER, REDUCE, SETTLE):
        result = run(s, 1.0, kind)
        assert [to for to, _ in said(s, Result)] == ["a", "b", "c"]
        assert {m for _, m in said(s, Result)} == {result}
    assert s.completed == 4


def test_a_reduction_waits_for_all_to_be_done() -> None:
    s = session(A, B)
    run(s, 0, BEGIN)
    s.out.clear()
    for name in "ab":
        s.ready(1, name, ready(2, REDUCE))
    assert [to for to, _ in said(s, Start)] == ["a", "b"]
    s.done(1, "a", Done(s.view.number, 2))
    assert not said(s, Result)
    s.done(1, "b", Done(s.view.number - 1, 2))  # of an earlier attempt
    assert not said(s, Result)
    s.done(1, "b", Done(s.view.number, 2))
    assert len(said(s, Result)) == 2


def test_a_death_in_a_reduction_restarts_it_with_the_others() -> None:
    s = session(A, B, C)
    run(s, 0, BEGIN)
    for name in "abc":
        s.ready(1, name, ready(2, REDUCE))
    s.done(1, "a", Done(s.view.number, 2))
    s.out.clear()
    s.drop(2, "b", "its connection was lost")
    starts = said(s, Start)
    assert [to for to, _ in starts] == ["a", "c"]
    view = s.view
    assert view.names == ("a", "c")
    for name in "ac":
        s.done(2, name, Done(view.number, 2))
    assert s.last is not None
    assert s.last.ran == ("a", "c")


def test_silence_and_lag_cost_membership() -> None:
    s = session(A, B, C, lag=20.0, quorum=0.0)
    run(s, 0, BEGIN)
    s.heard(4, "b")
    s.tick(6)
    assert s.view.names == ("a", "b")
    s.ready(6, "a", ready(2, GATHER))
    for now in range(7, 28):
        s.heard(now, "b")
        s.tick(now)
    assert s.view.names == ("a",)
    assert s.completed == 2


def in_a_reduction(*members: Member) -> Session:
    s = session(*members)
    run(s, 0, BEGIN)
    for member in members:
        s.ready(1, member.name, ready(2, REDUCE))
    return s


def break_link(s: Session, now: float, receiver: str) -> str:
    """``receiver`` complains about its left neighbour, whose name is returned, and the grace passes."""
    for name in s.view.names:
        s.heard(now, name)
    left = s.view.names[s.view.names.index(receiver) - 1]
    s.fault(now, receiver, Fault(s.view.number, 2, left, "corrupt: a tile was changed on its way", 3))
    s.tick(now + 1.1)
    return left


def edges(s: Session) -> set[tuple[str, str]]:
    names = s.view.names
    return set(zip(names, names[1:] + names[:1], strict=True))


def test_a_bad_link_is_gone_around_and_nobody_loses_the_place() -> None:
    s = in_a_reduction(A, B, C, D)
    assert break_link(s, 2.0, "c") == "b"
    assert set(s.view.names) == set("abcd")
    assert s.view.names[0] == "a"
    assert ("b", "c") not in edges(s)
    assert s.view.number > 1


def test_who_breaks_every_ring_loses_the_place() -> None:
    s = in_a_reduction(A, B, C)
    first = break_link(s, 2.0, "b")
    second = break_link(s, 4.0, "b")
    assert {first, second} == {"a", "c"}
    assert s.view.names == ("a", "c")


def test_between_two_a_link_gets_three_chances() -> None:
    s = in_a_reduction(A, B)
    for now in (2.0, 4.0):
        break_link(s, now, "a")
        assert set(s.view.names) == {"a", "b"}
    break_link(s, 6.0, "a")
    assert s.view.names == ("a",)


def test_echoes_of_a_failure_accuse_nobody() -> None:
    s = in_a_reduction(A, B, C, D)
    for name in "abd":
        left = s.view.names[s.view.names.index(name) - 1]
        s.fault(2, name, Fault(s.view.number, 2, left, "closed: the connection was closed", 3))
    s.fault(2, "c", Fault(s.view.number, 2, "b", "corrupt: a tile was changed", 3))
    for name in "abcd":
        s.heard(3, name)
    s.tick(3.2)
    assert set(s.view.names) == set("abcd")
    assert ("b", "c") not in edges(s)
    assert {fields["sender"] for event, fields in s.events if event == "fault"} == {"b"}


def test_a_stall_is_blamed_on_the_link_of_the_slowest_receiver() -> None:
    s = in_a_reduction(A, B, C, D)
    for receiver, suspect, progress in (("a", "d", 9), ("b", "a", 8), ("c", "b", 2), ("d", "c", 7)):
        s.heard(2, receiver)
        s.fault(2, receiver, Fault(s.view.number, 2, suspect, "stalled: nothing moved", progress))
    s.tick(3.2)
    assert ("b", "c") not in edges(s)


def test_less_than_the_quorum_does_not_go_on() -> None:
    s = session(A, B, C, D, quorum=0.5)
    run(s, 0, BEGIN)
    s.drop(1, "b", "lost")
    s.drop(1, "c", "lost")
    assert not s.failed
    s.drop(1, "d", "lost")
    assert "1 of 4" in s.failed


def test_leaving_costs_no_quorum() -> None:
    s = session(A, B, C, D, quorum=0.51)
    run(s, 0, BEGIN)
    for name in "bcd":
        s.leave(1, name)
    assert not s.failed
    assert s.view.names == ("a",)


def test_the_majority_decides_the_root_and_strays_are_told() -> None:
    s = session(A, B, C)
    run(s, 0, BEGIN)
    for name, root in (("a", R2), ("b", R1), ("c", R1)):
        s.ready(1, name, ready(2, SETTLE, root))
    assert s.last is not None
    assert s.last.root == R1
    assert s.last.wanted
    assert {p.name: p.body for p in s.last.parts} == {"a": R2.hex(), "b": R1.hex(), "c": R1.hex()}


def test_of_two_different_roots_the_leaders_counts() -> None:
    s = session(A, B)
    run(s, 0, BEGIN)
    s.ready(1, "b", ready(2, SETTLE, R2))
    s.ready(1, "a", ready(2, SETTLE, R1))
    assert s.last is not None
    assert s.last.root == R1


def test_a_joiner_enters_only_with_an_agreed_root() -> None:
    s = session(A, B)
    run(s, 0, BEGIN)
    s.join(1, C, R2)
    run(s, 1, SETTLE, R1)
    offer = said(s, Recover)
    assert offer[0][0] == "c"
    assert isinstance(offer[0][1], Recover)
    assert offer[0][1].root == R1
    assert {m.name for m in offer[0][1].providers} == {"a", "b"}
    for name in "ab":
        s.ready(2, name, ready(3, BEGIN, R1))
    assert s.completed == 2  # the round waits for the joiner that is fetching
    s.join(2.5, C, R1)
    assert s.completed == 3
    assert s.view.names == ("a", "b", "c")


def test_a_joiner_copies_a_replica_and_is_told_its_root() -> None:
    """However its steps fall between those of the members, a joiner of a swarm of replicas gets in and stops nobody."""
    for early in range(6):
        s = session(A, B, lag=20.0, quorum=0.0)
        own = {"a": R1, "b": R2}
        steps = [
            lambda s=s: s.join(0, C, bytes(32)),
            lambda s=s: [s.ready(0, n, Ready(1, BEGIN, "begin own", R0.hex())) for n in "ab"],
            lambda s=s, own=own: [s.ready(0, n, Ready(2, SETTLE, "settle own", own[n].hex())) for n in "ab"],
            lambda s=s, own=own: [s.ready(0, n, Ready(3, BEGIN, "begin own", own[n].hex())) for n in "ab"],
            lambda s=s, own=own: [s.ready(0, n, Ready(4, SETTLE, "settle own", own[n].hex())) for n in "ab"],
        ]
        steps.insert(min(early, 4), steps.pop(0))
        for step in steps:
            step()
            for _, offer in said(s, Recover):
                assert offer.providers[0].name == {R1: "a", R2: "b"}[offer.root]
                s.join(0, C, offer.root)
            s.out[:] = [send for send in s.out if not isinstance(send.message, Recover)]
        while "c" not in s.view.names:  # each further round lets it in at the latest
            kind = SETTLE if s.completed % 2 else BEGIN
            number, what = s.completed + 1, "settle own" if kind == SETTLE else "begin own"
            assert number < 9, f"joining after step {early} never ends"
            for name in "ab":
                s.ready(0, name, Ready(number, kind, what, own[name].hex()))
            for _, offer in said(s, Recover):
                s.join(0, C, offer.root)
            s.out[:] = [send for send in s.out if not isinstance(send.message, Recover)]
        assert s.view.names == ("a", "b", "c")
        assert [to for to, m in said(s, Result) if m == s.last] == ["a", "b", "c"]


def test_a_joiner_that_was_let_in_and_never_goes_on_is_left_behind_after_the_lag() -> None:
    s = session(A, B, lag=20.0, silence=5.0)
    for operation, kind in ((1, "begin"), (2, "settle")):
        for name, root in (("a", R1), ("b", R2)):
            s.ready(
                0, name, Ready(operation, SETTLE if kind == "settle" else BEGIN, f"{kind} own", root.hex())
            )
    s.join(0, C, R2)
    for name, root in (("a", R1), ("b", R2)):
        s.ready(1, name, Ready(3, BEGIN, "begin own", root.hex()))
    assert s.view.names == ("a", "b", "c")
    for name, root in (("a", R1), ("b", R2)):
        s.ready(2, name, Ready(4, SETTLE, "settle own", root.hex()))
    for now in range(2, 23):
        for name in "abc":  # its beats go on: only its program stands still
            s.heard(now, name)
        s.tick(now)
        assert s.completed == 3
    for name in "abc":
        s.heard(23, name)
    s.tick(23)
    assert s.view.names == ("a", "b")
    assert s.completed == 4
    assert {p.name for p in s.last.parts} == {"a", "b"}  # type: ignore[union-attr]


def test_a_joiner_that_never_finishes_delays_a_round_by_the_patience_only() -> None:
    s = session(A, B, patience=3.0, silence=60)
    run(s, 0, BEGIN)
    s.join(1, C, R2)
    run(s, 1, SETTLE, R1)
    for name in "ab":
        s.ready(2, name, ready(3, BEGIN, R1))
    s.tick(4.9)
    assert s.completed == 2
    s.tick(5.1)
    assert s.completed == 3
    assert s.view.names == ("a", "b")


def test_the_first_round_waits_for_the_expected_number() -> None:
    s = session(A, expect=3, gather=10.0)
    s.ready(0, "a", ready(1, BEGIN))
    s.join(1, B, R0)
    assert s.completed == 0
    s.join(2, C, R0)
    assert s.completed == 1
    assert s.view.names == ("a", "b", "c")


def test_members_at_different_operations_do_not_mix() -> None:
    s = session(A, B, C)
    run(s, 0, BEGIN)
    s.ready(1, "a", ready(2, REDUCE))
    s.ready(1, "b", Ready(2, REDUCE, "reduce 9 float32 none common", ""))
    assert s.view.names == ("a", "c")


def test_a_member_with_a_foreign_root_cannot_begin() -> None:
    s = session(A, B)
    run(s, 0, BEGIN)
    run(s, 0, SETTLE, R1)
    s.ready(1, "a", ready(3, BEGIN, R1))
    s.ready(1, "b", ready(3, BEGIN, R2))
    assert s.view.names == ("a",)


def report(
    member: Member, view: View, completed: int, last: Result | None, waiting: Ready | None, done: int
) -> Report:
    ran = view.names if done else ()
    return Report(member, view, completed, (last,) if last else (), (waiting,) if waiting else (), done, ran)


def test_a_new_leader_repeats_a_result_that_only_some_have_seen() -> None:
    view = View(5, (A, B, C))
    result = Result(7, view, view.names, R1, False, ())
    reports = {
        "b": report(B, view, 7, result, None, 0),
        "c": report(C, view, 6, None, ready(7, REDUCE), 5),
    }
    s = Session.resume(Rules(), "b", reports, 0.0)
    assert s.view.number > 5
    assert s.view.names == ("b", "c")
    assert (s.completed, s.root) == (7, R1)
    assert ("c", result) in said(s, Result)


def test_a_new_leader_ends_a_reduction_that_all_survivors_hold() -> None:
    view = View(5, (A, B, C))
    last = Result(6, view, (), R1, False, ())
    reports = {m.name: report(m, view, 6, last, ready(7, REDUCE), 5) for m in (B, C)}
    s = Session.resume(Rules(), "b", reports, 0.0)
    assert s.completed == 7
    assert s.last is not None
    assert s.last.ran == ("a", "b", "c")  # the dead leader's values are in everybody's sum


def test_a_new_leader_runs_again_what_not_all_survivors_hold() -> None:
    view = View(5, (A, B, C))
    last = Result(6, view, (), R1, False, ())
    reports = {
        "b": report(B, view, 6, last, ready(7, REDUCE), 5),
        "c": report(C, view, 6, last, ready(7, REDUCE), 0),
    }
    s = Session.resume(Rules(), "b", reports, 0.0)
    assert s.completed == 6
    assert [to for to, _ in said(s, Start)] == ["b", "c"]


class World:
    """Members around one leader with messages in flight, any of which may be delayed past a death."""

    def __init__(self, seed: int, size: int) -> None:
        self.random = random.Random(seed)
        members = tuple(Member(f"m{i}", "h", i) for i in range(size))
        self.s = Session(Rules(silence=1e9, lag=1e9, grace=0.1, quorum=0.0), "m0", View(1, members), R0, 0.0)
        self.done_at = {m.name: 0 for m in members}  # operations each member completed
        self.results: dict[int, set[Result]] = {}
        self.mail: list[tuple[str, object]] = []
        self.running: dict[str, tuple[int, int]] = {}
        self.now = 0.0

    def collect(self) -> None:
        self.mail += [(send.to, send.message) for send in self.s.out]
        self.s.out.clear()

    def kind(self, operation: int) -> int:
        return (BEGIN, REDUCE, SETTLE)[(operation - 1) % 3]

    def step(self) -> None:
        self.now += 0.05
        roll = self.random.random()
        alive = list(self.s.view.names)
        name = self.random.choice(alive)
        if roll < 0.35 and self.mail:
            receiver = self.random.choice(self.mail)[0]
            at = next(i for i, (to, _) in enumerate(self.mail) if to == receiver)
            self.deliver(*self.mail.pop(at))  # per member in order, as TCP does
        elif roll < 0.7:
            operation = self.done_at[name] + 1
            if operation == self.s.completed + 1:
                self.s.ready(self.now, name, ready(operation, self.kind(operation)))
        elif roll < 0.9 and name in self.running:
            view, operation = self.running.pop(name)
            self.s.done(self.now, name, Done(view, operation))
        elif roll < 0.93 and len(alive) > 1 and name != "m0":
            self.s.drop(self.now, name, "died")
        elif roll < 0.96:
            self.s.fault(
                self.now, name, Fault(self.s.view.number, self.s.completed + 1, alive[-1], "broken: x", 1)
            )
        self.s.tick(self.now)
        self.collect()

    def deliver(self, to: str, message: object) -> None:
        if isinstance(message, Start):
            self.running[to] = (message.view.number, message.operation)
        elif isinstance(message, Result):
            self.results.setdefault(message.operation, set()).add(message)
            self.running.pop(to, None)
            self.done_at[to] = message.operation


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 6))
def test_whatever_happens_everybody_gets_the_same_results_in_order(seed: int, size: int) -> None:
    world = World(seed, size)
    for _ in range(400):
        world.step()
    for operation, results in world.results.items():
        assert len(results) == 1, f"operation {operation} ended twice"
        (result,) = results
        assert set(result.view.names) <= {f"m{i}" for i in range(size)}
    for name in world.s.view.names:
        assert world.s.completed - 1 <= world.done_at[name] or world.mail
    if not world.s.failed:
        assert world.s.completed > 3


@given(st.binary(max_size=200))
def test_the_message_decoder_is_total(raw: bytes) -> None:
    try:
        message = messages.decode(raw)
    except EncodingError:
        return
    assert messages.encode(message) == raw
