"""A swarm of real processes: one is killed, one hangs and wakes, one joins late; who is left ends with one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commonweight.cli.swarm.plan import LocalSwarm, free_ports
from commonweight.cli.swarm.run import Deed, judge
from commonweight.cli.swarm.supervisor import Supervisor

DEADLINE_S = 200.0


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Supervisor]:
    names = [f"w{i}" for i in range(5)]
    plan = LocalSwarm(
        tuple(zip(names, free_ports(5), strict=True)),
        rounds=60,
        steps=2,
        dim=16,
        context=32,
        text=60_000,
        silence=2.0,
        patience=2.0,
        pace=0.3,
        expect=4,
    )
    supervisor = Supervisor(tmp_path / "swarm", plan)
    yield supervisor
    supervisor.close()


def wait(swarm: Supervisor, until: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not until():
        swarm.poll()
        failed = {n: swarm._last_words(n) for n, k in swarm.known.items() if k.state == "failed"}
        assert not failed, failed
        assert time.monotonic() < deadline, (what, swarm.known)
        time.sleep(0.05)


@pytest.mark.slow
def test_a_swarm_survives_a_kill_a_hang_and_takes_in_a_joiner(swarm: Supervisor) -> None:
    for name in ("w0", "w1", "w2", "w3"):
        swarm.start(name)
    wait(swarm, lambda: swarm.known["w1"].round >= 2, "first rounds")
    swarm.kill("w0")  # the founder, who leads
    before = swarm.known["w1"].round
    wait(swarm, lambda: swarm.known["w1"].round >= before + 2, "rounds after the kill")
    swarm.stop("w3")
    swarm.start("w4")
    wait(swarm, lambda: "w3" not in swarm.known["w1"].members, "the hanging member is left out")
    wait(swarm, lambda: swarm.known["w4"].recovered is not None, "the joiner has the state")
    wait(swarm, lambda: swarm.known["w4"].round >= 0, "the joiner trains")
    swarm.resume("w3")
    wait(swarm, lambda: swarm.known["w3"].recovered is not None, "the one that hung is back with the state")
    wait(swarm, lambda: not swarm.alive, "the end")
    result = judge(swarm, [Deed(0, "join", "w4", done=True)])
    assert result["checks"]["anchors_agree"]
    assert result["checks"]["final_models_agree"]
    assert set(result["finished"]) == {"w1", "w2", "w3", "w4"}
    assert result["final_loss"] < result["first_loss"] - 0.2
