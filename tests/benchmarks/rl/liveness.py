"""Free-running workers and a validator that cannot look at everything at once: what share of finished units is used?

The rules of `rl.loops` in simulated time: twelve workers of speeds 1x to 4x, a checker of limited rate, a learner. With
tickets for as many units as cannot go stale, the nearest deadline first; newest first; and without tickets, in order of
arrival, which ends in a livelock.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from .common import Row

VERSIONS = 60
UNITS = 12


@dataclass(slots=True)
class World:
    """Discrete events; times in units of the fastest worker's unit."""

    speeds: tuple[float, ...]
    check_time: float
    learn_time: float
    lag: int
    tickets: bool
    order: str
    now: float = 0.0
    version: int = 0
    taken: int = 0
    used: int = 0
    lost: int = 0
    made: int = 0
    waiting: list[tuple[int, int]] = field(default_factory=list)
    accepted: list[tuple[int, int]] = field(default_factory=list)
    checking: bool = False
    learning: bool = False
    idle: set[int] = field(default_factory=set)
    events: list[tuple[float, int, str, tuple[int, ...]]] = field(default_factory=list)
    count: int = 0

    def at(self, after: float, what: str, *detail: int) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + after, self.count, what, detail))

    @property
    def opened(self) -> int:
        return self.used + self.lost + max(1, self.lag) * UNITS

    def start(self, worker: int) -> None:
        if self.tickets and self.taken >= self.opened:
            self.idle.add(worker)
            return
        self.taken += 1
        self.at(self.speeds[worker], "made", worker, self.taken, self.version)

    def fresh(self, units: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Drop what is stale; the rest in the order in which it is served."""
        kept = [u for u in units if u[0] >= self.version - self.lag]
        self.lost += len(units) - len(kept)
        if self.order == "arrival":
            return kept
        sign = -1 if self.order == "newest" else 1
        return sorted(kept, key=lambda u: (sign * u[0], u[1]))

    def move(self) -> None:
        """Whatever can begin now, begins."""
        if self.order != "arrival":
            self.waiting = self.fresh(self.waiting)
        if not self.checking and self.waiting:
            self.checking = True
            self.at(self.check_time, "checked", *self.waiting.pop(0))
        self.accepted = self.fresh(self.accepted)
        if not self.learning and len(self.accepted) >= UNITS:
            self.accepted = self.accepted[UNITS:]
            self.used += UNITS
            self.learning = True
            self.at(self.learn_time, "learnt")
        for worker in sorted(self.idle):
            if not self.tickets or self.taken < self.opened:
                self.idle.discard(worker)
                self.start(worker)

    def run(self, horizon: float) -> Row:
        for worker in range(len(self.speeds)):
            self.start(worker)
        while self.events and self.version < VERSIONS and self.now < horizon:
            self.now, _, what, detail = heapq.heappop(self.events)
            if what == "made":
                self.made += 1
                self.waiting.append((detail[2], detail[1]))
                self.start(detail[0])
            elif what == "checked":
                self.checking = False
                self.accepted.append((detail[0], detail[1]))
            else:
                self.learning = False
                self.version += 1
            self.move()
        return {
            "versions": self.version,
            "made": self.made,
            "used": self.used,
            "usable_share": round(
                (self.used + len(self.fresh(self.accepted + self.waiting))) / max(1, self.made), 4
            ),
            "time": round(self.now, 1),
        }


def run() -> Row:
    speeds = tuple(s for s in (1.0, 4 / 3, 2.0, 4.0) for _ in range(3))
    rows = []
    for lag in (2, 4):
        for check, learn in ((0.3, 0.8), (0.1, 1.0), (0.1, 3.0)):
            row: Row = {"lag": lag, "check_time_per_unit": check, "learn_time_per_version": learn}
            for name, tickets, order in (
                ("tickets_nearest_deadline_first", True, "deadline"),
                ("tickets_newest_first", True, "newest"),
                ("no_tickets_arrival_order", False, "arrival"),
            ):
                row[name] = World(speeds, check, learn, lag, tickets, order).run(2_000)
            rows.append(row)
    ours = [row["tickets_nearest_deadline_first"] for row in rows]
    return {
        "workers": "12 free-running at 1x..4x, 12 units per version",
        "least_usable_share": min(row["usable_share"] for row in ours),
        "versions": min(row["versions"] for row in ours),
        "rows": rows,
    }
