"""A swarm of real processes: one is killed, one hangs and wakes, one joins late; who is left ends with one model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commonweight.cli.swarm.plan import LocalSwarm, free_ports
from commonweight.cli.swarm.run import Deed, judge
from commonweight.cli.swarm.supervisor import Supervisor

DEADLINE_S = 200.0


def small(count: int, **options: object) -> LocalSwarm:
    """Members w0, w1, ... with a model that trains in milliseconds."""
    members = tuple((f"w{i}", port) for i, port in enumerate(free_ports(count)))
    sizes = {
        "steps": 2,
        "dim": 16,
        "context": 32,
        "text": 60_000,
        "silence": 2.0,
        "patience": 2.0,
        "pace": 0.2,
        "rounds": 60,
        "open_ended": True,
    }
    return LocalSwarm(members, **(sizes | options))  # type: ignore[arg-type]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[LocalSwarm], Supervisor]]:
    made: list[Supervisor] = []

    def make(plan: LocalSwarm) -> Supervisor:
        made.append(Supervisor(tmp_path / f"swarm{len(made)}", plan))
        return made[-1]

    yield make
    for supervisor in made:
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
def test_a_swarm_survives_a_kill_a_hang_and_takes_in_a_joiner(
    supervise: Callable[[LocalSwarm], Supervisor],
) -> None:
    swarm = supervise(small(5, expect=4))
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
    back = swarm.known["w3"].round
    wait(swarm, lambda: swarm.known["w3"].round > max(back, 30), "it trains again")
    swarm.finish()
    wait(swarm, lambda: not swarm.alive, "the end")
    result = judge(swarm, [Deed(0, "join", "w4", done=True)])
    assert result["checks"]["anchors_agree"]
    assert result["checks"]["final_models_agree"]
    assert set(result["finished"]) == {"w1", "w2", "w3", "w4"}
    assert result["final_loss"] < result["first_loss"] - 0.2


@pytest.mark.slow
def test_a_cohort_of_processes_keeps_one_state_when_a_member_dies(
    supervise: Callable[[LocalSwarm], Supervisor],
) -> None:
    cohort = supervise(small(3, expect=3, mode="cohort", codec="2bit:4096", anchor_codec="int4:4096"))
    for name in ("w0", "w1", "w2"):
        cohort.start(name)
    wait(cohort, lambda: cohort.known["w1"].round >= 2, "first rounds")
    cohort.kill("w2")
    wait(cohort, lambda: len(cohort.known["w1"].members) == 2, "rounds without it")
    cohort.start("w2")
    wait(cohort, lambda: cohort.known["w2"].recovered is not None, "it has the state")
    wait(
        cohort,
        lambda: len(cohort.known["w2"].members) == 3 and cohort.known["w2"].round > 15,
        "it trains again",
    )
    cohort.finish()
    wait(cohort, lambda: not cohort.alive, "the end")
    result = judge(cohort, [Deed(0, "join", "w2", done=True)])
    promised = {name: ok for name, ok in result["checks"].items() if name != "loss_fell"}
    assert all(promised.values()), result
    assert result["final_loss"] < result["first_loss"]
    assert set(result["finished"]) == {"w0", "w1", "w2"}


@pytest.mark.soak
def test_a_founder_with_an_old_anchor_waits_for_the_newest_history(
    supervise: Callable[[LocalSwarm], Supervisor],
) -> None:
    swarm = supervise(small(3, expect=3, epoch=2))

    def told(name: str, event: str) -> list[dict[str, object]]:
        lines = (swarm.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [said for said in map(json.loads, lines) if said["event"] == event]

    for name in ("w0", "w1", "w2"):
        swarm.start(name)
    wait(swarm, lambda: swarm.known["w0"].round >= 3, "first anchors")
    swarm.kill("w0")
    old = len(swarm.known["w1"].anchors)
    wait(swarm, lambda: len(swarm.known["w1"].anchors) >= old + 2, "anchors without the founder")
    swarm.kill("w1")
    swarm.kill("w2")
    founded = len(told("w0", "founded"))
    swarm.start("w0")
    wait(swarm, lambda: bool(told("w0", "waiting")), "the founder waits")
    assert "w1" in str(told("w0", "waiting")[-1]["reason"])
    swarm.start("w1")
    swarm.start("w2")
    newest = max(anchor["round"] for anchor in swarm.known["w1"].anchors)
    wait(swarm, lambda: len(swarm.known["w0"].members) == 3, "all in one session")
    wait(swarm, lambda: swarm.known["w0"].round > newest + 3, "training goes on")
    swarm.finish()
    wait(swarm, lambda: not swarm.alive, "the end")
    result = judge(swarm, [])
    assert result["checks"]["anchors_agree"]
    assert result["checks"]["final_models_agree"]
    assert len(told("w0", "founded")) == founded
    assert not any(told(name, "history_left") for name in ("w0", "w1", "w2"))
