"""What a participant should do now: a pure function of the folded chain state, its address and the chain's clock.

A duty is a wish, not an act: the node that carries it out is idempotent (the chain refuses a second time), so duties
are simply recomputed at every tick and after every crash. Duties that anybody may do ("cranks") are staggered by a
rank that hashing gives each participant, so that one transaction is sent where one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from .hashing import tagged
from .rollouts import next_slot
from .state import JURIES, Dispute, Phase, Poll, Round, State, Task, Work, WorkState

STAGGER = 2
"""Seconds between one participant's turn at a crank and the next one's."""

REARM_BLOCKS = 128
"""A beacon this old is materialised by a transaction of its own before its blockhash (256 blocks) is gone."""

SKIP_AFTER = 4
"""Merge windows without a proposal after which a round is settled without one (contracts: ``Merges``)."""


class Duty(Enum):
    """Everything a role may have to do; see the functions below for when."""

    CLAIM = "claim"
    TRAIN = "train"
    DEFER = "defer"
    PUBLISH = "publish"
    OPEN = "open"
    ANSWER = "answer"
    CHECK = "check"
    REVEAL = "reveal"
    SETTLE = "settle"
    TOUCH = "touch"
    EXPIRE = "expire"
    PROPOSE = "propose"
    REFUTE = "refute"
    CLEAR = "clear"
    ADVANCE = "advance"
    RULE = "rule"
    APPEAL = "appeal"
    FORFEIT = "forfeit"
    RECLAIM = "reclaim"


@dataclass(frozen=True, slots=True)
class Todo:
    """One duty; ``subject`` is (task, round), (task, round, slot), (poll, seat) or (dispute,) as the duty needs."""

    duty: Duty
    subject: tuple[int, ...]


def participants(state: State) -> set[bytes]:
    """Everybody with something at stake: seat owners and trainers."""
    owners = {seat.owner for seat in state.seats.values() if not seat.left}
    trainers = {w.trainer for t in state.tasks.values() for r in t.rounds.values() for w in r.works.values()}
    return owners | trainers


def my_turn(state: State, me: bytes, name: str, since: int, now: int) -> bool:
    """True once every participant ranked before ``me`` for this crank has had its `STAGGER` seconds."""
    own = tagged("rank", name.encode(), me)
    rank = sum(tagged("rank", name.encode(), who) < own for who in participants(state) - {me})
    return now >= since + rank * STAGGER


def poll_over(poll: Poll, now: int) -> bool:
    """Votes can no longer be revealed."""
    return now >= poll.reveal_end


def mask_final(state: State, task: Task, round_: Round, now: int) -> bool:
    """No work can enter or leave the round's mask any more, so a merge may be proposed."""
    if round_.train_end is None:
        return False
    if round_.poll is None:
        return round_.empty
    poll = state.polls[round_.poll]
    if not poll_over(poll, now):
        return False
    return all(w.resolved for w in round_.works.values()) or now >= open_end(state, task, round_)


def open_end(state: State, task: Task, round_: Round) -> int:
    """Until when the seals of a round that is being checked can be opened."""
    return state.polls[round_.poll or 0].reveal_end + task.params["openT"]


def claimable(state: State, task: Task, now: int) -> int | None:
    """The round in which a lease can be claimed now, or None."""
    if task.closed:
        return None
    if task.rounds:
        last = task.rounds[max(task.rounds)]
        if last.beacon is None and now < last.claim_end and last.claimed < task.params["slots"]:
            return last.index
    following = len(task.rounds)
    if following >= task.params["rounds"] or task.base_of(following) is None:
        return None
    before = task.rounds.get(following - 1)
    return following if before is None or before.poll is not None or before.empty else None


def trainer(
    state: State,
    me: bytes,
    task: Task,
    now: int,
    leases: int = 1,
    wants: Callable[[int], bool] = lambda slot: True,
) -> Iterator[Todo]:
    """Duties of a trainer in one task, who wants so many ``leases`` of each round, of the slots that he ``wants``."""
    open_round = claimable(state, task, now)
    if open_round is not None and wants(next_slot(task.rounds.get(open_round))):
        held = task.rounds[open_round].works.values() if open_round in task.rounds else ()
        if sum(w.trainer == me and w.origin is None and wants(w.slot) for w in held) < leases:
            yield Todo(Duty.CLAIM, (task.id, open_round))
    for round_ in task.rounds.values():
        for work in round_.works.values():
            if work.trainer == me:
                yield from _own_work(state, task, round_, work, now)


def _own_work(state: State, task: Task, round_: Round, work: Work, now: int) -> Iterator[Todo]:
    subject = (task.id, round_.index, work.slot)
    if work.state is WorkState.CLAIMED and round_.train_end is not None:
        if now < round_.train_end:
            if work.patience is None and now >= defer_at(task, round_):
                yield Todo(Duty.DEFER, subject)
            yield Todo(Duty.TRAIN, subject)
        elif work.patience is not None and now < work.patience:
            yield Todo(Duty.TRAIN, subject)
    if work.root is None or round_.poll is None:
        return
    yield Todo(Duty.PUBLISH, subject)
    poll = state.polls[round_.poll]
    window = poll.reveal_end <= now < open_end(state, task, round_)
    if window and not work.opened and work.state in (WorkState.SUBMITTED, WorkState.DISPUTED):
        yield Todo(Duty.OPEN, subject)
    for dispute in (state.disputes[i] for i in work.disputes):
        if dispute.phase is Phase.FILED and now < state.answer_end(dispute):
            yield Todo(Duty.ANSWER, (dispute.id,))
        elif now < state.appeal_end(dispute) and dispute.ruling is not WorkState.VALID:
            yield Todo(Duty.APPEAL, (dispute.id,))


def defer_at(task: Task, round_: Round) -> int:
    """When a trainer who is not done should say that he may be late: it costs nothing and saves the bond."""
    last = task.params["rounds"] - 1
    return (round_.train_end or 0) - (task.params["trainT"] // 8 if round_.index < last else 0)


def enterable(task: Task, index: int, now: int) -> bool:
    """A late work of round ``index`` can enter the next one: that one trains."""
    following = task.rounds.get(index + 1)
    return (
        following is not None
        and following.train_end is not None
        and following.poll is None
        and now < following.train_end
    )


def validator(state: State, me: bytes, now: int) -> Iterator[Todo]:
    """Duties of the seats that ``me`` owns, in every poll, works and juries alike; then what a watchtower does."""
    mine = [seat.id for seat in state.seats.values() if seat.owner == me and not seat.left]
    for poll in state.polls.values():
        for seat in mine:
            if seat in poll.settled or seat in poll.leaked or seat not in poll.members:
                continue
            if seat not in poll.sealed:
                if now < poll.seal_end:
                    yield Todo(Duty.CHECK, (poll.id, seat))
            elif seat not in poll.revealed:
                if poll.seal_end <= now < poll.reveal_end:
                    yield Todo(Duty.REVEAL, (poll.id, seat))
            elif items_final(state, poll):
                yield Todo(Duty.SETTLE, (poll.id, seat))
    if mine:
        yield from _watch(state, me, now)


def _watch(state: State, me: bytes, now: int) -> Iterator[Todo]:
    """Answer for a trainer who lets half of his time pass, and have wrong rulings judged again."""
    for dispute in state.disputes.values():
        until = state.answer_end(dispute)
        half = until - state.tasks[dispute.task].params["openT"] // 2
        if dispute.phase is Phase.FILED and half <= now < until:
            if my_turn(state, me, f"answer:{dispute.id}", half, now):
                yield Todo(Duty.ANSWER, (dispute.id,))
        elif now < state.appeal_end(dispute) and my_turn(
            state, me, f"appeal:{dispute.id}:{dispute.level}", dispute.ruled_at or now, now
        ):
            yield Todo(Duty.APPEAL, (dispute.id,))


def items_final(state: State, poll: Poll) -> bool:
    """What the poll was about has its final state, so that its batches settle. A first jury has nothing to settle."""
    found = state.poll_work(poll.id)
    if found is None:
        dispute = state.jury_dispute(poll.id)
        return poll.risk > 0 and dispute is not None and dispute.phase is Phase.FINAL
    return all(w.root is None or w.state.final for w in found[1].works.values())


def unsettled(state: State, me: bytes) -> bool:
    """A batch of one of ``me``'s seats still holds a stake or waits for a fee."""
    mine = {seat.id for seat in state.seats.values() if seat.owner == me}
    return any(
        seat in mine and votes > 0 and seat not in poll.settled and poll.risk > 0
        for poll in state.polls.values()
        for seat, votes in poll.sealed.items()
    )


def cranks(state: State, me: bytes, now: int, block: int) -> Iterator[Todo]:
    """Duties that anybody may do, when it is this participant's turn."""
    for task in state.tasks.values():
        for round_ in task.rounds.values():
            if not (round_.settled and all(w.state.final for w in round_.works.values())):
                for todo, since in _round_cranks(state, task, round_, now, block):
                    if my_turn(state, me, f"{todo.duty.value}:{todo.subject}", since, now):
                        yield todo
        if task.finished and task.reclaimed is None and task.publisher == me:
            yield Todo(Duty.RECLAIM, (task.id,))
    for poll in state.polls.values():
        for seat, votes in poll.sealed.items():
            late = (
                votes > 0
                and poll.risk > 0
                and poll_over(poll, now)
                and seat not in poll.revealed
                and seat not in poll.settled
            )
            if late and my_turn(state, me, f"forfeit:{poll.id}:{seat}", poll.reveal_end, now):
                yield Todo(Duty.FORFEIT, (poll.id, seat))
    for dispute in state.disputes.values():
        due = rule_due(state, dispute)
        if due is not None and now >= due and my_turn(state, me, f"rule:{dispute.id}:{due}", due, now):
            yield Todo(Duty.RULE, (dispute.id,))


def rule_due(state: State, dispute: Dispute) -> int | None:
    """When `Court.rule` has something to do for a dispute; None when never again.

    What ends it cannot come before the accusing poll is over, nor, where works may be decoys, before the accused work
    is opened or can no longer be.
    """
    task, round_, work = state.accused(dispute)
    last = 0
    match dispute.phase:
        case Phase.FINAL:
            return None
        case Phase.FILED:
            return state.answer_end(dispute)
        case Phase.JURY:
            poll = state.polls[dispute.poll]
            due = poll.reveal_end
            if dispute.level < len(JURIES) - 1 and poll.seats > poll.want:
                return due
        case Phase.RULED:
            due = state.appeal_end(dispute)
    last = state.polls[round_.poll].reveal_end if round_.poll is not None else 0
    if task.params["decoyOneIn"] and not work.opened:
        last = state.answer_end(dispute)
    return max(due, last)


def _round_cranks(state: State, task: Task, r: Round, now: int, block: int) -> Iterator[tuple[Todo, int]]:
    subject = (task.id, r.index)
    if r.beacon is None:
        if now >= r.claim_end:
            yield Todo(Duty.TOUCH, subject), r.claim_end
        return
    end = r.train_end or 0
    if r.seed is None and block >= r.beacon + REARM_BLOCKS:
        yield Todo(Duty.TOUCH, subject), now
    if r.poll is None and not r.empty and now >= end:
        yield Todo(Duty.TOUCH, subject), end
    opened_by = state.polls[r.poll].reveal_end + task.params["openT"] if r.poll is not None else None
    for work in r.works.values():
        lapsed = work.patience or end
        late = work.state is WorkState.CLAIMED and now >= lapsed
        unopened = work.state is WorkState.SUBMITTED and opened_by is not None and now >= opened_by
        if late or unopened:
            yield Todo(Duty.EXPIRE, (*subject, work.slot)), lapsed if late else opened_by or end
    yield from _merge_cranks(state, task, r, now)


def _merge_cranks(state: State, task: Task, r: Round, now: int) -> Iterator[tuple[Todo, int]]:
    if r.settled or not mask_final(state, task, r, now) or task.model_before(r.index) is None:
        return
    subject, window = (task.id, r.index), task.params["aggT"]
    end = state.polls[r.poll].reveal_end if r.poll is not None else r.train_end or now
    before = task.rounds.get(r.index - 1)
    over = max([end, r.moved_at, before.moved_at if before else 0, *(w.changed_at for w in r.works.values())])
    if r.proposal is None:
        if r.included:
            yield Todo(Duty.PROPOSE, subject), over
        if not r.included or now >= over + SKIP_AFTER * window:
            yield Todo(Duty.ADVANCE, subject), over
        return
    yield Todo(Duty.REFUTE, subject), r.proposal.at
    contest = r.proposal.contest
    until = r.proposal.moved_at + window if contest is None else contest.until
    if now >= until:
        yield Todo(Duty.ADVANCE, subject), until
    elif contest is not None:
        yield Todo(Duty.CLEAR, subject), contest.until - window
