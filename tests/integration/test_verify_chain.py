"""A bystander without key or stake repeats the check of works: from chain and nodes, then from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commonweight.cli import verify as cli
from commonweight.cli.demo.world import DemoPlan, World
from commonweight.core.state import Task, WorkState
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(400)]


def verify(capsys: pytest.CaptureFixture[str], world: World | None, work: str, **options: Any) -> Any:
    """`commonweight verify --json`: its exit status and what it printed."""
    where = {"network": world.devnet.url, "deployment": world.deployment} if world else {}
    given = {"folder": None, "network": None, "deployment": None, "segments": "", "save": None}
    capsys.readouterr()
    status = cli.verify(work, as_json=True, **(given | where | options))
    return status, json.loads(capsys.readouterr().out)


def as_a_person(world: World, work: str) -> tuple[int, dict[str, Any]]:
    """The same as a command of its own."""
    command = [sys.executable, "-m", "commonweight", "verify", work, "--json", "--network", world.devnet.url]
    command += ["--deployment", str(world.deployment)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def submitted(task: Task) -> bool:
    works = task.rounds[0].works.values() if 0 in task.rounds else ()
    return len(works) == 2 and all(work.root is not None for work in works)


def test_anybody_repeats_accepted_and_rejected_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = DemoPlan("none", rounds=1, trainers=2, validators=1, seed=3, runs=tmp_path)
    record = tmp_path / "evidence"
    with small_world(tmp_path, plan, merge="6") as (world, spectator):
        wait_for(spectator, lambda task: True)
        for name, extra in (
            ("trainer-1", ["--attack", "skip-steps"]),
            ("trainer-2", []),
            ("validator-1", []),
        ):
            who = world.people[name]
            world.spawn(who, who.role, "run", "--task", "1", *extra)
        task = wait_for(spectator, submitted)
        roots = {w.trainer: (w.root or b"").hex() for w in task.rounds[0].works.values()}
        forged, honest = (roots[world.people[name].address] for name in ("trainer-1", "trainer-2"))
        # While the nodes serve: lease and artifacts from chain and network.
        status, found = as_a_person(world, forged)
        assert (status, found["outcome"], found["tree"], found["leaf"]) == (3, "invalid", 3, 2)
        assert found["source"] == "chain 31337"
        verify(capsys, world, forged, save=record)
        task = wait_for(spectator, lambda t: t.finished and not world.running())
        states = {(w.root or b"").hex(): w.state for w in task.rounds[0].works.values()}
        assert states == {forged: WorkState.HARD, honest: WorkState.VALID}
        # Nobody serves any more: artifacts from disk, the lease confirmed by the chain.
        status, found = verify(capsys, world, honest, folder=tmp_path)
        assert (status, found["outcome"], found["evidence"]["segments"]) == (0, "valid", 4)
        assert found["source"].endswith("the lease from chain 31337")
    # Neither chain nor nodes: the record of another checker, repeated.
    status, found = verify(capsys, None, str(record), folder=tmp_path)
    assert (status, found["agrees"]) == (3, True)
