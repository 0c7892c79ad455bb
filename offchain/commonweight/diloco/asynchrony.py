"""Workers of different speeds: how many steps each does, and how results that arrive at different times are merged.

Virtual time in ticks; a worker's period is its ticks per step. Two families:

* Paced rounds. `lockstep`: all do H steps and wait for the slowest. `deadline`: all stop at a common time, slower
  workers having done fewer steps. `dynamic`: steps are dealt out by the speed measured before (DyLU, arXiv
  2401.09135). Merging weighs by tokens. These run on `swarm.run_round`.
* Arrivals. `Merger` takes results whenever they come: ``naive`` (a Nesterov step per arrival, which diverges),
  ``delayed`` (momentum once per N arrivals: Delayed Nesterov, arXiv 2401.09135), ``buffered`` (merge when a quorum has
  come: FedBuff, arXiv 2106.06639), discounted by staleness.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from ..core import fixed
from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.seeds import uniform
from ..core.spec import MergeSpec
from . import outer
from .aggregate import weighted_mean
from .local import InnerLoop
from .rounds import Int64

PACES = ("lockstep", "deadline", "dynamic")
POLICIES = ("naive", "delayed", "buffered")
WEIGHT_UNIT = 256


@dataclass(frozen=True, slots=True)
class Speeds:
    """Ticks per step of each worker; in round r worker i's is off by up to ``jitter`` (a fraction) either way."""

    periods: tuple[float, ...]
    jitter: float = 0.0
    seed: int = 0

    def period(self, worker: int, turn: int) -> float:
        """Ticks per step in the worker's ``turn``-th stretch of work: a function of the seed, no clock."""
        (draw,) = uniform(b"%d/%d/%d" % (self.seed, worker, turn), "jitter", 1, 2**32)
        return self.periods[worker] * (1 + self.jitter * (draw / 2**31 - 1))


def paced_round(pace: str, speeds: Speeds, turn: int, mean_steps: int) -> tuple[list[int], float]:
    """Inner steps of each worker in one round, and its ticks. Their mean is ``mean_steps`` at nominal speed."""
    periods = [speeds.period(i, turn) for i in range(len(speeds.periods))]
    if pace == "lockstep":
        return [mean_steps] * len(periods), mean_steps * max(periods)
    deadline = mean_steps * len(periods) / sum(1 / p for p in speeds.periods)
    if pace == "deadline":
        return [max(1, int(deadline / p)) for p in periods], deadline
    if pace == "dynamic":
        known = [speeds.period(i, turn - 1) if turn else p for i, p in enumerate(speeds.periods)]
        steps = [max(1, round(deadline / p)) for p in known]
        return steps, max(s * p for s, p in zip(steps, periods, strict=True))
    raise CommonweightError("E1710", f"there is no pace {pace!r}", f"choose {', '.join(PACES)}")


def discount(staleness: int, workers: int) -> Fraction:
    """Weight of a result that is ``staleness`` merges old: ``1 / (1 + staleness / workers)``."""
    return Fraction(workers, workers + staleness)


class Merger:
    """Merges results as they arrive; integer throughout. ``version`` is the newest, ``merges`` its number."""

    def __init__(
        self, version: ModelVersion, rule: MergeSpec, policy: str, workers: int, quorum: int = 1
    ) -> None:
        if policy not in POLICIES:
            raise CommonweightError(
                "E1710", f"there is no policy {policy!r}", f"choose {', '.join(POLICIES)}"
            )
        self.version, self.rule, self.policy = version, rule, policy
        self.workers, self.quorum, self.merges = workers, quorum, 0
        self._buffer: list[tuple[Int64, int]] = []

    def arrive(self, delta: Int64, tokens: int, started_from: int) -> None:
        """One result, a pseudo-gradient against version number ``started_from``."""
        share = discount(self.merges - started_from, self.workers)
        if self.policy == "naive":
            self._step(delta)
        elif self.policy == "delayed":
            self._delayed(delta, share)
        else:
            self._buffer.append((delta, int(tokens * share * WEIGHT_UNIT)))
            if len(self._buffer) >= self.quorum:
                rows, weights = zip(*self._buffer, strict=True)
                self._buffer.clear()
                self._step(weighted_mean(np.stack(rows), weights))

    def _step(self, gradient: Int64) -> None:
        self.version = fixed.outer_step(self.version, gradient, self.rule)
        self.merges += 1

    def _delayed(self, delta: Int64, share: Fraction) -> None:
        """A plain step of one N-th now; the N-th arrival also renews the momentum and applies it once."""
        part = delta * share.numerator // (share.denominator * self.workers)
        self._buffer.append((part, 1))
        step, momentum = part, self.version.momentum
        if len(self._buffer) == self.workers:
            total = np.sum([row for row, _ in self._buffer], axis=0)
            renewed = fixed.outer_step(self.version, total, self.rule).momentum
            step = part + self.rule.momentum_num * renewed.astype(np.int64) // self.rule.momentum_den
            momentum = renewed
            self._buffer.clear()
        plain = replace(self.rule, momentum_num=0)
        still = ModelVersion(self.version.weights, np.zeros_like(self.version.momentum))
        self.version = ModelVersion(fixed.outer_step(still, step, plain).weights, momentum)
        self.merges += 1


@dataclass(slots=True)
class AsyncRun:
    """What happened: ticks needed, steps done, and (tick, steps, loss) at each evaluation."""

    ticks: float = 0.0
    steps: int = 0
    losses: list[tuple[float, int, float]] = field(default_factory=list)


def run_arrivals(
    loops: Mapping[int, InnerLoop],
    merger: Merger,
    speeds: Speeds,
    steps: int,
    budget: int,
    evaluate: Callable[[ModelVersion], float],
    every: int,
) -> AsyncRun:
    """Let every worker pull, train ``steps`` steps and push, over and over, until ``budget`` steps are done in all."""
    run, turns = AsyncRun(), dict.fromkeys(loops, 0)
    queue: list[tuple[float, int]] = []
    for i in sorted(loops):
        heapq.heappush(queue, (steps * speeds.period(i, 0), i))
    base = dict.fromkeys(loops, (merger.version, 0))
    while run.steps < budget:
        run.ticks, i = heapq.heappop(queue)
        version, number = base[i]
        progress = (run.steps / budget, min(1.0, (run.steps + steps) / budget))
        result = loops[i].run(outer.weights_of(version, merger.rule), steps, progress)
        delta = outer.pseudo_gradient(version, result.trained, merger.rule)
        merger.arrive(delta, result.tokens, number)
        run.steps += steps
        turns[i] += 1
        base[i] = (merger.version, merger.merges)
        heapq.heappush(queue, (run.ticks + steps * speeds.period(i, turns[i]), i))
        if run.steps // every > (run.steps - steps) // every:
            run.losses.append((run.ticks, run.steps, evaluate(merger.version)))
    return run


def speed_up(speeds: Speeds, steps: Sequence[int], ticks: float) -> float:
    """Tokens per tick of a round against lockstep's: how much less the fast ones wait."""
    lockstep = len(speeds.periods) / max(speeds.periods)
    return sum(steps) / ticks / lockstep
