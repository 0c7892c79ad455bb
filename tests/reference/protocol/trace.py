"""Random lives of the protocol: people who mostly do what is due, sometimes anything at all.

A trace is its seed: the same seed plays the same actions (the blocks' hashes, and with them draws and lotteries, follow
from the transactions, so they repeat as well).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from commonweight.core import merkle, seeds
from commonweight.core.hashing import abi_sha256
from commonweight.core.state import Phase, Poll, Round, Task, Work, WorkState
from commonweight.core.works import WITHHELD, Header
from commonweight.nodes.exhibits import packed
from tests.reference.anvil import TOKEN

from .mirror import Mirror
from .versions import Artifacts, decoy_of, plain_header, some_leaf
from .world import World

PEOPLE = [bytes([0x70]) * 19 + bytes([i]) for i in range(6)]
PUBLISHER, POOR = PEOPLE[0], PEOPLE[5]
SALT = b"\x05" * 32
RULE = {"length": 1024, "shift": 8, "trim": 0, "lrNum": 7, "lrDen": 10, "momentumNum": 9, "momentumDen": 10}
Move = tuple[str, str, bytes, tuple[Any, ...]]
"""Contract, verb, sender, arguments."""


@dataclass(slots=True)
class Trace:
    """One life: what people know that the chain does not."""

    mirror: Mirror
    rng: Random
    artifacts: Artifacts = field(default_factory=Artifacts)
    headers: dict[bytes, Header] = field(default_factory=dict)
    batches: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.mirror.world

    def play(self, actions: int) -> None:
        """So many actions, each compared; then everything is compared."""
        for who in PEOPLE:
            amount = 3 * TOKEN if who == POOR else 20_000 * TOKEN
            self.mirror.chain.send(who, "Token", "mint", who, amount + TOKEN)
            self.mirror.chain.send(who, "Token", "approve", self.mirror.chain.addresses["Vault"], amount)
            self.world.books.tokens[who] += amount + TOKEN
            self.world.books.allowed[who] += amount
        self.mirror.mine(1)
        for who in PEOPLE:
            self._do(1, ("Vault", "deposit", who, (self.world.books.allowed[who],)))
        # Only a panel of more seats than a jury wants has anything to appeal to.
        for who in PEOPLE[1:4] * self.rng.choice((1, 3)):
            self._do(1, ("Panel", "sit", who, ()))
        for _ in range(actions):
            self.step()
        self.mirror.compare(self.mirror.everything())

    def step(self) -> None:
        """Time passes, somebody acts: mostly as the rules allow, and when nothing is left to do, after a deadline."""
        rng = self.rng
        if rng.random() < 0.3:
            self.mirror.mine(2)
        elif rng.random() < 0.004:
            self.mirror.mine(300)
        wait = rng.choice((1, 1, 1, 2, 4))
        chance = rng.random()
        if chance < 0.2:
            return self._do(wait, self._anything())
        due = self._due()
        rng.shuffle(due)
        if chance > 0.3:
            allowed = [move for move in due[:6] if self.mirror.would(wait, *move[:3], *move[3])]
            wait, due = (wait, allowed) if allowed else (self._to_deadline(), due)
        return self._do(wait, due[0] if due else self._anything())

    def _do(self, wait: int, move: Move) -> None:
        contract, verb, sender, args = move
        error = self.mirror.call(wait, contract, verb, sender, *args)
        name = f"{contract}.{verb}" + (f" {error}" if error else "")
        self.done[name] = self.done.get(name, 0) + 1

    def _to_deadline(self) -> int:
        """Seconds to some time at which something begins or ends."""
        state, now = self.world.state, self.mirror.now
        times = [t for p in state.polls.values() for t in (p.seal_end, p.reveal_end)]
        times += [state.answer_end(d) for d in state.disputes.values()]
        times += [state.appeal_end(d) for d in state.disputes.values()]
        times += [s.exit_at for s in state.seats.values() if s.exit_at]
        for task in state.tasks.values():
            for r in task.rounds.values():
                ends = (r.claim_end, r.train_end or 0, r.moved_at + task.params["aggT"])
                times += [
                    *ends,
                    self.world.tasks.mask_final_at(task, r),
                    r.moved_at + 4 * task.params["aggT"],
                ]
        ahead = sorted(t - now for t in times if 0 < t - now < 4000)
        return max(1, self.rng.choice(ahead[:4]) + self.rng.choice((-1, 0, 0, 1))) if ahead else 10

    # -- what is due ----------------------------------------------------------------------------------------

    def _due(self) -> list[Move]:
        """Every sensible move, and no other."""
        state, moves = self.world.state, list[Move]()
        idle = all(task.finished for task in state.tasks.values())
        if len(state.tasks) < 8 and (idle or self.rng.random() < 0.02):
            moves.append(self._publish())
        for task in state.tasks.values():
            moves += self._due_of_task(task)
            for r in task.rounds.values():
                moves += self._due_of_round(task, r)
        for poll in state.polls.values():
            moves += self._due_of_poll(poll)
        for d in state.disputes.values():
            moves += self._due_of_dispute(d.id)
        return moves

    def _publish(self) -> Move:
        rng = self.rng
        decoys = rng.choice((0, 0, 10))
        params = {
            "reward": 10 * TOKEN,
            "bond": rng.choice((13, 16, 19)) * TOKEN + rng.randrange(100),
            "aggReward": rng.choice((0, 2 * TOKEN)),
            "aggBond": 5 * TOKEN + rng.randrange(3),
            "slots": rng.choice((1, 2, 3)),
            "rounds": rng.choice((1, 2, 3, 3)),
            "feeBps": 1000,
            "want": rng.choice((2, 8)) if not decoys else 8,
            "quorum": 1,
            "lag": rng.choice((1, 2, 2)),
            "decoyOneIn": decoys,
            "claimT": 90,
            "trainT": 120,
            "sealT": 150,
            "revealT": 90,
            "openT": 80,
            "aggT": 60,
        }
        params |= RULE | {"trim": rng.choice((0, 40))}
        model = self.artifacts.version(rng)
        return (
            "Tasks",
            "publish",
            rng.choice(PEOPLE[:2]),
            (params, b"s" * 32, model, "http://127.0.0.1:1"),
        )

    def _due_of_task(self, task: Task) -> list[Move]:
        moves: list[Move] = []
        begun = len(task.rounds)
        if begun and not task.rounds[begun - 1].train_end:
            begun -= 1
        open_ = not task.closed and begun < task.params["rounds"]
        for who in PEOPLE[1:5] if open_ else ():
            secret = self._secret(task.id, begun, self._taken(task, begun))
            moves.append(("Tasks", "claim", who, (task.id, begun, seeds.seal_of(secret, who))))
        if task.closed and task.finished and task.reclaimed is None:
            moves.append(("Tasks", "reclaim", PEOPLE[4], (task.id,)))
        return [self.rng.choice(moves)] if moves else moves

    def _due_of_round(self, task: Task, r: Round) -> list[Move]:
        at, moves = (task.id, r.index), list[Move]()
        if not r.settled:
            moves += [("Tasks", "touch", PEOPLE[4], at), ("Tasks", "advance", PEOPLE[4], at)]
        if r.poll and not r.settled:
            right = self._merged(task, r)
            root = right if right and self.rng.random() < 0.6 else self.artifacts.wrong(right, self.rng)
            moves.append(("Tasks", "propose", PEOPLE[4], (*at, root)))
            if r.proposal:
                moves += [self._contest(task, r), *[self._proof(task, r)] * 3]
        for w in r.works.values():
            moves += self._due_of_work(task, r, w)
        return moves

    def _due_of_work(self, task: Task, r: Round, w: Work) -> list[Move]:
        place = (task.id, r.index, w.slot)
        if w.state is WorkState.CLAIMED:
            root = self._work_of(task, r, w).root
            late = r.train_end is not None and self.mirror.now >= r.train_end
            slow = w.seal[0] < 60 and not late  # a quarter of the trainers are never in time
            moves: list[Move] = [("Tasks", "submitLate" if late else "submit", w.trainer, (*place, root))]
            moves = [("Tasks", "defer", w.trainer, place)] if slow else moves * 4
            if self.rng.random() < 0.15:
                moves.append(("Tasks", "relinquish" if not r.train_end else "defer", w.trainer, place))
            return [*moves, ("Tasks", "expire", PEOPLE[4], place)]
        if w.state.final or w.opened or w.root is None:
            return []
        secret, header = self._opening(task, r, w)
        moves = [("Tasks", "openSeal", PEOPLE[4], (*place, secret, header))] * 2
        poll = self.world.state.polls.get(r.poll or 0)
        if header.trajectory_root in self.artifacts.data and poll:
            proof = decoy_of(
                self.artifacts, header, seeds.mandatory(poll.seed, w.slot, header.trajectory_count)
            )
            moves += [("Tasks", "openDecoy", PEOPLE[4], (*place, secret, header, proof))] * 3
        return [*moves, ("Tasks", "expire", PEOPLE[4], place)]

    def _due_of_poll(self, poll: Poll) -> list[Move]:
        moves: list[Move] = []
        if poll.seed is None:
            moves.append(("Panel", "seed", PEOPLE[4], (poll.id,)))
        for seat in poll.members:
            key, owner = (poll.id, seat), self.world.state.seats[seat].owner
            votes = self.batches.get(key, [])
            if seat not in poll.sealed:
                if self.mirror.now < poll.seal_end:
                    moves += [self._seal(poll, seat, owner)] * 2
                continue
            if key in self.world.books.batches:
                moves.append(("Panel", "reveal", PEOPLE[4], (*key, votes, SALT)))
                if self.mirror.now >= poll.reveal_end or self.rng.random() < 0.1:
                    moves.append(("Panel", "settle", PEOPLE[4], (*key, votes, SALT)))
                if self.mirror.now >= poll.reveal_end:
                    moves.append(("Panel", "forfeit", PEOPLE[4], key))
                if self.rng.random() < 0.03:
                    moves.append(("Panel", "leak", PEOPLE[3], (*key, votes, SALT)))
        return moves

    def _due_of_dispute(self, id_: int) -> list[Move]:
        d = self.world.state.disputes[id_]
        if d.phase is Phase.FINAL:
            return []
        moves: list[Move] = [("Court", "rule", PEOPLE[4], (id_,))]
        if d.phase is Phase.FILED:
            _, _, w = self.world.state.accused(d)
            header = self.headers[w.root or b""]
            moves += [("Court", "answer", PEOPLE[4], (id_, header, some_leaf(self.artifacts, header, d)))] * 3
        if d.phase is Phase.RULED:
            moves += [("Court", "appeal", self.rng.choice(PEOPLE[1:]), (id_,))] * 2
        return moves

    # -- the parts of moves ---------------------------------------------------------------------------------

    def _seal(self, poll: Poll, seat: int, owner: bytes) -> Move:
        rng = self.rng
        found = self.world.state.poll_work(poll.id)
        if found:
            votes = []
            for slot in sorted(found[1].works):
                bad = rng.choice((1, 2, 3, 9, WITHHELD)) if rng.random() < 0.25 else 0
                votes.append(slot << 40 | rng.randrange(5 if bad else 1) << 32 | bad)
        else:
            guilty = rng.choice((1, 1, WITHHELD, 5))
            votes = [guilty if rng.random() < 0.5 else 0]
        if rng.random() < 0.05:
            votes = votes[::-1] or [7 << 40]
        if rng.random() < 0.05:
            votes = []
        self.batches[poll.id, seat] = votes
        hash_ = seeds.votes_hash(31337, self.world.addresses["Panel"], poll.id, seat, votes, SALT)
        return "Panel", "sealVotes", owner, (poll.id, seat, hash_, len(votes))

    def _contest(self, task: Task, r: Round) -> Move:
        leaf = self.rng.choice((0, 1, 1, 2))
        return (
            "Tasks",
            "contestMerge",
            self.rng.choice(PEOPLE[1:]),
            (task.id, r.index, leaf, self.rng.randrange(256)),
        )

    def _proof(self, task: Task, r: Round) -> Move:
        """A proof of the contested lane, or of any; one in eight is damaged."""
        rng, proposal = self.rng, r.proposal
        assert proposal
        leaf, lane = rng.randrange(2), rng.randrange(256)
        if proposal.contest:
            leaf, lane = proposal.contest.leaf, proposal.contest.lane
        elif proposal.root in self.artifacts.faults:
            leaf, lane = self.artifacts.faults[proposal.root]
        base = self.artifacts.get(task.model_before(r.index) or b"")
        parts = [self._packed(self.artifacts.get(proposal.root), leaf), self._packed(base, 1)]
        if leaf == 0:
            parts.append(self._packed(base, 0))
        for w in r.included:
            update = self.headers[w.root or b""].update_root
            parts.append(self._packed(self.artifacts.get(update), 0))
        proof = bytearray(b"".join(parts))
        damage = rng.random()
        if damage < 0.06:
            proof[rng.randrange(len(proof))] ^= 1 << rng.randrange(8)
        elif damage < 0.12:
            proof = proof[: rng.randrange(len(proof))] if damage < 0.09 else proof + b"\0"
        return "Tasks", "proveMerge", PEOPLE[3], (task.id, r.index, leaf, lane, bytes(proof))

    def _packed(self, artifact: bytes, leaf: int) -> bytes:
        shown = merkle.open_leaf(artifact, min(leaf, len(artifact) // merkle.LEAF - 1))
        return packed((shown.leaf, list(shown.path)))

    def _merged(self, task: Task, r: Round) -> bytes | None:
        base = self.artifacts.data.get(task.model_before(r.index) or b"")
        if base is None or not r.included:
            return None
        roots = [self.headers[w.root or b""].update_root for w in r.included]
        return self.artifacts.merge(base, roots, [w.origin is not None for w in r.included], task.rule)

    def _taken(self, task: Task, round_: int) -> int:
        r = task.rounds.get(round_)
        return sum(w.origin is None for w in r.works.values()) if r else 0

    def _secret(self, task: int, round_: int, slot: int) -> bytes:
        return abi_sha256(task, round_, slot)

    def _work_of(self, task: Task, r: Round, w: Work) -> Header:
        """A header of the work, a decoy's where the lottery says so; one in ten has an update of another length."""
        secret = self._secret(task.id, r.index, w.slot)
        decoy = r.seed is not None and seeds.is_decoy(secret, r.seed, task.params["decoyOneIn"])
        odd = abi_sha256(secret, 1)[0] < 25
        header = plain_header(self.artifacts, secret, decoy, odd)
        self.headers[header.root] = header
        return header

    def _opening(self, task: Task, r: Round, w: Work) -> tuple[bytes, Header]:
        leased = w.origin or (r.index, w.slot)
        return self._secret(task.id, *leased), self.headers[w.root or b""]

    # -- anything -------------------------------------------------------------------------------------------

    def _anything(self) -> Move:
        """Any verb with arguments that are often nonsense."""
        rng, who = self.rng, self.rng.choice([*PEOPLE, b"\x99" * 20])
        return rng.choice(_ANY)(self, rng, who)


def _id(rng: Random, count: int) -> int:
    return rng.randint(0, count + 1)


def _place(t: Trace, rng: Random) -> tuple[int, int, int]:
    return _id(rng, len(t.world.state.tasks)), rng.randrange(3), rng.choice((0, 1, 2, 255))


def _some_votes(t: Trace, rng: Random) -> tuple[int, int, list[int], bytes]:
    known = list(t.batches)
    poll, seat = rng.choice(known) if known and rng.random() < 0.8 else (_id(rng, 3), _id(rng, 3))
    votes = t.batches.get((poll, seat), []) if rng.random() < 0.8 else [rng.randrange(3)]
    return poll, seat, votes, SALT if rng.random() < 0.9 else bytes(32)


def _strange_publish(t: Trace, rng: Random, who: bytes) -> Move:
    contract, verb, _, args = t._publish()
    params = dict(args[0])
    bits = {"slots": 16, "rounds": 16, "feeBps": 16, "want": 16, "quorum": 8, "lag": 8, "decoyOneIn": 16}
    name = rng.choice([*bits, "reward", "bond", "aggReward", "aggBond", "claimT", "sealT", "aggT"])
    params[name] = rng.choice((0, 1, 5, 2 ** bits.get(name, 24) - 1))
    if rng.random() < 0.3:
        params[rng.choice([*RULE])] = rng.choice((0, 1, 50, 255))
    return contract, verb, who, (params, args[1], bytes(32) if rng.random() < 0.1 else args[2], "")


def _chosen(t: Trace, rng: Random) -> Header:
    return (
        rng.choice(list(t.headers.values()))
        if t.headers
        else plain_header(t.artifacts, b"x" * 32, False, False)
    )


def _seal_any(t: Trace, rng: Random, who: bytes) -> Move:
    place = _id(rng, len(t.world.state.polls)), _id(rng, len(t.world.state.seats))
    return "Panel", "sealVotes", who, (*place, rng.randbytes(32), rng.choice((0, 1, 64, 65)))


def _vault_verbs(t: Trace, rng: Random, who: bytes) -> Move:
    id_, other = rng.randbytes(32), rng.choice(PEOPLE)
    return rng.choice(
        (
            ("Vault", "lock", who, (other, id_, 1)),
            ("Vault", "pay", who, (id_, who, 1)),
            ("Vault", "shift", who, (id_, t.world.addresses["Tasks"], id_, 1)),
            ("Vault", "shift", who, (id_, who, id_, 1)),
            ("Panel", "open", who, (1, 1, 1, 1)),
            ("Court", "file", who, (1, 0, 0, 1, 1)),
            ("Court", "onVote", who, (1, 0)),
            ("Court", "settleVote", who, (1, 0, who)),
            ("Tasks", "onVote", who, (1, 0)),
            ("Tasks", "settleVote", who, (1, 0, who)),
            ("Tasks", "resolve", who, (1, 0, 0, 4)),
        )
    )


_ANY: tuple[Callable[[Trace, Random, bytes], Move], ...] = (
    lambda t, g, who: ("Vault", "deposit", who, (g.choice((0, 1, TOKEN)),)),
    lambda t, g, who: ("Vault", "withdraw", who, (g.choice((0, 1, 50 * TOKEN, 10**24)),)),
    lambda t, g, who: ("Vault", "setPayout", who, (g.choice(PEOPLE), g.choice([*PEOPLE, bytes(20)]))),
    _vault_verbs,
    lambda t, g, who: ("Panel", "sit", who, ()),
    lambda t, g, who: ("Panel", "exit", who, (_id(g, len(t.world.state.seats)),)),
    lambda t, g, who: ("Panel", "leave", who, (_id(g, len(t.world.state.seats)),)),
    lambda t, g, who: ("Panel", "topUp", who, (_id(g, len(t.world.state.seats)), g.randrange(TOKEN))),
    lambda t, g, who: ("Panel", "seed", who, (_id(g, len(t.world.state.polls)),)),
    _seal_any,
    lambda t, g, who: ("Panel", "reveal", who, _some_votes(t, g)),
    lambda t, g, who: ("Panel", "settle", who, _some_votes(t, g)),
    lambda t, g, who: ("Panel", "leak", who, _some_votes(t, g)),
    lambda t, g, who: ("Panel", "forfeit", who, _some_votes(t, g)[:2]),
    _strange_publish,
    lambda t, g, who: ("Tasks", "close", who, (_id(g, len(t.world.state.tasks)),)),
    lambda t, g, who: ("Tasks", "reclaim", who, (_id(g, len(t.world.state.tasks)),)),
    lambda t, g, who: ("Tasks", "claim", who, (*_place(t, g)[:2], g.randbytes(32))),
    lambda t, g, who: ("Tasks", "relinquish", who, _place(t, g)),
    lambda t, g, who: ("Tasks", "defer", who, _place(t, g)),
    lambda t, g, who: ("Tasks", "submit", who, (*_place(t, g), bytes(32) if g.random() < 0.5 else b"r" * 32)),
    lambda t, g, who: ("Tasks", "submitLate", who, (*_place(t, g), bytes(32))),
    lambda t, g, who: ("Tasks", "expire", who, _place(t, g)),
    lambda t, g, who: ("Tasks", "openSeal", who, (*_place(t, g), g.randbytes(32), _chosen(t, g))),
    lambda t, g, who: ("Tasks", "touch", who, _place(t, g)[:2]),
    lambda t, g, who: ("Tasks", "advance", who, _place(t, g)[:2]),
    lambda t, g, who: (
        "Tasks",
        "propose",
        who,
        (*_place(t, g)[:2], bytes(32) if g.random() < 0.3 else b"p" * 32),
    ),
    lambda t, g, who: ("Tasks", "contestMerge", who, (*_place(t, g)[:2], 9, 0)),
    lambda t, g, who: ("Tasks", "proveMerge", who, (*_place(t, g)[:2], 0, 0, g.randbytes(40))),
    lambda t, g, who: ("Tasks", "announce", who, ("x" * g.choice((0, 20, 200, 201)),)),
    lambda t, g, who: (
        "Court",
        "answer",
        who,
        (_id(g, len(t.world.state.disputes)), _chosen(t, g), (b"", [])),
    ),
    lambda t, g, who: ("Court", "rule", who, (_id(g, len(t.world.state.disputes)),)),
    lambda t, g, who: ("Court", "appeal", who, (_id(g, len(t.world.state.disputes)),)),
)
