"""Asynchrony: accuracy against version lag at equal tokens, and accepted trajectories per second at unequal speeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from commonweight.core.spec import StartSpec, parse_task
from commonweight.diloco.inner import TrainState
from commonweight.models import initial_parameters, pin
from commonweight.models.architecture import Architecture
from commonweight.models.decoder import Llama
from commonweight.rl.adapters import trainable
from commonweight.rl.engine import RolloutEngine, Sampling
from commonweight.rl.environments import parse_mixture
from commonweight.rl.learner import learn
from commonweight.rl.rollout import Scene, episodes, play
from commonweight.rl.tokens import ByteTokens
from commonweight.rl.warmup import accuracy, warm_start
from commonweight.tasks import rl_local

from .common import Row

TASK = """
[task]
name = "bench"
kind = "grpo"
[data]
source = "reverse:5"
[model]
dim = 64
layers = 2
hidden = 128
context = 32
seed = {seed}
[start]
warm_steps = 600
warm_until = 0.33
[training]
steps = 1
segment = 1
batch = 256
lr = 5e-4
weight_decay = 0.0
[verification]
topk = 16
[rl]
group = 16
max_new = 7
"""
STEPS = 60
WORKERS = 4
SLOWEST = 4.0


def curve(
    seed: int, lag: int, base: torch.Tensor, arch: Architecture, scene: Scene
) -> tuple[float, list[float]]:
    """Held-out greedy accuracy after `STEPS` steps whose rollouts are exactly ``lag`` versions old."""
    task = parse_task(TASK.format(seed=seed))
    part = trainable(arch, base, 0)
    state, history = TrainState.start(base.numpy()), [base]
    engine = RolloutEngine(Sampling(scene.tokens.stop, scene.max_new), slots=1024)
    sampled = []
    groups = task.training.batch // task.rl.group
    for step in range(STEPS):
        engine.load(step, Llama(arch, history[max(0, step - lag)]))
        rows = play(
            engine, scene, episodes(scene, bytes([seed]) * 32, range(step * groups, (step + 1) * groups))
        )
        out = learn(arch, part, task.training, task.rl, state, [rows], step)
        state = out.state
        history.append(state.theta)
        sampled.append(out.steps[0].reward)
    return accuracy(arch, state.theta, scene, 512), sampled


def lags(seeds: tuple[int, ...] = (1, 2)) -> Row:
    """Final accuracy at every lag, mean of the seeds, and the worst difference from synchronous in points."""
    pin()
    finals: dict[int, list[float]] = {lag: [] for lag in (0, 1, 2, 4)}
    starts = []
    for seed in seeds:
        task = parse_task(TASK.format(seed=seed))
        arch = Architecture.of(task.model, task.decoder)
        scene = Scene(parse_mixture(task.data.source), ByteTokens(), task.rl.group, task.rl.max_new, 32)
        start = StartSpec(warm_steps=task.start.warm_steps, warm_until=task.start.warm_until)
        base, reached = warm_start(arch, initial_parameters(task.model), scene, start)
        starts.append(reached)
        for lag, reached_at in finals.items():
            reached_at.append(curve(seed, lag, base, arch, scene)[0])
    mean = {lag: sum(v) / len(v) for lag, v in finals.items()}
    return {
        "seeds": list(seeds),
        "steps": STEPS,
        "start": [round(s, 4) for s in starts],
        "final": {str(lag): [round(x, 4) for x in v] for lag, v in finals.items()},
        "mean": {str(lag): round(v, 4) for lag, v in mean.items()},
        "points_behind_synchronous": {
            str(lag): round(100 * (mean[0] - v), 2) for lag, v in mean.items() if lag
        },
    }


def spawn(folder: Path, steps: int, lag: int, *command: str) -> subprocess.Popen[bytes]:
    common = ["--folder", str(folder), "--steps", str(steps), "--lag", str(lag)]
    with (folder / "stderr.log").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "commonweight", "rl", *command, *common],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def processes(steps: int, lag: int) -> Row:
    """A learner and four workers of speeds 1x to 4x (pauses) as real processes, until ``steps`` versions are made."""
    with tempfile.TemporaryDirectory() as made:
        path, folder = Path(made) / "task.toml", Path(made) / "run"
        path.write_text(TASK.format(seed=1).replace("batch = 256", "batch = 64").replace("600", "25"))
        rl_local.prepare(path, folder)
        children = [
            spawn(folder, steps, lag, "rollout", "--worker", f"w{i}", "--slowness", f"{SLOWEST / i:.3f}")
            for i in range(1, WORKERS + 1)
        ]
        time.sleep(12)  # everybody has imported everything: start-up is not what is measured
        children.append(spawn(folder, steps, lag, "learner"))
        try:
            for child in children:
                child.wait(60 + steps * 4 * SLOWEST)
        finally:
            for child in children:
                child.kill()
                child.wait()
        return _read(folder, steps)


def _read(folder: Path, steps: int) -> Row:
    records = [json.loads(line) for line in (folder / "learner.jsonl").read_text().splitlines()]
    told: list[dict[str, Any]] = [r for r in records if r["event"] == "step"]
    workers = [
        json.loads(line)
        for i in range(1, WORKERS + 1)
        for line in (folder / f"w{i}.jsonl").read_text().splitlines()
    ]
    ends = [w for w in workers if w["event"] == "end"]
    units = [w for w in workers if w["event"] == "unit"]
    first, last = told[2], told[-1]
    used = (len(told) - 3) * rl_local.UNITS_PER_STEP
    idle = [_idle(units, i) for i in range(1, WORKERS + 1)]
    made = sum(e["units"] for e in ends)
    return {
        "steps": len(told),
        "units_consumed_per_second": round(used / (last["time"] - first["time"]), 3),
        "units_made": made,
        "units_dropped": sum(last["dropped"].values()),
        "usable_share": round(len(told) * rl_local.UNITS_PER_STEP / max(1, made), 4),
        "mean_age": round(sum(r["age"] for r in told) / len(told), 2),
        "learner_waited_share": round((last["waited"] - first["waited"]) / (last["time"] - first["time"]), 3),
        "trainer_idle_share": round(sum(e["idle"] for e in ends) / sum(e["alive"] for e in ends), 4),
        "idle_between_units": idle,
    }


def _idle(units: list[dict[str, Any]], worker: int) -> float:
    """Idle share between a worker's first and last unit; start-up and the end, when no tickets are left, excluded."""
    mine = [u for u in units if u.get("worker") == f"w{worker}"]
    if len(mine) < 4:
        return 0.0
    span = mine[-3]["time"] - mine[0]["time"]
    return round((mine[-3]["idle"] - mine[0]["idle"]) / span, 4) if span > 0 else 0.0


def run() -> Row:
    out: Row = {"lags": lags()}
    slow, fast = processes(10, 0), processes(60, 2)
    out["unequal_speeds"] = {
        "workers": f"{WORKERS} at 1x..4x, {SLOWEST} s per unit for the slowest (pauses)",
        "synchronous": slow,
        "lag_2": fast,
        "ratio": round(fast["units_consumed_per_second"] / slow["units_consumed_per_second"], 2),
        "trainer_idle_share": max(fast["idle_between_units"]),
    }
    return out
