"""The world that the model's contracts share: state, ledger, block; and the Vault."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from eth_utils.crypto import keccak

from commonweight.core import seeds
from commonweight.core.economics import Host
from commonweight.core.events import Event
from commonweight.core.fold import fold
from commonweight.core.hashing import abi_sha256, word
from commonweight.core.state import Round, State, Task, Work

BURN = bytes(18) + b"\xde\xad"
NOBODY = bytes(20)
MERGE = 2**16 - 1
Key = tuple[int, int, int]


class Revert(Exception):
    """The call is refused, with this error and these arguments."""

    def __init__(self, name: str, *args: Any) -> None:
        super().__init__(f"{name}{args}")
        self.name, self.values = name, args


@dataclass(slots=True)
class Books:
    """Everything that a call can change. ``state`` is the fold of the events; the rest is what no event says."""

    state: State = field(default_factory=State)
    pots: dict[tuple[str, bytes], int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    allowed: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    batches: dict[tuple[int, int], int] = field(default_factory=dict)
    """The stored word of each sealed batch, by poll and seat."""
    reserved: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    unrevealed: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    updates: dict[Key, bytes] = field(default_factory=dict)
    """Roots of the updates that enter a merge."""
    decided: dict[tuple[int, int], int] = field(default_factory=dict)
    yes: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    no: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    soft: set[Key] = field(default_factory=set)
    jury: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    share: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class World:
    """Chain, books and contracts. ``addresses``: of Vault, Panel, Tasks, Court; ``hashes``: of mined blocks."""

    def __init__(self, addresses: Mapping[str, bytes], host: Host, chain_id: int = 31337) -> None:
        from .court import Court
        from .panel import Panel
        from .tasks import Tasks

        self.addresses, self.host, self.chain_id = addresses, host, chain_id
        self.hashes: dict[int, bytes] = {}
        self.books = Books()
        self.now = self.block = 0
        self.log: list[tuple[str, str, dict[str, Any]]] = []
        self.vault, self.panel, self.tasks, self.court = Vault(self), Panel(self), Tasks(self), Court(self)

    def attempt(self, now: int, block: int, contract: str, verb: str, sender: bytes, *args: Any) -> list[Any]:
        """The events of a call in block ``block``, (contract, name, arguments). Raises `Revert` and changes nothing."""
        self.now, self.block, self.log = now, block, []
        before = copy.deepcopy(self.books)
        try:
            getattr(getattr(self, contract.lower()), verb)(sender, *args)
        except Revert:
            self.books = before
            raise
        return self.log

    @property
    def state(self) -> State:
        """The fold of every event so far."""
        return self.books.state

    def emit(self, contract: str, name: str, **args: Any) -> None:
        """One event, folded at once."""
        if "from_" in args:
            args["from"] = args.pop("from_")
        event = Event(contract, name, args, self.block, b"", len(self.log), self.now, b"")
        fold([event], self.state)
        self.log.append((contract, name, args))

    def beacon(self, block: int) -> bytes | None:
        """Hash of the beacon's block; None when it can no longer be read."""
        if self.block <= block:
            raise Revert("SeedNotReady", block)
        return self.hashes[block] if self.block - block <= 256 else None


class Contract:
    """A part of the world, with short ways to the rest of it."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def now(self) -> int:
        return self.world.now

    @property
    def books(self) -> Books:
        return self.world.books

    @property
    def state(self) -> State:
        return self.world.books.state

    def not_before(self, due: int) -> None:
        if self.now < due:
            raise Revert("TooEarly", due)

    def before(self, due: int) -> None:
        if self.now >= due:
            raise Revert("TooLate", due)

    def task_of(self, task: int) -> Task:
        if task not in self.state.tasks:
            raise Revert("UnknownTask", task)
        return self.state.tasks[task]

    def round_of(self, task: int, round_: int) -> Round:
        found = self.task_of(task)
        if round_ not in found.rounds:
            raise Revert("UnknownRound", task, round_)
        return found.rounds[round_]

    def find(self, task: int, round_: int, slot: int) -> Work | None:
        found = self.state.tasks.get(task)
        place = found.rounds.get(round_) if found else None
        return place.works.get(slot) if place else None


def pot_id(task: int, round_: int, slot: int) -> bytes:
    """Twin of ``Rounds.potId``."""
    return bytes(keccak(word(task) + word(round_) + word(slot)))


def taken(round_: Round) -> int:
    """Leases ever claimed, given back ones too (contracts: ``Round.claimed``)."""
    return sum(w.origin is None for w in round_.works.values())


def gone(round_: Round) -> int:
    """Leases given back."""
    return sum(w.given_back for w in round_.works.values())


def late(round_: Round) -> int:
    """Works that entered late."""
    return sum(w.origin is not None for w in round_.works.values())


def submitted(round_: Round) -> int:
    """Works with a root that came in time."""
    return sum(w.root is not None and w.origin is None for w in round_.works.values())


def undecided(round_: Round) -> int:
    """Works whose place in the mask is open."""
    return sum(not w.resolved for w in round_.works.values())


def mask(round_: Round) -> int:
    """One bit for each work that is merged."""
    return sum(1 << w.slot for w in round_.included)


class Vault(Contract):
    """Twin of `Vault`; modules are named, not addressed."""

    def deposit(self, sender: bytes, amount: int) -> None:
        b, me = self.books, self.world.addresses["Vault"]
        if b.allowed[sender] < amount:
            raise Revert("ERC20InsufficientAllowance", me, b.allowed[sender], amount)
        if b.tokens[sender] < amount:
            raise Revert("ERC20InsufficientBalance", sender, b.tokens[sender], amount)
        b.allowed[sender] -= amount
        b.tokens[sender] -= amount
        b.tokens[me] += amount
        self.world.emit("Vault", "Deposited", who=sender, amount=amount)

    def withdraw(self, sender: bytes, amount: int) -> None:
        self._afford(sender, amount)
        self.world.emit("Vault", "Withdrawn", who=sender, amount=amount)
        cold = self.state.payouts.get(sender, NOBODY)
        self.books.tokens[self.world.addresses["Vault"]] -= amount
        self.books.tokens[sender if cold == NOBODY else cold] += amount

    def setPayout(self, sender: bytes, who: bytes, cold: bytes) -> None:
        now = self.state.payouts.get(who, NOBODY)
        needs = who if now == NOBODY else now
        if sender != needs:
            raise Revert("NotPayout", sender, needs)
        self.world.emit("Vault", "PayoutSet", who=who, cold=cold)

    def lock(self, sender: bytes, from_: bytes, id_: bytes, amount: int) -> None:
        self._module(sender)
        raise AssertionError("no trace calls as a module")

    def pay(self, sender: bytes, id_: bytes, to: bytes, amount: int) -> None:
        self._module(sender)
        raise AssertionError("no trace calls as a module")

    def halve(self, sender: bytes, id_: bytes, to: bytes, amount: int) -> None:
        self._module(sender)
        raise AssertionError("no trace calls as a module")

    def shift(self, sender: bytes, id_: bytes, module: bytes, to_id: bytes, amount: int) -> None:
        self._module(module)
        self._module(sender)
        raise AssertionError("no trace calls as a module")

    def locked(self, module: str, who: bytes, id_: bytes, amount: int) -> None:
        """``lock`` by a module."""
        self._afford(who, amount)
        self.books.pots[module, id_] += amount
        at = self.world.addresses[module]
        self.world.emit("Vault", "Locked", module=at, id=id_, from_=who, amount=amount)

    def paid(self, module: str, id_: bytes, to: bytes, amount: int) -> None:
        """``pay`` by a module."""
        self._take(module, id_, amount)
        at = self.world.addresses[module]
        self.world.emit("Vault", "Paid", module=at, id=id_, to=to, amount=amount)

    def halved(self, module: str, id_: bytes, to: bytes, amount: int) -> None:
        """``halve`` by a module."""
        self.paid(module, id_, to, amount // 2)
        self.paid(module, id_, BURN, amount - amount // 2)

    def shifted(self, module: str, id_: bytes, to_id: bytes, amount: int) -> None:
        """``shift`` by a module, to itself."""
        self._take(module, id_, amount)
        self.books.pots[module, to_id] += amount
        at = self.world.addresses[module]
        self.world.emit("Vault", "Shifted", module=at, id=id_, toModule=at, toId=to_id, amount=amount)

    def _module(self, who: bytes) -> None:
        if who not in [self.world.addresses[name] for name in ("Tasks", "Panel", "Court")]:
            raise Revert("NotModule", who)

    def _afford(self, who: bytes, amount: int) -> None:
        has = self.state.free.get(who, 0)
        if has < amount:
            raise Revert("ShortFree", who, has, amount)

    def _take(self, module: str, id_: bytes, amount: int) -> None:
        has = self.books.pots[module, id_]
        if has < amount:
            raise Revert("ShortPot", self.world.addresses[module], id_, has, amount)
        self.books.pots[module, id_] = has - amount


__all__ = ["BURN", "MERGE", "NOBODY", "Books", "Contract", "Revert", "World", "abi_sha256", "seeds", "sha256"]
