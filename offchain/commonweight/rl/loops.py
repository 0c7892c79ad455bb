"""The two processes of a local run: one that plays and one that learns. Each may be slower than the other, be absent
for a while, or be killed and started again; they share nothing but an `Exchange`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..chain.faults import fault
from ..core.spec import RlSpec, TrainingSpec
from ..diloco.inner import TrainState
from ..models.architecture import Architecture
from ..models.decoder import policy
from .adapters import Trainable
from .buffer import TrajectoryBuffer, Unit
from .engine import Proving, RolloutEngine, Sampling
from .environments import UNIT
from .exchange import Exchange, Head, write
from .learner import Learned, learn
from .rollout import Player, Scene, episodes
from .trajectories import Columns, Trajectory

POLL_SECONDS = 0.01
ROLLOUT_POINTS = ("claimed", "played", "delivered")
LEARNER_POINTS = ("taken", "learnt", "saved", "published")
"""Where a test can kill a worker (at ``unit:N``) and the learner (at ``version:N``): see `chain.faults`."""
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """``groups`` prompts per unit, ``units`` per learning step, weights at most ``lag`` versions old when consumed.

    A unit whose ticket was taken ``patience_seconds`` ago counts as lost: another one is opened in its place.
    """

    seed: bytes
    groups: int
    units: int
    steps: int
    lag: int
    patience_seconds: float = 60.0


class Log:
    """Metrics as JSON lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def __call__(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"time": time.time(), "event": event, **values}) + "\n")

    def close(self) -> None:
        """End the file."""
        self._file.close()


def rollout_loop(
    exchange: Exchange,
    plan: RunPlan,
    scene: Scene,
    arch: Architecture,
    rl: RlSpec,
    proving: Proving | None,
    worker: str,
    stop: Stop,
    slowness: float = 0.0,
) -> None:
    """Take tickets, play units, deliver them, and follow the newest weights between any two tokens.

    ``slowness``: seconds that a unit takes at least, to simulate weaker hardware.
    """
    engine = RolloutEngine(Sampling(scene.tokens.stop, scene.max_new, rl.temperature), proving=proving)
    player, log = Player(engine, scene), Log(exchange.folder / f"{worker}.jsonl")
    finished = TrajectoryBuffer(exchange.folder / "finished")
    begun: dict[int, float] = {}
    idle, born, first, delivered = 0.0, time.monotonic(), 0, 0.0
    try:
        while not stop():
            head = _follow(exchange, engine, arch)
            if head is None or head.over:
                if head is not None:
                    break
                time.sleep(POLL_SECONDS)
                continue
            # A second unit is begun while the last rows of the first one end, and not before: it would only grow old.
            if player.playing < 2 and engine.running + engine.waiting <= plan.groups * scene.group // 2:
                number = exchange.claim(head.opened, worker, first)
                if number is not None:
                    fault("claimed", f"unit:{number}")
                    first = number + 1
                    begun[number] = time.monotonic()
                    todo = episodes(scene, plan.seed, range(number * plan.groups, (number + 1) * plan.groups))
                    player.begin(number, todo)
            if not player.playing:
                time.sleep(POLL_SECONDS)
                idle += POLL_SECONDS
                continue
            for number, rows in player.step():
                since = max(begun.pop(number), delivered)
                fault("played", f"unit:{number}")
                time.sleep(max(0.0, slowness - (time.monotonic() - since)))
                finished.add(Unit(number, min(r.version for r in rows)), Columns.of(rows))
                delivered = time.monotonic()
                fault("delivered", f"unit:{number}")
                log("unit", worker=worker, unit=number, version=rows[0].version, rows=len(rows), idle=idle)
    finally:
        log("end", idle=idle, alive=time.monotonic() - born, units=finished.counts["added"])
        log.close()


def _follow(exchange: Exchange, engine: RolloutEngine, arch: Architecture) -> Head | None:
    """Load newer weights, if there are any; what is being generated goes on."""
    head = exchange.head()
    if head is not None and head.version > engine.version:
        flat = exchange.weights(head)
        if flat is not None:
            engine.load(head.version, policy(arch, flat))
    return head if engine.version >= 0 else None


class LearnerLoop:
    """Consumes units under the staleness rule, learns, publishes; its state is on disk before its weights are."""

    def __init__(
        self,
        exchange: Exchange,
        plan: RunPlan,
        arch: Architecture,
        part: Trainable,
        training: TrainingSpec,
        rl: RlSpec,
        source: str = "finished",
    ) -> None:
        self.exchange, self.plan, self.arch, self.part = exchange, plan, arch, part
        self.training, self.rl = training, rl
        self.buffer = TrajectoryBuffer(exchange.folder / source)
        self.log = Log(exchange.folder / "learner.jsonl")
        self.taken: set[int] = set()
        self.lost: set[int] = set()
        self.waited = 0.0
        self.version, self.state = self._resume()
        self._publish()

    def _resume(self) -> tuple[int, TrainState]:
        """What `_save` kept; a fresh start otherwise."""
        start = TrainState.start(self.part.start().numpy())
        path = self.exchange.folder / "learner.state"
        if not path.exists():
            return 0, start
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "big")
        notes = json.loads(raw[8 : 8 + size])
        self.taken, self.lost = set(notes["taken"]), set(notes["lost"])
        return int(notes["version"]), TrainState.decode(raw[8 + size :], start.theta.numel())

    def _save(self) -> None:
        notes = {"version": self.version, "taken": sorted(self.taken), "lost": sorted(self.lost)}
        head = json.dumps(notes).encode()
        write(
            self.exchange.folder / "learner.state", len(head).to_bytes(8, "big") + head + self.state.encode()
        )

    @property
    def opened(self) -> int:
        """Tickets below this number may be taken: what is consumed or lost, and a window that cannot go stale."""
        window = min(self.plan.steps - self.version, max(1, self.plan.lag)) * self.plan.units
        return len(self.taken | self.lost) + window

    def _publish(self) -> None:
        self.exchange.publish(self.version, self.part.full(self.state.theta), self.opened)

    def run(self, stop: Stop) -> None:
        """Learn until all steps are done or ``stop`` says so."""
        try:
            while self.version < self.plan.steps and not stop():
                units = self._wait(stop)
                if units:
                    self._learn(units)
            head = self.exchange.head()
            if head is not None and self.version >= self.plan.steps:
                self.exchange.announce(replace(head, over=True))
        finally:
            self.log.close()

    def _wait(self, stop: Stop) -> list[tuple[Unit, list[Trajectory]]]:
        """Enough units for a step."""
        begun = time.monotonic()
        while not stop():
            ready = self._fresh()
            if len(ready) >= self.plan.units:
                taken = [(u, self.buffer.take(u)) for u in ready[: self.plan.units]]
                whole = [(u, c.rows()) for u, c in taken if c is not None and self._fits(c)]
                if len(whole) == self.plan.units:
                    self.waited += time.monotonic() - begun
                    return whole
                self._lose({u.number for u, _ in taken} - {u.number for u, _ in whole})
                for unit, rows in whole:
                    self.buffer.add(unit, Columns.of(rows))
            time.sleep(POLL_SECONDS)
        return []

    def _fresh(self) -> list[Unit]:
        """Units that may be consumed, the next to go stale first; others are dropped, as are undelivered tickets.

        Newest first would let up to a third of the units go stale (`make bench-rl`, liveness).
        """
        units = [u for u in self.buffer.units() if u.number not in self.taken]
        fresh = [u for u in units if u.version >= self.version - self.plan.lag]
        here = {u.number for u in fresh}
        missing = set(range(self.opened)) - self.taken - self.lost - here
        late = {n for n in missing if self.exchange.overdue(n, self.plan.patience_seconds)}
        self._lose(({u.number for u in units} - here) | late)
        self.buffer.prune(self.version - self.plan.lag)
        return sorted(fresh, key=lambda u: (u.version, u.number))

    def _lose(self, numbers: set[int]) -> None:
        """Open as many other tickets."""
        numbers = numbers - self.taken - self.lost
        if numbers:
            self.lost |= numbers
            head = self.exchange.head()
            if head is not None:
                self.exchange.announce(replace(head, opened=self.opened))

    def _fits(self, columns: Columns) -> bool:
        return len(columns) == self.plan.groups * self.rl.group

    def _learn(self, units: Sequence[tuple[Unit, list[Trajectory]]]) -> None:
        fault("taken", f"version:{self.version}")
        rows = [row for _, part in sorted(units, key=lambda u: u[0].number) for row in part]
        out = learn(self.arch, self.part, self.training, self.rl, self.state, [rows], self.version)
        ages = [self.version - unit.version for unit, _ in units]
        self.taken |= {unit.number for unit, _ in units}
        fault("learnt", f"version:{self.version}")
        self.state, self.version = out.state, self.version + 1
        self._save()
        fault("saved", f"version:{self.version}")
        self._publish()
        fault("published", f"version:{self.version}")
        self._tell(out, rows, ages)

    def _tell(self, out: Learned, rows: Sequence[Trajectory], ages: Sequence[int]) -> None:
        step = out.steps[0]
        self.log(
            "step",
            version=self.version,
            reward=round(step.reward, 4),
            exact=round(sum(r.reward == UNIT for r in rows) / len(rows), 4),
            age=sum(ages) / len(ages),
            age_max=max(ages),
            ratio_max=round(step.ratio_max, 4),
            kl=round(step.kl, 6),
            masked=round(step.masked, 4),
            used=step.used,
            waited=round(self.waited, 3),
            dropped={k: v for k, v in self.buffer.counts.items() if k not in ("added", "taken")},
            pid=os.getpid(),
        )
