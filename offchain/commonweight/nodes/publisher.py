"""A publisher, and a relay: serve artifacts, turn cranks, and give the rest of the escrow back when a task is over."""

from __future__ import annotations

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
        """Over only when the escrow's rest came back."""
        task = self.task
        return super().done() and task is not None and task.reclaimed is not None
