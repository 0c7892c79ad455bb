"""Rollout leases: which slots they are, and which accepted ones a later lease learns from. Pure functions of the chain.

Nobody chooses: the accepted rollout works of the round that a lease's base version came from are dealt out to the
learning leases of its round in turn.
"""

from __future__ import annotations

from .spec import RlSpec
from .state import Round, State, Task, Work, WorkState
from .verdict import read_vote


def is_rollout(rl: RlSpec, slots: int, slot: int) -> bool:
    """True when lease ``slot`` of a round of ``slots`` delivers trajectories only: the last ones do.

    A lease that was given back is taken again under a number beyond ``slots``, which counts on from the first one.
    """
    return slot % slots >= slots - rl.rollout_slots


def next_slot(round_: Round | None) -> int:
    """The slot that the next claim of a round takes; None is a round that has not begun."""
    return sum(work.origin is None for work in round_.works.values()) if round_ else 0


def accepts(state: State, round_: Round, work: Work) -> int:
    """Counted accepts of a work."""
    if round_.poll is None:
        return 0
    votes = (vote for seat in state.polls[round_.poll].revealed.values() for vote in seat)
    return sum(counted and read_vote(vote)[::2] == (work.slot, 0) for vote, counted in votes)


def usable(state: State, task: Task, rl: RlSpec, round_: Round, work: Work, at: int) -> bool:
    """A rollout work of ``round_`` that leases of round ``at`` may learn from.

    It was accepted by a quorum and never disputed, which cannot change any more once the round is settled; and the
    policy that played it is not too old.
    """
    leased, slot = work.origin or (round_.index, work.slot)
    return (
        is_rollout(rl, task.params["slots"], slot)
        and work.state is WorkState.VALID
        and not work.disputes
        and at - leased <= rl.rollout_age
        and accepts(state, round_, work) >= task.params["quorum"]
    )


def sources(state: State, task: Task, rl: RlSpec, index: int, slot: int) -> tuple[bytes, ...]:
    """Roots of the rollout works that lease ``slot`` of round ``index`` also learns from; for a lease that learns."""
    slots = task.params["slots"]
    before = task.rounds.get(index - task.params["lag"])
    if before is None or not rl.rollout_slots or is_rollout(rl, slots, slot):
        return ()
    found = [w for _, w in sorted(before.works.items()) if usable(state, task, rl, before, w, index)]
    leases = sorted(
        w.slot
        for w in task.rounds[index].works.values()
        if w.origin is None and not w.given_back and not is_rollout(rl, slots, w.slot)
    )
    most = -(-rl.rollout_slots // (slots - rl.rollout_slots))
    return tuple(w.root for w in found[leases.index(slot) :: len(leases)][:most] if w.root is not None)
