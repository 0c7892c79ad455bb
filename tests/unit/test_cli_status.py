"""What `commonweight status` prints fits a terminal of 80 columns: nothing is cut, nobody's name is folded."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from commonweight.cli.demo import view
from commonweight.core.state import Contest, Poll, Proposal, Round, Seat, State, Task, Work, WorkState

TRAINERS = [bytes([0xA0 + i]) * 20 for i in range(12)]
OWNERS = [bytes([0x50 + i]) * 20 for i in range(12)]
NAMES = {who: f"trainer-{i + 1}" for i, who in enumerate(TRAINERS)} | {
    who: f"validator-{i + 1}" for i, who in enumerate(OWNERS)
}
PARAMS = {"rounds": 12, "slots": 16, "openT": 60, "reward": 10**19}


def busy_task() -> tuple[State, Task]:
    """Twelve rounds, the last one contested; every number as wide as it gets on a large task."""
    task = Task(1, b"p" * 20, b"s" * 32, b"i" * 32, PARAMS, {}, "")
    state = State(tasks={1: task}, seats={i + 1: Seat(i + 1, who, 1) for i, who in enumerate(OWNERS)})
    for index in range(12):
        works = {
            slot: Work(
                slot, who, b"", 1, WorkState.DISPUTED, root=b"r" * 32, paid=2 * 10**20 + 123_456 * 10**12
            )
            for slot, who in enumerate(TRAINERS)
        }
        model = bytes([index]) * 32 if index < 11 else None
        task.rounds[index] = Round(
            index, b"b" * 32, 100, 50, works, beacon=1, train_end=200, poll=index + 1, model=model
        )
        state.polls[index + 1] = Poll(index + 1, b"a" * 20, 100, 300, 400, 3, 1, 12, 5, tuple(range(1, 13)))
    contest = Contest(OWNERS[0], 7, 3, 500)
    task.rounds[11].proposal = Proposal(b"m" * 32, OWNERS[1], 400, 400, contest)
    return state, task


def printed(width: int) -> str:
    state, task = busy_task()
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view.rounds_table(state, task, 350, [2.0 - i / 10 for i in range(12)]))
    console.print(view.people_table(state, task, NAMES, None, 350))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nothing_is_cut_and_no_row_is_folded_at_80_columns() -> None:
    text = printed(80)
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    for name in NAMES.values():
        assert sum(name in words for words in lines) == 1, name
    assert any("contested" in words for words in lines)
    assert sum(bool(words) and words[0].isdigit() for words in lines) == 12


@pytest.mark.parametrize("width", [40, 60, 120, 200])
def test_whatever_the_width_nothing_is_cut(width: int) -> None:
    assert "…" not in printed(width)


def test_an_owner_of_several_seats_is_named_by_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    state, _ = busy_task()
    state.seats[13] = Seat(13, OWNERS[0], 1)
    view.render_status(state, view.Head(7, b"", 350), 0, 0)
    said = capsys.readouterr().out
    assert "seats 1, 13" in said
    assert "…" not in said


def test_a_seat_earned_under_a_task_only_what_its_polls_paid() -> None:
    state, task = busy_task()
    state.polls[1].settled[1] = (7, 0)
    state.polls[99] = Poll(99, b"a" * 20, 100, 300, 400, 3, 1, 12, 5, (1,), settled={1: (1000, 0)})
    assert view.earned(state, task, OWNERS[0]) == 7
