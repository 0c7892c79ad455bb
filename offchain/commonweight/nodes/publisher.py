"""A publisher, and a relay: serve artifacts, turn cranks, and give the rest of the escrow back when a task is over."""

from __future__ import annotations

from ..core.state import Task
from .node import Node


class Relay(Node):
    """Serves what it has and recomputes every version; works without a stake."""

    role = "relay"

    def prepare(self) -> None:
        """Let the others know where to fetch."""
        self.announce()


class Publisher(Relay):
    """A relay that published the task; its crank is the reclaim of what was not spent."""

    role = "publisher"

    def done(self) -> bool:
        """Over only when the escrow's rest came back; a task whose every lease was paid has none."""
        task = self.task
        return task is not None and super().done() and (task.reclaimed is not None or not self._rest(task))

    def _rest(self, task: Task) -> int:
        chain = self.kit.chain
        return int(chain.view("Vault", "pot", chain.addresses["Tasks"], task.id.to_bytes(32, "big")))
