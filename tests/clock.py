"""The time of a local chain in the hands of a test: it waits for whoever still has to act, and for nobody else.

Blocks are mined here: at once when transactions wait, once a second while an honest participant has something to do
(so a slow machine misses no window), and with a leap of time when nobody has. What there is to do says `core.duties`,
the same pure functions that the nodes follow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Set

from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import Participant, World
from commonweight.core import duties
from commonweight.core.duties import Duty, Todo
from commonweight.core.state import Task

LEAP = 5
"""Seconds of the chain, less than any window of a test."""

BLOCK_SECONDS = 1.0
ALWAYS = (Duty.PUBLISH,)
"""A wish that never ends, and needs no transaction."""


class Clock:
    """Call it once per turn of the test's loop. ``idle``: whom one must not wait for in disputes and merges."""

    def __init__(self, world: World, spectator: Spectator, idle: Set[str], leases: Mapping[str, int]) -> None:
        self._world, self._spectator = world, spectator
        self._idle, self._leases = idle, leases
        self.away: set[str] = set()
        """Names of those who cannot act at all now."""
        self._rpc = world.chain.rpc
        self._last = time.monotonic()
        self._rpc.call("evm_setIntervalMining", 0)
        self._rpc.call("anvil_setBlockTimestampInterval", 1)

    def __call__(self) -> None:
        """One turn."""
        if int(self._rpc.call("txpool_status")["pending"], 16):
            self._mine()
        elif self._nobody_acts():
            head = self._world.chain.head()
            self._rpc.call("evm_setNextBlockTimestamp", head.timestamp + LEAP)
            self._mine()
        elif time.monotonic() - self._last >= BLOCK_SECONDS:
            self._mine()

    def _mine(self) -> None:
        self._rpc.call("evm_mine")
        self._last = time.monotonic()

    def _nobody_acts(self) -> bool:
        state = self._spectator.state
        task = next(iter(state.tasks.values()), None)
        seated = {seat.owner for seat in state.seats.values()}
        if task is None or task.finished:
            return False
        for name, who in self._world.people.items():
            if name in self.away:
                continue
            if who.role == "validator" and who.address not in seated:
                return False
            if any(self._matters(todo, who, task) for todo in self._todos(who, task)):
                return False
        return True

    def _todos(self, who: Participant, task: Task) -> Iterator[Todo]:
        state, head = self._spectator.state, self._world.chain.head()
        if who.role == "trainer":
            yield from duties.trainer(state, who.address, task, head.timestamp, self._leases.get(who.name, 1))
        if who.role == "validator":
            yield from duties.validator(state, who.address, head.timestamp)
        if who.process is not None and who.process.poll() is None:
            yield from duties.cranks(state, who.address, head.timestamp, head.number)

    def _matters(self, todo: Todo, who: Participant, task: Task) -> bool:
        if todo.duty in ALWAYS:
            return False
        if todo.duty in (Duty.REFUTE, Duty.CLEAR):
            return not self._merge_is_settled(todo, task)
        if who.name in self._idle:
            jury = todo.duty in (Duty.CHECK, Duty.REVEAL) and todo.subject[0] in self._spectator.state.juries
            return not jury and todo.duty in (Duty.CLAIM, Duty.TRAIN, Duty.CHECK, Duty.REVEAL, Duty.OPEN)
        return True

    def _merge_is_settled(self, todo: Todo, task: Task) -> bool:
        """Only time is left: a right version that nobody demands to see, or a wrong one of which a lane is."""
        proposal = task.rounds[todo.subject[1]].proposal
        if proposal is None:
            return True
        honest = {p.address for name, p in self._world.people.items() if name not in self._idle}
        return (proposal.by in honest) == (proposal.contest is None)
