"""What everybody should have got, from how works, votes, disputes and merges ended and from the spec's economy.

It shares no code with the contracts that paid, and reads no amount that they said they paid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.spec import Economy
from ...core.state import Dispute, Poll, Round, State, Task, Work, WorkState
from ...core.verdict import read_vote

PAID = (WorkState.VALID, WorkState.DECOY)
GUILTY = (WorkState.HARD, WorkState.SOFT)
LATE_SHARE = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules applied to one finished task; amounts are token wei."""

    state: State
    task: Task
    economy: Economy

    def gain(self, who: bytes, seats: list[int]) -> int:
        """What a trainer, a proposer and an owner of ``seats`` comes to in all."""
        total = sum(self._as_trainer(r, w) for r, w in self._works() if w.trainer == who)
        total += sum(self._as_voter(r, w, seat) for r, w in self._works() for seat in seats)
        total += sum(self._as_aggregator(r, who) for r in self.task.rounds.values())
        total += sum(self._in_court(d, who, seats) for d in self.state.disputes.values())
        return total - sum(self._carelessness(poll, seats) for poll in self.state.polls.values())

    def spent(self) -> int:
        """What left the publisher's escrow."""
        total = 0
        for round_ in self.task.rounds.values():
            total += self.economy.merge_reward if round_.proposal is not None and not round_.skipped else 0
        for round_, work in self._works():
            yes, no = self._voters(round_, work)
            right = {WorkState.VALID: yes, WorkState.DECOY: no, WorkState.HARD: no, WorkState.SOFT: no}
            n = len(right.get(work.state, ()))
            total += self._reward(work) + (self.economy.fee // n * n if n else 0)
        return total

    def _works(self) -> Iterator[tuple[Round, Work]]:
        for round_ in self.task.rounds.values():
            for work in round_.works.values():
                if work.carried_out:
                    yield round_, work

    def _reward(self, work: Work) -> int:
        """A late work is worth half."""
        if work.state not in PAID:
            return 0
        return self.economy.reward // 2 if work.origin is not None else self.economy.reward

    def _risk(self) -> int:
        return self.state.polls[next(r.poll for r in self.task.rounds.values() if r.poll)].risk

    def _voters(self, round_: Round, work: Work) -> tuple[set[int], set[int]]:
        """Seats whose counted vote on a work was accept, and those whose was a reject."""
        votes = self.state.polls[round_.poll].revealed if round_.poll is not None else {}
        return voters(votes, work.slot)

    def _as_trainer(self, round_: Round, work: Work) -> int:
        """The reward or the bond, and half of what was staked on each false reject."""
        total = self._reward(work)
        total -= self.economy.bond if work.state is WorkState.HARD else 0
        if work.state is WorkState.EXPIRED:
            total -= self.economy.bond // LATE_SHARE
        if work.state in (WorkState.VALID, WorkState.EXPIRED):
            total += len(self._voters(round_, work)[1]) * (self._risk() // 2)
        return total

    def _as_voter(self, round_: Round, work: Work, seat: int) -> int:
        """A share of the fee when right, of a slashed bond when it was found; the risk when wrong."""
        yes, no = self._voters(round_, work)
        if seat in yes:
            if work.state is WorkState.DECOY:
                return -self._risk()
            return self.economy.fee // len(yes) if work.state is WorkState.VALID else 0
        if seat not in no:
            return 0
        if work.state in (WorkState.VALID, WorkState.EXPIRED):
            return -self._risk()
        found = self.economy.bond // 2 // len(no) if work.state is WorkState.HARD else 0
        return self.economy.fee // len(no) + found

    def _as_aggregator(self, round_: Round, who: bytes) -> int:
        """The merge's reward, and the bonds around proposals that were dropped or contested in vain."""
        merged = round_.proposal is not None and not round_.skipped and round_.proposal.by == who
        total = self.economy.merge_reward if merged else 0
        for loser, winner in round_.fines:
            total -= self.economy.merge_bond if loser == who else 0
            total += self.economy.merge_bond // 2 if winner == who else 0
        return total

    def _in_court(self, dispute: Dispute, who: bytes, seats: list[int]) -> int:
        """Appeals that were lost, and the jurors' share of them."""
        bond = self.economy.bond
        lost = [(a.by, (bond << a.level) // 4) for a in dispute.appeals if a.against is dispute.outcome]
        total = -sum(amount for by, amount in lost if by == who)
        votes = self.state.polls[dispute.poll].revealed if dispute.poll else {}
        innocent, guilty = voters(votes, 0)
        right = innocent if dispute.outcome is WorkState.VALID else guilty
        share = sum(amount for _, amount in lost) // 2 // len(right) if right else 0
        return total + share * len(right & set(seats))

    def _carelessness(self, poll: Poll, seats: list[int]) -> int:
        """Batches that were sealed and never revealed, or given away before."""
        total = 0
        for seat in seats:
            if seat in poll.leaked:
                total += poll.leaked[seat][1]
            elif poll.sealed.get(seat) and seat not in poll.revealed:
                total += poll.risk
        return total


def voters(votes: dict[int, list[tuple[int, bool]]], item: int) -> tuple[set[int], set[int]]:
    """Seats whose counted vote on an item was 0 (accept, innocent), and those whose was another."""
    yes: set[int] = set()
    no: set[int] = set()
    for seat, batch in votes.items():
        for vote, counted in batch:
            about, _, value = read_vote(vote)
            if counted and about == item:
                (no if value else yes).add(seat)
    return yes, no
