"""Which of the wanted shards a node gives: the one given least, and for a while none twice. No clock, no socket.

What leaves a lone origin twice before everything left it once is lost for the swarm, since whoever has the first copy
can pass it on ("super-seeding"). Nobody is kept waiting for long: a shard is held back for a few seconds only, and
not at all once every shard has been given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Giving:
    """What was given of one artifact of ``shards`` shards. Times in seconds of the caller's clock."""

    shards: int
    hold_seconds: float
    times: dict[int, int] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)

    def choose(self, here: list[int], all_here: bool, now: float, rng: random.Random) -> int | None:
        """One of ``here`` to give now, or None to send the reader to others for the moment."""
        if not here:
            return None
        index = min(here, key=lambda i: (self.times.get(i, 0), rng.random()))
        first_round = all_here and len(self.times) < self.shards
        if first_round and now - self.last.get(index, float("-inf")) < self.hold_seconds:
            return None
        self.given(index, now)
        return index

    def given(self, index: int, now: float) -> None:
        """The shard is given, chosen here or insisted on."""
        self.times[index] = self.times.get(index, 0) + 1
        self.last[index] = now
