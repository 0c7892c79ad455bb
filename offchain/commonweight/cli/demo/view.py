"""What a person sees: a live table on a terminal, plain lines in a pipe, and the closing summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...chain.client import Head
from ...core.duties import poll_over
from ...core.events import Event
from ...core.state import Round, State, Task, WorkState
from ...nodes.story import line, namer, tokens
from ..live import LiveView

BARS = "▁▂▃▄▅▆▇█"
RECENT = 10


def phase(state: State, round_: Round, now: int) -> str:
    """Where a round stands, in one word, and the seconds until its window closes."""
    if round_.settled:
        return "settled"
    if round_.proposal is not None:
        return "contested" if round_.proposal.contest else "proposed"
    if round_.poll is not None:
        poll = state.polls[round_.poll]
        if now < poll.seal_end:
            return _until("checking", poll.seal_end, now)
        return "opening" if poll_over(poll, now) else _until("revealing", poll.reveal_end, now)
    if round_.train_end is None:
        return _until("claiming", round_.claim_end, now)
    return _until("training", round_.train_end, now)


def _until(word: str, end: int, now: int) -> str:
    return f"{word} {end - now}s" if end > now else word


def activity(state: State, task: Task, who: bytes, now: int) -> str:
    """What a participant is doing, as far as the chain shows it."""
    seat = next((s.id for s in state.seats.values() if s.owner == who), None)
    for round_ in reversed(list(task.rounds.values())):
        mine = [w for w in round_.works.values() if w.trainer == who]
        if mine:
            word = mine[0].state.name.lower()
            return f"{round_.index}: {'training' if word == 'claimed' and round_.train_end else word}"
        if seat is not None and round_.poll is not None:
            poll = state.polls[round_.poll]
            step = "settled" if seat in poll.settled else "revealed" if seat in poll.revealed else None
            return f"{round_.index}: {step or ('sealed' if seat in poll.sealed else 'checking')}"
    return "seated" if seat is not None else "starting"


def spark(values: list[float]) -> str:
    """Losses as a row of bars."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return "".join(BARS[int((v - low) / (high - low or 1) * (len(BARS) - 1))] for v in values)


class View(LiveView):
    """What happened on the chain, and how rounds and participants stand."""

    def __init__(
        self, console: Console, title: str, names: Mapping[bytes, str], cheater: bytes | None
    ) -> None:
        super().__init__(console, title, RECENT)
        self.names = dict(names)
        self.cheater = cheater

    def events(self, events: list[Event]) -> None:
        """Tell what happened on the chain."""
        name = namer(self.names)
        for event in events:
            text = line(event, name)
            if text:
                self.say(f"block {event.block:>4}  {text}")

    def show(self, state: State, task: Task | None, now: int, block: int, losses: list[float]) -> None:
        """Redraw the live view."""
        if self.live is None:
            return
        parts: list[Any] = [Text(f"{self.title}   block {block}", style="bold")]
        if task is not None:
            parts += [
                rounds_table(state, task, now, losses),
                people_table(state, task, self.names, self.cheater, now),
            ]
        self.draw(*parts)


def _table(*columns: str, title: str | None = None) -> Table:
    """A table whose cells are never cut: it fits 80 columns as a rule, and folds what does not."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, expand=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def rounds_table(state: State, task: Task, now: int, losses: list[float]) -> Table:
    """One row per round."""
    title = f"rounds 0 to {task.params['rounds'] - 1}" + (f"; loss {spark(losses)}" if losses else "")
    table = _table(
        "round", "phase", "claimed", "submitted", "accepted", "rejected", "loss", "model", title=title
    )
    for round_ in task.rounds.values():
        works = list(round_.works.values())
        loss = f"{losses[round_.index + 1]:.4f}" if len(losses) > round_.index + 1 else ""
        table.add_row(
            str(round_.index),
            phase(state, round_, now),
            str(round_.claimed),
            str(sum(w.root is not None for w in works)),
            str(sum(w.state in (WorkState.VALID, WorkState.DECOY) for w in works)),
            str(sum(w.state in (WorkState.DISPUTED, WorkState.HARD, WorkState.SOFT) for w in works)),
            loss,
            (round_.model or b"").hex()[:12],
        )
    return table


def people_table(
    state: State, task: Task, names: Mapping[bytes, str], cheater: bytes | None, now: int
) -> Table:
    """One row per participant."""
    table = _table("who", "address", "round: doing", "accepted", "rejected", "received", "lost")
    works = [w for r in task.rounds.values() for w in r.works.values()]
    for who, name in names.items():
        if name == "publisher":
            continue
        mine = [w for w in works if w.trainer == who]
        lost = sum(w.lost for w in mine)
        table.add_row(
            f"{name} (cheats)" if who == cheater else name,
            f"0x{who.hex()[:4]}..{who.hex()[-4:]}",
            activity(state, task, who, now),
            str(sum(w.state in (WorkState.VALID, WorkState.DECOY) for w in mine)) if mine else "",
            str(sum(w.state in (WorkState.HARD, WorkState.SOFT) for w in mine)) if mine else "",
            tokens(earned(state, task, who)),
            tokens(lost) if lost else "",
            style="red" if who == cheater else "",
        )
    return table


def earned(state: State, task: Task, who: bytes) -> int:
    """Rewards and fees of one participant so far, in token wei, bonds that came back left out."""
    rewards = sum(w.paid for r in task.rounds.values() for w in r.works.values() if w.trainer == who)
    seats = {s.id for s in state.seats.values() if s.owner == who}
    polls = {round_.poll for round_ in task.rounds.values()}
    polls |= {poll for poll, dispute in state.juries.items() if state.disputes[dispute].task == task.id}
    settled = (state.polls[poll].settled for poll in polls if poll)
    fees = sum(paid for votes in settled for seat, (paid, _) in votes.items() if seat in seats)
    return rewards + fees


def render_status(state: State, head: Head, owed: int, balance: int) -> None:
    """`commonweight status`."""
    console = Console()
    print_ledger = "balances" if owed <= balance else "DOES NOT BALANCE"
    console.print(f"block {head.number}   vault owes {tokens(owed)}, holds {tokens(balance)}: {print_ledger}")
    if not state.tasks:
        console.print("no task is published yet")
    for task in state.tasks.values():
        seats: dict[bytes, list[str]] = {}
        for seat in state.seats.values():
            if not seat.left:
                seats.setdefault(seat.owner, []).append(str(seat.id))
        names = {who: f"seat{'s' if len(own) > 1 else ''} {', '.join(own)}" for who, own in seats.items()}
        trainers = {w.trainer for r in task.rounds.values() for w in r.works.values()}
        names |= dict.fromkeys(sorted(trainers - names.keys()), "trainer")
        over = " (finished)" if task.finished else ""
        console.print(f"task {task.id}{over}   spec {task.spec.hex()[:16]}   model {task.latest.hex()[:16]}")
        console.print(rounds_table(state, task, head.timestamp, []))
        console.print(people_table(state, task, names, None, head.timestamp))
