"""Seats and sealed polls of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commonweight.core import seeds
from commonweight.core.hashing import abi_sha256, word
from commonweight.core.state import Poll, Seat

from .world import BURN, NOBODY, Contract, Revert

HASH = ~0xFFFF
PRESENT, REVEALED = 1 << 8, 1
MAX_VOTES = 64


def item(vote: int) -> int:
    """What a vote is about."""
    return vote >> 40


def tree(vote: int) -> int:
    """Which tree of a work a reject names."""
    return vote >> 32 & 0xFF


def verdict(vote: int) -> int:
    """0: accept."""
    return vote & 0xFFFFFFFF


class Panel(Contract):
    """Twin of `Panel`."""

    def sit(self, sender: bytes) -> None:
        seat = len(self.state.seats) + 1
        self.world.emit("Panel", "Seated", seat=seat, owner=sender)
        self.world.vault.locked("Panel", sender, word(seat), self.world.host.seat_stake)

    def exit(self, sender: bytes, seat: int) -> None:
        found = self._owned(sender, seat)
        if found.exit_at:
            raise Revert("AlreadyExiting", seat, found.exit_at)
        self.world.emit("Panel", "Exiting", seat=seat, exitAt=self.now + self.world.host.exit_delay)

    def leave(self, sender: bytes, seat: int) -> None:
        found = self._seat(seat)
        if not found.exit_at or self.now < found.exit_at:
            raise Revert("NotExited", seat, found.exit_at or 0)
        if self.books.reserved[seat]:
            raise Revert("VotesUnsettled", seat, self.books.reserved[seat])
        self.world.emit("Panel", "Left", seat=seat, owner=found.owner)
        self.world.vault.paid("Panel", word(seat), found.owner, self.books.pots["Panel", word(seat)])

    def topUp(self, sender: bytes, seat: int, amount: int) -> None:
        self._seat(seat)
        self.world.vault.locked("Panel", sender, word(seat), amount)

    def open(self, sender: bytes, *terms: int) -> None:
        raise Revert("NotAsker", sender)

    def opened(self, asker: str, seal_t: int, reveal_t: int, want: int, risk: int) -> int:
        """``open`` by Tasks or Court: the poll's number."""
        poll = len(self.state.polls) + 1
        n = sum(s.exit_at is None for s in self.state.seats.values())
        seal_end = self.now + (seal_t if n else 0)
        self.world.emit(
            "Panel",
            "PollOpened",
            poll=poll,
            asker=self.world.addresses[asker],
            sealEnd=seal_end,
            revealEnd=seal_end + (reveal_t if n else 0),
            want=want,
            risk=risk,
            seats=n,
            beacon=self.world.block + 1,
        )
        return poll

    def seed(self, sender: bytes, poll: int) -> None:
        if not self._draw(self.poll(poll)):
            self.world.emit("Panel", "Armed", poll=poll, beacon=self.world.block + 1)

    def sealVotes(self, sender: bytes, poll: int, seat: int, hash_: bytes, n: int) -> None:
        p = self.poll(poll)
        self._owned(sender, seat)
        if self.now >= p.seal_end:
            raise Revert("SealOver", poll, p.seal_end)
        if seat not in p.members:
            raise Revert("NotEligible", poll, seat)
        if n > MAX_VOTES:
            raise Revert("TooManyVotes", n, MAX_VOTES)
        if (poll, seat) in self.books.batches:
            raise Revert("AlreadySealed", poll, seat)
        if not self._draw(p):
            raise Revert("BeaconMissed", p.beacon)
        needs, stake = self.books.reserved[seat] + n * p.risk, self.books.pots["Panel", word(seat)]
        if n and needs > stake:
            raise Revert("StakeTooSmall", seat, stake, needs)
        self.books.reserved[seat] = needs
        self.books.batches[poll, seat] = int.from_bytes(hash_, "big") & HASH | PRESENT | n << 1
        self.books.unrevealed[poll] += 1
        self.world.emit("Panel", "Sealed", poll=poll, seat=seat, n=n)
        if self.books.unrevealed[poll] == p.seats:
            reveal_t = p.reveal_end - p.seal_end
            self.world.emit("Panel", "PollPhase", poll=poll, sealEnd=self.now, revealEnd=self.now + reveal_t)

    def reveal(self, sender: bytes, poll: int, seat: int, votes: Sequence[int], salt: bytes) -> None:
        p = self.poll(poll)
        if not p.seal_end <= self.now < p.reveal_end:
            raise Revert("NotRevealTime", poll, p.seal_end, p.reveal_end)
        batch = self._batch(poll, seat, votes, salt)
        if batch & REVEALED:
            raise Revert("AlreadyRevealed", poll, seat)
        self.books.batches[poll, seat] = batch | REVEALED
        self.books.unrevealed[poll] -= 1
        if not self.books.unrevealed[poll]:
            self.world.emit("Panel", "PollPhase", poll=poll, sealEnd=p.seal_end, revealEnd=self.now)
        for i, vote in enumerate(votes):
            if i and item(vote) <= item(votes[i - 1]):
                raise Revert("UnsortedVotes", i)
            counted = self._counts(p, seat, vote) and self._asker(p).on_vote(poll, vote)
            self.world.emit("Panel", "Voted", poll=poll, seat=seat, vote=vote, counted=counted)

    def settle(self, sender: bytes, poll: int, seat: int, votes: Sequence[int], salt: bytes) -> None:
        p = self.poll(poll)
        if not self._batch(poll, seat, votes, salt) & REVEALED:
            raise Revert("NotRevealed", poll, seat)
        del self.books.batches[poll, seat]
        self.books.reserved[seat] -= len(votes) * p.risk
        found = self.state.seats[seat]
        paid = lost = 0
        for vote in votes:
            if not self._counts(p, seat, vote):
                continue
            share, wronged = self._asker(p).settle_vote(poll, vote, NOBODY if found.left else found.owner)
            paid += share
            if wronged is not None:
                lost += p.risk
                self.world.vault.halved("Panel", word(seat), wronged, p.risk)
        self.world.emit("Panel", "Settled", poll=poll, seat=seat, paid=paid, lost=lost)

    def forfeit(self, sender: bytes, poll: int, seat: int) -> None:
        p = self.poll(poll)
        batch = self.books.batches.get((poll, seat))
        if batch is None:
            raise Revert("NotSealed", poll, seat)
        if batch & REVEALED:
            raise Revert("AlreadyRevealed", poll, seat)
        if self.now < p.reveal_end:
            raise Revert("NotRevealTime", poll, p.seal_end, p.reveal_end)
        del self.books.batches[poll, seat]
        n = batch >> 1 & 0x7F
        lost = p.risk if n else 0
        self.world.emit("Panel", "Forfeited", poll=poll, seat=seat, lost=lost)
        if lost:
            self.books.reserved[seat] -= n * lost
            self.world.vault.paid("Panel", word(seat), BURN, lost)

    def leak(self, sender: bytes, poll: int, seat: int, votes: Sequence[int], salt: bytes) -> None:
        p = self.poll(poll)
        if self.now >= p.seal_end:
            raise Revert("SealOver", poll, p.seal_end)
        self._batch(poll, seat, votes, salt)
        self.books.batches[poll, seat] = PRESENT
        self.books.unrevealed[poll] -= 1
        lost = len(votes) * p.risk
        self.world.emit("Panel", "Leaked", poll=poll, seat=seat, by=sender, lost=lost)
        if lost:
            self.books.reserved[seat] -= lost
            self.world.vault.halved("Panel", word(seat), sender, lost)

    def poll(self, poll: int) -> Poll:
        if poll not in self.state.polls:
            raise Revert("UnknownPoll", poll)
        return self.state.polls[poll]

    def _seat(self, seat: int) -> Seat:
        found = self.state.seats.get(seat)
        if found is None or found.left:
            raise Revert("UnknownSeat", seat)
        return found

    def _owned(self, sender: bytes, seat: int) -> Seat:
        found = self.state.seats.get(seat)
        if found is None or found.left or found.owner != sender:
            raise Revert("NotSeatOwner", seat, sender)
        return found

    def _asker(self, p: Poll) -> Any:
        return self.world.tasks if p.asker == self.world.addresses["Tasks"] else self.world.court

    def _counts(self, p: Poll, seat: int, vote: int) -> bool:
        if p.asker == self.world.addresses["Tasks"] and verdict(vote):
            return True
        return seeds.is_drawn(p.seed or b"", item(vote), seat, p.seats, p.want)

    def _draw(self, p: Poll) -> bool:
        if p.seed is None:
            found = self.world.beacon(p.beacon)
            if found is None:
                return False
            self.world.emit("Panel", "Seeded", poll=p.id, seed=abi_sha256(found, p.id))
        return True

    def _batch(self, poll: int, seat: int, votes: Sequence[int], salt: bytes) -> int:
        batch = self.books.batches.get((poll, seat))
        if batch is None:
            raise Revert("NotSealed", poll, seat)
        panel = self.world.addresses["Panel"]
        found = seeds.votes_hash(self.world.chain_id, panel, poll, seat, votes, salt)
        if (int.from_bytes(found, "big") ^ batch) & HASH or len(votes) != batch >> 1 & 0x7F:
            raise Revert("WrongOpening", poll, seat)
        return batch
