"""Learner and workers as processes that are killed at any time: the run goes on to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commonweight.rl.exchange import Exchange
from commonweight.rl.loops import LEARNER_POINTS, ROLLOUT_POINTS
from commonweight.tasks import rl_local
from tests.rl_leases import TOML

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(240)]
STEPS, LAG = 10, 2


class Victim:
    """A process that is killed at one fault point after another, and started again each time."""

    def __init__(self, folder: Path, points: tuple[str, ...], *command: str) -> None:
        self.folder, self.command, self.left, self.lives = folder, command, list(points), 0
        self.process = self.spawn()

    def spawn(self) -> subprocess.Popen[bytes]:
        armed = f"{self.left[0]}:" if self.left else ""
        more = ["--worker", f"worker-{self.lives}"] if self.command == ("rollout",) else []
        common = ["--folder", str(self.folder), "--steps", str(STEPS), "--lag", str(LAG), "--patience", "1"]
        self.lives += 1
        with (self.folder / "stderr.log").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "commonweight", "rl", *self.command, *more, *common],
                env={**os.environ, "OMP_NUM_THREADS": "1", "COMMONWEIGHT_FAULT": armed},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def mind(self) -> None:
        """Note a kill and start again."""
        if self.process.poll() == -signal.SIGKILL:
            self.left.pop(0)
            self.process = self.spawn()


def steps(folder: Path) -> list[dict[str, object]]:
    path = folder / "learner.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_kill_anywhere_of_learner_and_workers_loses_no_version(tmp_path: Path) -> None:
    """kill -9 at every point at which something of theirs has just been written down, or is about to be."""
    task = tmp_path / "task.toml"
    task.write_text(TOML.format(source="reverse:3"))
    folder = tmp_path / "run"
    rl_local.prepare(task, folder)
    victims = [Victim(folder, LEARNER_POINTS, "learner"), Victim(folder, ROLLOUT_POINTS, "rollout")]
    try:
        deadline = time.monotonic() + 200
        while victims[0].process.poll() != 0:
            for victim in victims:
                victim.mind()
            told = (folder / "stderr.log").read_text()[-2000:]
            assert time.monotonic() < deadline, ([v.left for v in victims], steps(folder)[-1:], told)
            time.sleep(0.05)
        for victim in victims[1:]:
            assert victim.process.wait(30) == 0
    finally:
        for victim in victims:
            victim.process.kill()
            victim.process.wait()
    assert [victim.left for victim in victims] == [[], []]
    told = steps(folder)
    # A step whose line was not written before the kill is not told; its version is there all the same.
    versions = {int(str(r["version"])) for r in told}
    missing = set(range(1, STEPS + 1)) - versions
    assert len(missing) <= len(LEARNER_POINTS)
    assert STEPS in versions
    assert all(int(str(r["age_max"])) <= LAG for r in told)
    head = Exchange(folder).head()
    assert head is not None
    assert (head.version, head.over) == (STEPS, True)
