"""A spectator without a key: follows the chain, fetches every model version and measures what it is worth."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ...chain.client import Chain, Head
from ...chain.follower import Follower
from ...core.events import Event
from ...core.fold import fold
from ...core.state import State, Task
from ...nodes.lineage import Lineage
from ...shardcast.fetch import Library
from ...shardcast.store import Store
from ...shardcast.versions import VersionBook
from ...tasks.kinds import parameters, task_kind


class Spectator:
    """Folded state, and validation losses of the versions in order: the initial one, then after each round."""

    def __init__(self, chain: Chain, home: Path) -> None:
        self.chain = chain
        self.follower = Follower(chain)
        self.state = State()
        store = Store(home)
        library = Library(store, sources=lambda: list(self.state.endpoints.values()), allow_private=True)
        self.lineage = Lineage(library, VersionBook(home / "versions"), parameters)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._losses: dict[int, float] = {}
        self._running: dict[int, Future[float]] = {}
        self._lock = threading.Lock()

    def poll(self) -> tuple[Head, list[Event]]:
        """New events, already folded."""
        head = self.chain.head()
        events = self.follower.poll()
        self.state = fold(self.follower.events) if self.follower.rewound else fold(events, self.state)
        return head, events

    def losses(self, task: Task) -> list[float]:
        """Losses known so far, in nats per byte; missing ones are computed in the background."""
        roots = [task.initial, *(r.model for _, r in sorted(task.rounds.items()) if r.model is not None)]
        for index, root in enumerate(roots):
            if index not in self._losses and index not in self._running:
                self._running[index] = self._pool.submit(self._evaluate, task, root)
        for index, future in list(self._running.items()):
            if future.done():
                del self._running[index]
                if future.exception() is None:
                    self._losses[index] = future.result()
        known: list[float] = []
        while len(known) in self._losses:
            known.append(self._losses[len(known)])
        return known

    def _evaluate(self, task: Task, root: bytes) -> float:
        spec = self.lineage.spec(task)
        version = self.lineage.version(task, root)
        return task_kind(spec.kind).evaluate(spec, self.lineage.data(task), version)

    def close(self) -> None:
        """Stop measuring."""
        self._pool.shutdown(wait=False, cancel_futures=True)
