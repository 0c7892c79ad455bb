"""A swarm in virtual time: the real `Plan` of every reader and the real `Giving` of every node, on modelled links.

Links are fluid: a node's uplink is shared equally by what it sends, its downlink by what it receives; a request costs
one round trip, news arrives one way later. So 64 nodes take seconds on one core, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from commonweight.core import merkle
from commonweight.shardcast.giving import Giving
from commonweight.shardcast.limits import LIMITS, Limits
from commonweight.shardcast.plan import Plan, Source


@dataclass(slots=True, eq=False)
class Flow:
    """A shard on its way."""

    sender: int
    reader: int
    index: int
    left: float
    rate: float = 0.0
    slot: bool = False


@dataclass(slots=True)
class Node:
    """One node: its plan, what it gives, and its links in bytes per second."""

    up: float
    down: float
    plan: Plan
    giving: Giving
    slots: int
    liar: bool = False
    stall: bool = False
    sent: float = 0.0
    received: float = 0.0
    finished: float = 0.0
    queue: deque[tuple[int, tuple[int, ...]]] = field(default_factory=deque)
    polling: set[int] = field(default_factory=set)
    polled: dict[int, float] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)


class Swarm:
    """``uplinks`` and ``downlinks`` in bytes per second, node 0 has the artifact; ``latency``: one way, in seconds."""

    def __init__(
        self,
        size: int,
        uplinks: list[float],
        downlinks: list[float],
        latency: float = 0.0005,
        seed: int = 0,
        degree: int = 0,
        liars: frozenset[int] = frozenset(),
        stallers: frozenset[int] = frozenset(),
        limits: Limits = LIMITS,
    ) -> None:
        self.now, self.latency, self.limits = 0.0, latency, limits
        self.rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.flows: list[Flow] = []
        sizes = [min(merkle.SHARD, size - at) for at in range(0, size, merkle.SHARD)]
        every = (1 << len(sizes)) - 1
        self.nodes = [
            Node(
                up,
                down,
                Plan(sizes, every if i == 0 else 0, random.Random(self.rng.random()), limits),
                Giving(len(sizes), limits.hold_seconds),
                limits.upload_slots,
                i in liars,
                i in stallers,
            )
            for i, (up, down) in enumerate(zip(uplinks, downlinks, strict=True))
        ]
        for i, node in enumerate(self.nodes[1:], 1):
            others = [j for j in range(len(self.nodes)) if j != i]
            self.rng.shuffle(others)
            chosen = others[: degree or limits.sources]
            node.plan.sources = {str(j): Source() for j in chosen}

    def run(self, horizon: float = 1e5) -> float:
        """Seconds until the last honest reader has everything."""
        for i in range(1, len(self.nodes)):
            for name in self.nodes[i].plan.sources:
                self._later(2 * self.latency, lambda i=i, j=int(name): self._learn(i, j))
        self._tick()
        while not self._over() and self.now < horizon:
            finish = min((f.left / f.rate for f in self.flows if f.rate), default=float("inf"))
            event = self._events[0][0] - self.now if self._events else float("inf")
            step = max(min(finish, event), 0.0)
            self.now += step
            for flow in self.flows:
                flow.left -= flow.rate * step
                self._progress(flow)
            done = [f for f in self.flows if f.rate and f.left <= 1e-3]
            for flow in done:
                self._arrive(flow)
            while self._events and self._events[0][0] <= self.now + 1e-12:
                heapq.heappop(self._events)[2]()
            self._share()
        return max(node.finished for node in self.nodes)

    # -- the clock -----------------------------------------------------------------------------------------

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, what))

    def _tick(self) -> None:
        """Readers look again now and then, as `Job._coordinate` does."""
        for i in range(1, len(self.nodes)):
            stalled = self.nodes[i].plan.stalled(self.now)
            for flow in [f for f in self.flows if f.reader == i and str(f.sender) in stalled]:
                self._give_up(flow)
            self._dispatch(i)
        self._later(self.limits.poll_pause, self._tick)

    def _over(self) -> bool:
        return all(n.finished or n.liar or n.stall for n in self.nodes[1:])

    def _share(self) -> None:
        ups: dict[int, int] = {}
        downs: dict[int, int] = {}
        for flow in self.flows:
            if not self.nodes[flow.sender].stall:
                ups[flow.sender] = ups.get(flow.sender, 0) + 1
                downs[flow.reader] = downs.get(flow.reader, 0) + 1
        for flow in self.flows:
            sender, reader = self.nodes[flow.sender], self.nodes[flow.reader]
            flow.rate = (
                0.0 if sender.stall else min(sender.up / ups[flow.sender], reader.down / downs[flow.reader])
            )

    def _progress(self, flow: Flow) -> None:
        plan = self.nodes[flow.reader].plan
        if str(flow.sender) in plan.sources:
            plan.progress(str(flow.sender), int(plan.sizes[flow.index] - flow.left), self.now)

    # -- readers -------------------------------------------------------------------------------------------

    def _learn(self, i: int, j: int) -> None:
        node, other = self.nodes[i], self.nodes[j]
        if (source := node.plan.sources.get(str(j))) is not None:
            every = (1 << len(node.plan.sizes)) - 1
            source.have = every if other.liar or other.stall else other.plan.held
            node.polling.discard(j)
            node.polled[j] = self.now
            self._dispatch(i)

    def _dispatch(self, i: int) -> None:
        node = self.nodes[i]
        if not node.plan.missing:
            return
        for name in node.plan.ranked(n for n, s in node.plan.sources.items() if not s.busy):
            j = int(name)
            if node.plan.useful(name):
                if asked := node.plan.ask(name, self.now):
                    self._later(self.latency, lambda i=i, j=j, asked=asked: self._request(i, j, asked))
            elif j not in node.polling and self.now - node.polled.get(j, -9.0) >= self.limits.poll_pause:
                node.polling.add(j)

    def _arrive(self, flow: Flow) -> None:
        self.flows.remove(flow)
        reader, sender, name = self.nodes[flow.reader], self.nodes[flow.sender], str(flow.sender)
        size = reader.plan.sizes[flow.index]
        sender.sent += size
        reader.received += size
        if flow.slot:
            self._free(flow.sender, flow)
        if sender.liar:
            reader.plan.sources.pop(name, None)  # a wrong shard: named and dropped
        else:
            held = reader.plan.held
            reader.plan.finished(name, self.now)
            if reader.plan.held != held:
                self._news(flow.reader)
            for other in [f for f in self.flows if f.reader == flow.reader and f.index == flow.index]:
                self._drop(other)
        if not reader.plan.missing and not reader.finished:
            reader.finished = self.now
            for other in [f for f in self.flows if f.reader == flow.reader]:
                self._drop(other)
        self._dispatch(flow.reader)

    def _drop(self, flow: Flow) -> None:
        """Its reader has the shard from elsewhere."""
        self.flows.remove(flow)
        reader, sender = self.nodes[flow.reader], self.nodes[flow.sender]
        moved = reader.plan.sizes[flow.index] - flow.left
        reader.received += moved
        sender.sent += moved
        if str(flow.sender) in reader.plan.sources:
            reader.plan.dropped(str(flow.sender), self.now)
        self._free(flow.sender, flow)

    def _news(self, j: int) -> None:
        for i, node in enumerate(self.nodes):
            if j in node.polling:
                node.polling.discard(j)
                self._later(self.limits.settle_seconds + self.latency, lambda i=i, j=j: self._learn(i, j))

    # -- senders -------------------------------------------------------------------------------------------

    def _request(self, i: int, j: int, asked: tuple[int, ...]) -> None:
        sender = self.nodes[j]
        if sender.slots:
            sender.slots -= 1
            self._send(i, j, asked, True)
        else:
            entry = (i, asked)
            sender.queue.append(entry)
            self._later(self.limits.queue_seconds, lambda: self._impatient(j, entry))

    def _impatient(self, j: int, entry: tuple[int, tuple[int, ...]]) -> None:
        if any(queued is entry for queued in self.nodes[j].queue):
            self.nodes[j].queue.remove(entry)
            self._refuse(entry[0], j)

    def _send(self, i: int, j: int, asked: tuple[int, ...], slot: bool) -> None:
        reader, sender = self.nodes[i], self.nodes[j]
        every = sender.liar or sender.stall
        here = [k for k in asked if every or sender.plan.held >> k & 1]
        complete = not sender.plan.missing
        index = sender.giving.choose(here, complete, self.now, self.rng)
        gone = str(j) not in reader.plan.sources or not reader.plan.missing
        if index is None or gone:
            if slot:
                sender.slots += 1
                self._next_in_queue(j)
            self._refuse(i, j)
            return
        reader.plan.started(str(j), index)
        flow = Flow(j, i, index, reader.plan.sizes[index], slot=slot)
        self.flows.append(flow)
        self._learn(i, j)
        if slot:
            self._later(self.limits.slot_seconds, lambda: self._free(j, flow))
        if sender.stall:
            self._later(self.limits.read_seconds, lambda: self._give_up(flow))

    def _refuse(self, i: int, j: int) -> None:
        plan = self.nodes[i].plan
        if str(j) in plan.sources and plan.missing:
            plan.released(str(j))
            plan.refused(str(j), self.now)
            self._learn(i, j)

    def _give_up(self, flow: Flow) -> None:
        if flow in self.flows:
            self.flows.remove(flow)
            self.nodes[flow.reader].plan.sources.pop(str(flow.sender), None)
            self._dispatch(flow.reader)

    def _free(self, j: int, flow: Flow) -> None:
        if flow.slot:
            flow.slot = False
            self.nodes[j].slots += 1
            self._next_in_queue(j)

    def _next_in_queue(self, j: int) -> None:
        sender = self.nodes[j]
        while sender.queue and sender.slots:
            i, asked = sender.queue.popleft()
            sender.slots -= 1
            self._send(i, j, asked, True)


def bound(size: int, uplinks: list[float], downlinks: list[float]) -> float:
    """Seconds below which no swarm can bring ``size`` bytes from node 0 to all others."""
    readers = len(uplinks) - 1
    return max(size / uplinks[0], readers * size / sum(uplinks), size / min(downlinks[1:]))


def patient(**changes: float) -> Limits:
    """Limits of a run."""
    return replace(LIMITS, **changes)  # type: ignore[arg-type]
