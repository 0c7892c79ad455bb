"""A whole life of a task, played by real nodes' senders on one Anvil whose time is its blocks': it can be undone.

Every transaction is a journalled effect with a name, asked for again until the chain has it, as nodes' duties are. No
model is trained: roots and openings are those of small artifacts, and the contracts cannot tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commonweight.chain import deployment, keys
from commonweight.chain.client import Chain
from commonweight.chain.deploy import deploy
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, faucet, fund
from commonweight.chain.effects import CONFIRMED, FAILED, Effect, Refused
from commonweight.chain.follower import Follower
from commonweight.chain.sender import Policy, Sender
from commonweight.core import seeds
from commonweight.core.fold import fold
from commonweight.core.merkle import root as root_of
from commonweight.core.spec import TOKEN
from commonweight.core.state import State, Task, Work
from commonweight.core.verdict import vote_word
from commonweight.core.works import TREE_STEPS, Header
from commonweight.nodes.exhibits import fields, opening
from commonweight.nodes.node import Node
from commonweight.nodes.wiring import NodeConfig, open_node

WINDOW = 600
PARAMS = {
    "reward": 10 * TOKEN,
    "bond": 20 * TOKEN,
    "aggReward": 2 * TOKEN,
    "aggBond": 10 * TOKEN,
    "slots": 2,
    "rounds": 1,
    "feeBps": 1000,
    "want": 3,
    "quorum": 2,
    "lag": 1,
    "decoyOneIn": 0,
    **dict.fromkeys(("claimT", "trainT", "sealT", "revealT", "openT", "aggT"), WINDOW),
    "length": 4096,
    "shift": 8,
    "trim": 0,
    "lrNum": 7,
    "lrDen": 10,
    "momentumNum": 9,
    "momentumDen": 10,
}
ACTORS = {
    "publisher": 0,
    "trainer-1": 0,
    "trainer-2": 2,
    "validator-1": 0,
    "validator-2": 1,
    "validator-3": 0,
    "relay": 5,
}
"""Each node and how many confirmations it waits for."""

TRAINERS, VALIDATORS = ("trainer-1", "trainer-2"), ("validator-1", "validator-2", "validator-3")
STEPS = b"".join(random.Random(5).randbytes(1024) for _ in range(8))
HEADERS = [
    Header(bytes([slot]) * 32, 4096, root_of(STEPS), 8, root_of(STEPS), 8, bytes([slot]) * 32)
    for slot in range(2)
]
ACCEPT, REJECT = [vote_word(0, 0, 0), vote_word(1, 0, 0)], [vote_word(0, 0, 0), vote_word(1, TREE_STEPS, 1)]
SALT = b"\5" * 32
TRIES = 24
DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Act:
    """One transaction: who sends what, from when on (chain seconds) it can succeed, and the effect's name."""

    name: str
    who: str
    contract: str
    function: str
    args: tuple[Any, ...]
    due: int = 0


class Life:
    """Nodes, their senders and the chain; `reach` plays until a step is done, and again after whatever was undone."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}
        try:
            self._build(folder)
        except BaseException:
            self.close()
            raise

    def _build(self, folder: Path) -> None:
        net = self._stack.enter_context(Devnet(folder / "net"))
        record = deploy(net.url, keys.dev_account(0), DeployConfig())
        deployment.save(record, folder / "deployment.json")
        self.chain = Chain.connect(net.url, record, confirmations=0)
        self.rpc = self.chain.rpc
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text("a password\n")
        for name, depth in ACTORS.items():
            home = folder / name
            home.mkdir(mode=0o700)
            address = keys.create(home / "key.json", "a password", light=True)
            fund(net.url, address, 10**19)
            faucet(self.chain, address, 2_000 * TOKEN)
            config = NodeConfig(
                role=name.split("-")[0],
                home=home,
                key=home / "key.json",
                password_file=password,
                rpc=net.url,
                deployment=folder / "deployment.json",
                task=1,
                confirmations=depth,
            )
            node = self._stack.enter_context(open_node(config))
            account = keys.load(home / "key.json", "a password")
            # A node asks three times at most; here one life is undone more often than any node's ever will be.
            sender = Sender(node.kit.chain, account, node.kit.journal, Policy(max_attempts=1_000_000))
            node.kit = replace(node.kit, sender=sender)
            self.nodes[name] = node
        # A block's time is its parent's and a second: undoing blocks undoes time.
        self.rpc.call("anvil_setBlockTimestampInterval", 1)
        self.rpc.call("anvil_mine", hex(70))
        self.follow()

    def close(self) -> None:
        """End every node and the chain."""
        self._stack.close()

    # --- the chain ---

    @property
    def now(self) -> int:
        """Time of the newest block."""
        return self.chain.head().timestamp

    def mine(self, blocks: int = 1) -> None:
        """Empty blocks, or with what waits in the pool."""
        self.rpc.call("anvil_mine", hex(blocks))

    def pass_time_until(self, when: int) -> None:
        """A block of that time, unless it is later already."""
        if self.now < when:
            self.rpc.call("evm_setNextBlockTimestamp", when)
            self.mine()

    def undo(self, depth: int) -> None:
        """Other, empty blocks instead of the newest ones."""
        self.rpc.call("anvil_reorg", depth, [])

    # --- the nodes ---

    def follow(self) -> None:
        """Every node reads on."""
        for node in self.nodes.values():
            node.follow()

    def pump(self) -> None:
        """Every sender does what is to do, and blocks come until none has anything left."""
        for _ in range(TRIES):
            for node in self.nodes.values():
                node.kit.sender.pump()
            if not any(node.kit.sender.pending() for node in self.nodes.values()):
                return
            self.mine()
        raise AssertionError([node.kit.sender.pending() for node in self.nodes.values()])

    @property
    def state(self) -> State:
        """What the newest block says, by the follower that waits for nothing."""
        self.nodes["publisher"].follow()
        return self.nodes["publisher"].state

    def reach(self, step: str) -> None:
        """Play until every act up to this step has happened."""
        for name, acts in SCRIPT.items():
            if name == "publish":
                self._let_seats_rest()
            for number, act in enumerate(acts(self)):
                known = self.nodes[act.who].kit.sender.effect(act.name)
                if known is None or not known.ok:
                    self._ensure(acts, number)
            if name == step:
                return

    def _let_seats_rest(self) -> None:
        """Who sat down is out of reach of what comes: a poll that opens on another branch before somebody sits again
        goes on without him, rightly, and the life would be another one."""
        last = max((seat.since for seat in self.state.seats.values()), default=0)
        missing = last + DEEPEST - self.chain.head().number
        if missing > 0:
            self.mine(missing)

    def _ensure(self, acts: Callable[[Life], list[Act]], number: int) -> None:
        answer: Effect | Refused | None = None
        for _ in range(TRIES):
            act = acts(self)[number]
            sender = self.nodes[act.who].kit.sender
            answer = sender.request(act.name, act.contract, act.function, act.args)
            if isinstance(answer, Refused):
                # too early by the clock, or a beacon's block is yet to come
                self.pass_time_until(act.due)
                self.mine()
            elif answer.final and answer.ok:
                return
            else:
                self.mine()
                sender.pump()
        raise AssertionError(f"{acts(self)[number]} did not happen: {answer}")

    # --- what must hold ---

    def check_states(self) -> None:
        """Each node's state and events are those of somebody who reads the whole chain for the first time."""
        self.follow()
        told = {depth: Follower(self.chain, depth).poll() for depth in set(ACTORS.values())}
        states = {depth: fold(events) for depth, events in told.items()}
        for name, node in self.nodes.items():
            assert node.kit.follower.events == told[ACTORS[name]], name
            assert node.state == states[ACTORS[name]], name

    def check_journals(self) -> None:
        """What a journal calls done is on the canonical chain, once; what it gave up is not; no nonce is missing."""
        for name, node in self.nodes.items():
            journal, me, mined = node.kit.journal, node.me, 0
            for effect in journal.effects():
                found = [
                    r for t in journal.transactions(effect.effect_id) if (r := self.chain.receipt(t.hash))
                ]
                assert all(self.chain.block_hash(r.block) == r.block_hash for r in found)
                mined += len(found)
                happened = sum(r.status for r in found)
                assert happened == (effect.state == CONFIRMED), (name, effect)
                if effect.state in (CONFIRMED, FAILED):
                    assert effect.hash in {r.hash for r in found}, (name, effect)
            assert mined == self.chain.nonce(me) == self.chain.nonce(me, "pending"), name


def _task(life: Life) -> Task:
    return life.state.tasks[1]


def _money(life: Life) -> list[Act]:
    vault, acts = life.chain.addresses["Vault"], []
    for who in ACTORS:
        acts.append(Act("approve", who, "Token", "approve", (vault, 2**256 - 1)))
        acts.append(Act("deposit", who, "Vault", "deposit", (1_500 * TOKEN,)))
    return acts


def _sit(life: Life) -> list[Act]:
    return [Act("sit", who, "Panel", "sit", ()) for who in VALIDATORS]


def _publish(life: Life) -> list[Act]:
    args = (PARAMS, b"s" * 32, b"m" * 32, "http://127.0.0.1:8700")
    return [Act("publish", "publisher", "Tasks", "publish", args)]


def _secret(life: Life, who: str) -> bytes:
    return life.nodes[who].me.ljust(32, b"\7")


def _claim(life: Life) -> list[Act]:
    seals = {who: seeds.seal_of(_secret(life, who), life.nodes[who].me) for who in TRAINERS}
    return [Act("claim", who, "Tasks", "claim", (1, 0, seals[who])) for who in TRAINERS]


def _works(life: Life) -> list[tuple[str, Work]]:
    """Works by slot with the names of their trainers: who came first on this branch has the first slot."""
    names = {life.nodes[who].me: who for who in TRAINERS}
    rounds = _task(life).rounds if 1 in life.state.tasks else {}
    return [(names[w.trainer], w) for _, w in sorted(rounds[0].works.items())] if rounds else []


def _submit(life: Life) -> list[Act]:
    return [
        Act(f"submit:{w.slot}", who, "Tasks", "submit", (1, 0, w.slot, HEADERS[w.slot].root))
        for who, w in _works(life)
    ]


def _seal(life: Life, poll: int, batches: list[list[int]]) -> list[Act]:
    panel, acts = life.chain.addresses["Panel"], []
    for who, votes in zip(VALIDATORS, batches, strict=True):
        seat = _seat(life, who)
        sealed = seeds.votes_hash(31337, panel, poll, seat, votes, SALT)
        name, args = f"seal:{poll}:{seat}", (poll, seat, sealed, len(votes))
        acts.append(Act(name, who, "Panel", "sealVotes", args))
    return acts


def _seat(life: Life, who: str) -> int:
    seats = life.state.seats.values()
    return next((s.id for s in seats if s.owner == life.nodes[who].me), 1 + VALIDATORS.index(who))


def _with_batches(life: Life, function: str, poll: int, batches: list[list[int]]) -> list[Act]:
    found = life.state.polls.get(poll)
    due = found.seal_end if found else 0
    return [
        Act(f"{function}:{poll}:{seat}", who, "Panel", function, (poll, seat, votes, SALT), due)
        for who, votes in zip(VALIDATORS, batches, strict=True)
        for seat in [_seat(life, who)]
    ]


WORK_VOTES = [ACCEPT, ACCEPT, REJECT]
JURY_VOTES = [[vote_word(0, 0, 0)]] * 3


def _answer(life: Life) -> list[Act]:
    accused = [who for who, work in _works(life) if work.slot == 1] or ["trainer-2"]
    shown = opening(STEPS, 0)
    return [Act("answer", accused[0], "Court", "answer", (1, fields(HEADERS[1]), shown))]


def _open(life: Life) -> list[Act]:
    polls = life.state.polls
    due = polls[1].reveal_end if 1 in polls else 0
    return [
        Act(
            f"open:{w.slot}",
            who,
            "Tasks",
            "openSeal",
            (1, 0, w.slot, _secret(life, who), fields(HEADERS[w.slot])),
            due,
        )
        for who, w in _works(life)
    ]


def _rule(life: Life) -> list[Act]:
    polls = life.state.polls
    return [Act("rule", "relay", "Court", "rule", (1,), polls[2].reveal_end if 2 in polls else 0)]


def _propose(life: Life) -> list[Act]:
    return [Act("propose", "relay", "Tasks", "propose", (1, 0, b"n" * 32))]


def _advance(life: Life) -> list[Act]:
    rounds = life.state.tasks[1].rounds if 1 in life.state.tasks else {}
    proposal = rounds[0].proposal if rounds else None
    return [Act("advance", "relay", "Tasks", "advance", (1, 0), proposal.at + WINDOW if proposal else 0)]


def _withdraw(life: Life) -> list[Act]:
    return [Act("withdraw", who, "Vault", "withdraw", (5 * TOKEN,)) for who in TRAINERS]


SCRIPT: dict[str, Callable[[Life], list[Act]]] = {
    "deposit": _money,
    "sit": _sit,
    "publish": _publish,
    "claim": _claim,
    "submit": _submit,
    "seal": lambda life: _seal(life, 1, WORK_VOTES),
    "reveal and file": lambda life: _with_batches(life, "reveal", 1, WORK_VOTES),
    "answer": _answer,
    "open": _open,
    "seal of the jury": lambda life: _seal(life, 2, JURY_VOTES),
    "reveal of the jury": lambda life: _with_batches(life, "reveal", 2, JURY_VOTES),
    "rule": _rule,
    "propose": _propose,
    "advance": _advance,
    "settle": lambda life: _with_batches(life, "settle", 1, WORK_VOTES),
    "reclaim": lambda life: [Act("reclaim", "publisher", "Tasks", "reclaim", (1,))],
    "withdraw": _withdraw,
}
"""The steps of the protocol in order; what an act's arguments are depends on the chain as it is then."""


def essence(state: State) -> tuple[object, ...]:
    """What a step has brought about, whatever the blocks and their times are."""
    rounds = [r for task in state.tasks.values() for r in task.rounds.values()]
    return (
        state.free,
        [(r.model, r.mask, r.claimed) for r in rounds],
        [(w.state, w.root, w.paid, w.opened) for r in rounds for w in r.works.values()],
        [(p.sealed, p.revealed, p.settled) for p in state.polls.values()],
        [(d.phase, d.outcome, d.counts) for d in state.disputes.values()],
    )


def survive(life: Life, step: str, depth: int, reached: tuple[object, ...]) -> None:
    """Undo the newest blocks after a step: every node follows, and the life comes to the same again."""
    life.undo(depth)
    life.check_states()  # what was cut off is gone from every node
    life.pump()
    life.check_states()
    life.check_journals()  # sent again, or given up for a reason that the chain gave
    life.reach(step)
    life.pump()
    life.check_states()
    assert essence(life.state) == reached, (step, depth)
