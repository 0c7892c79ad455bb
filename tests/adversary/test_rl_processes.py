"""Learner and workers as processes that are killed at any time: the run goes on to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commonweight.rl.exchange import Exchange
from commonweight.tasks import rl_local
from tests.rl_leases import TOML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
STEPS, LAG = 10, 2


def spawn(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    common = ["--folder", str(folder), "--steps", str(STEPS), "--lag", str(LAG), "--patience", "2"]
    with (folder / "stderr.log").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "commonweight", "rl", *command, *common],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def steps(folder: Path) -> list[dict[str, object]]:
    path = folder / "learner.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait(until: Callable[[], bool], folder: Path, limit: float = 120.0) -> None:
    deadline = time.monotonic() + limit
    while not until():
        assert time.monotonic() < deadline, (steps(folder)[-1:], (folder / "stderr.log").read_text()[-2000:])
        time.sleep(0.05)


def test_killed_learner_and_worker_resume_and_the_run_ends(tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text(TOML.format(source="reverse:3"))
    folder = tmp_path / "run"
    rl_local.prepare(task, folder)
    learner = spawn(folder, "learner")
    slow = spawn(folder, "rollout", "--worker", "slow", "--slowness", "0.3")
    fast = spawn(folder, "rollout", "--worker", "fast")
    try:
        wait(lambda: len(steps(folder)) >= 3, folder)
        learner.send_signal(signal.SIGKILL)
        learner.wait()
        before = len(steps(folder))
        learner = spawn(folder, "learner")
        wait(lambda: len(steps(folder)) >= before + 2, folder)
        fast.send_signal(signal.SIGKILL)
        fast.wait()
        fast = spawn(folder, "rollout", "--worker", "fast-2")
        wait(lambda: learner.poll() is not None and len(steps(folder)) > 0, folder)
        assert learner.returncode == 0
        for worker in (slow, fast):
            worker.wait(30)
    finally:
        for child in (learner, slow, fast):
            child.kill()
            child.wait()
    told = steps(folder)
    versions = [r["version"] for r in told]
    # A step whose line was written before its state was kept may be told twice, none is left out.
    assert sorted(set(versions)) == list(range(1, STEPS + 1))
    assert all(int(str(r["age_max"])) <= LAG for r in told)
    head = Exchange(folder).head()
    assert head is not None
    assert (head.version, head.over) == (STEPS, True)
