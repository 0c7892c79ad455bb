"""The follower against a chain that changes its mind at random: its events are always one true history."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.chain.client import Head
from commonweight.chain.follower import REMEMBERED, Follower
from commonweight.core.errors import CommonweightError
from commonweight.core.events import Event


class FakeChain:
    """Blocks are numbers that are never reused; odd ones hold an event. ``late`` blocks are hidden by a late
    node.
    """

    def __init__(self, start: int = 0) -> None:
        self.blocks: list[int] = [0]
        self.made = 0
        self.late = 0
        self.confirmations = 0
        self.start = start
        self.fail = False

    def mine(self, count: int) -> None:
        for _ in range(count):
            self.made += 1
            self.blocks.append(self.made)

    def reorg(self, depth: int, grow: int) -> None:
        depth = min(depth, len(self.blocks) - 1)
        del self.blocks[len(self.blocks) - depth :]
        self.mine(depth + grow)

    @property
    def top(self) -> int:
        return max(0, len(self.blocks) - 1 - self.late)

    def head(self) -> Head:
        return Head(self.top, self.block_hash(self.top) or b"", 0)

    def block_hash(self, number: int) -> bytes | None:
        return self.blocks[number].to_bytes(32, "big") if number <= self.top else None

    def events(self, first: int, last: int) -> list[Event]:
        if self.fail:
            raise CommonweightError("E1203", "away")
        return [self.event(n) for n in range(first, min(last, self.top) + 1) if self.blocks[n] % 2]

    def event(self, number: int) -> Event:
        made = self.blocks[number].to_bytes(32, "big")
        return Event("Tasks", "Made", {"n": self.blocks[number]}, number, made, 0, 0, made)


def follower(chain: Any, depth: int = 0) -> Follower:
    return Follower(chain, depth)


def truth(chain: FakeChain, depth: int) -> list[Event]:
    return chain.events(chain.start, chain.top - depth)


STEP = st.one_of(
    st.tuples(st.just("mine"), st.integers(1, 5)),
    st.tuples(st.just("reorg"), st.integers(1, 12)),
    st.tuples(st.just("late"), st.integers(0, 4)),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("poll"), st.none()),
)


@settings(max_examples=300)
@given(st.lists(STEP, max_size=40), st.integers(0, 3), st.integers(0, 4))
def test_folding_what_it_says_gives_the_true_history(steps: list[Any], depth: int, start: int) -> None:
    chain = FakeChain(start)
    follow = follower(chain, depth)
    folded: list[Event] = []

    def poll() -> None:
        nonlocal folded
        try:
            fresh = follow.poll()
        except CommonweightError:
            fresh = []
        folded = list(follow.events) if follow.rewound else folded + fresh
        assert folded == follow.events

    for what, how in steps:
        if what == "mine":
            chain.mine(how)
        elif what == "reorg":
            chain.reorg(how, 1)
        elif what == "late":
            chain.late = how
        elif what == "fail":
            chain.fail = how
        else:
            poll()
    chain.late, chain.fail = 0, False
    chain.mine(1)
    poll()
    assert folded == truth(chain, depth)


def test_a_late_node_is_no_reorganisation() -> None:
    chain = FakeChain()
    chain.mine(9)
    follow = follower(chain)
    follow.poll()
    chain.late = 5
    assert follow.poll() == []
    assert not follow.rewound
    assert len(follow.events) == 5


def test_a_chain_begun_anew_is_read_from_the_start() -> None:
    """Deeper than every block that is remembered."""
    chain = FakeChain()
    follow = follower(chain)
    for _ in range(REMEMBERED + 20):
        chain.mine(1)
        follow.poll()
    chain.reorg(REMEMBERED + 19, 1)
    fresh = follow.poll()
    assert follow.rewound
    assert follow.events == fresh == truth(chain, 0)


def test_an_idle_poll_asks_one_question() -> None:
    chain = FakeChain()
    chain.mine(3)
    follow = follower(chain)
    follow.poll()
    asked: list[int] = []
    chain.block_hash = asked.append  # type: ignore[method-assign, assignment]
    head = Head(3, (3).to_bytes(32, "big"), 0)
    chain.head = lambda: head  # type: ignore[method-assign]
    assert follow.poll() == []
    assert asked == []
