"""Distances of honest variants and of cheats in one segment, from end state to end state as a checker sees them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...core import codec
from ...core.codec import U32
from ...core.errors import CommonweightError
from ...core.hashing import tagged
from ...core.seeds import uniform
from ...core.spec import ModelSpec, TrainingSpec
from ...diloco.inner import TrainState, state_bytes
from ...models import parameter_count, pin
from ...toploc import steps
from .runs import HONEST, SAVES, SAVES_RL, SLIGHT, Batch, Run, Segment, Setting, advance

INSTRUCTION_SETS = ("avx2", "default")


@dataclass(frozen=True, slots=True)
class Row:
    """One way to run a segment of ``length`` steps after ``age`` others: how far it ends from the reference.

    ``sort``: ``honest``, ``saves`` (a cheat that saves work) or ``slight`` (a deviation that does not).
    """

    name: str
    sort: str
    length: int
    age: int
    distance: float


@dataclass(frozen=True, slots=True)
class Separation:
    """What a tolerance has to lie between, over all ages; ``local``: the least margin at any one age.

    A checker measures its own spread on the very segment, so that the local margin is the one that counts.
    """

    honest: float
    cheapest: float
    cheat: str
    local: float

    @property
    def margin(self) -> float:
        """Cheapest cheat of any age in units of the worst honest distance of any age."""
        return self.cheapest / max(self.honest, 1e-9)

    @property
    def tolerance(self) -> float:
        """Recommended: the geometric middle, but at most two thirds of the cheapest cheat."""
        return min(math.sqrt(max(self.honest, 1e-7) * self.cheapest), self.cheapest / 1.5)


def make_batches(setting: Setting, text: bytes, name: str, count: int) -> tuple[Batch, ...]:
    """Seeded batches of a text; of the sequences of each one, half have advantage 1 and half -1."""
    size = setting.model.context + 1
    array = np.frombuffer(text, dtype=np.uint8)
    out = []
    for i in range(count):
        seed = tagged("batch", name.encode(), i.to_bytes(4, "big"))
        offsets = uniform(seed, "offset", setting.training.batch, len(array) - size)
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        # Of verifiable rewards: half of a group succeeds; standardised within the group.
        advantages = rng.permutation(np.resize([1.0, -1.0], setting.training.batch)).astype(np.float32)
        out.append(Batch(np.stack([array[o : o + size] for o in offsets]), advantages))
    return tuple(out)


def segments(
    setting: Setting, weights: np.ndarray, text: bytes, length: int, ages: tuple[int, ...]
) -> Iterator[Segment]:
    """A segment of ``length`` steps at each age (steps trained before, supervised): young and older states differ."""
    start = TrainState.start(weights)
    plain = Setting(setting.model, setting.training)
    state = before = start
    done = 0
    for age in sorted(ages):
        for batch in make_batches(plain, text, "warm", age)[done:]:
            before = state
            state = advance(Segment(plain, state, (batch,), done, state, ()))
            done += 1
        own = make_batches(setting, text, f"own {age}", length)
        others = make_batches(setting, text, f"others {age}", length)
        yield Segment(setting, state, own, age, before, others)


def _arrays(state: TrainState) -> steps.State:
    return steps.State(state.theta.numpy(), state.m.numpy(), state.v.numpy())


def _apart(segment: Segment, end: TrainState, reference: TrainState) -> float:
    return steps.true_distance(segment.state.theta.numpy(), _arrays(end), _arrays(reference))


def cheats_for(setting: Setting) -> dict[str, tuple[str, Run]]:
    """All cheats that make sense for a loss, with their sort."""
    saves = SAVES | (SAVES_RL if setting.loss == "rl" else {})
    return {n: ("saves", r) for n, r in saves.items()} | {n: ("slight", r) for n, r in SLIGHT.items()}


def measure(
    setting: Setting,
    weights: np.ndarray,
    text: bytes,
    length: int,
    *,
    ages: tuple[int, ...] = (20, 100),
    elsewhere: bool = True,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Run every honest variant and every cheat on segments of ``length`` steps and compare where they end.

    ``elsewhere`` also runs child processes that use other instruction sets, as other machines would.
    """
    rows: list[Row] = []
    for segment in segments(setting, weights, text, length, ages):
        reference = advance(segment)
        ways = {name: ("honest", run) for name, run in HONEST.items()} | cheats_for(setting)
        for name, (sort, run) in ways.items():
            progress(name)
            apart = _apart(segment, run(segment), reference)
            rows.append(Row(name, sort, length, segment.first, apart))
        for isa in INSTRUCTION_SETS if elsewhere else ():
            progress(isa)
            apart = _apart(segment, _run_with(isa, segment), reference)
            rows.append(Row(f"instruction set {isa}", "honest", length, segment.first, apart))
    return rows


def separation(rows: list[Row]) -> Separation:
    """The worst honest row against the cheapest cheat that saves work."""
    honest = max(row.distance for row in rows if row.sort == "honest")
    cheapest = min((row for row in rows if row.sort == "saves"), key=lambda row: row.distance)
    ages = {row.age for row in rows}
    if len(ages) == 1:
        return Separation(honest, cheapest.distance, cheapest.name, cheapest.distance / max(honest, 1e-9))
    local = min(separation([row for row in rows if row.age == age]).local for age in ages)
    return Separation(honest, cheapest.distance, cheapest.name, local)


# -- other instruction sets --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """What a child is told on its command line; state, tokens and advantages follow on standard input."""

    model: ModelSpec
    training: TrainingSpec
    loss: str
    arithmetic: str
    first: U32
    steps: U32
    batch: U32
    width: U32


def _run_with(isa: str, segment: Segment) -> TrainState:
    """The honest segment in a child process whose kernels use another instruction set. Raises E1608."""
    s = segment.setting
    tokens = np.stack([b.tokens for b in segment.batches])
    advantages = np.stack([b.advantages for b in segment.batches])
    task = _Task(s.model, s.training, s.loss, s.arithmetic, segment.first, *tokens.shape)
    code = "from commonweight.tasks.calibration import steps; steps.child()"
    done = subprocess.run(
        [sys.executable, "-c", code, codec.encode(task).hex()],
        input=segment.state.encode() + tokens.tobytes() + advantages.tobytes(),
        capture_output=True,
        check=False,
        env={**os.environ, "ATEN_CPU_CAPABILITY": isa, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CommonweightError("E1608", f"a run with instruction set {isa} failed: {' '.join(tail)}")
    return TrainState.decode(done.stdout, segment.state.theta.numel())


def child() -> None:
    """Other end of `_run_with`."""
    pin()
    task = codec.decode(_Task, bytes.fromhex(sys.argv[1]))
    body = sys.stdin.buffer.read()
    count = parameter_count(task.model)
    cut = state_bytes(count)
    state = TrainState.decode(body[:cut], count)
    shape = (task.steps, task.batch, task.width)
    size = task.steps * task.batch * task.width
    tokens = np.frombuffer(body, np.uint8, size, cut).reshape(shape)
    advantages = np.frombuffer(body, np.float32, offset=cut + size).reshape(shape[:2])
    batches = tuple(Batch(t, a) for t, a in zip(tokens, advantages, strict=True))
    setting = Setting(task.model, task.training, task.loss, task.arithmetic)
    sys.stdout.buffer.write(advance(Segment(setting, state, batches, task.first, state, ())).encode())
