"""kill -9 of a trainer and a validator at each journal transition of each effect: the outcome stays the same."""

from __future__ import annotations

import signal
from collections import deque
from pathlib import Path

import pytest

from commonweight.chain.faults import FAULT_POINTS
from commonweight.cli.demo import report
from commonweight.cli.demo.world import DemoPlan, Participant, World
from commonweight.core.state import WorkState
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.slow, pytest.mark.timeout(600)]
TRANSITIONS = ("planned", "signed", "sent", "seen", "confirmed")
EFFECTS = {"trainer": ("claim", "submit", "open"), "validator": ("seal", "reveal", "settle")}


class Victim:
    """A participant that is killed at one fault point after another, and started again each time."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.who: Participant = world.people[name]
        self.todo = deque((point, effect) for effect in EFFECTS[self.who.role] for point in TRANSITIONS)
        self.kills: list[tuple[str, str]] = []
        self.start()

    def start(self) -> None:
        armed = ":".join(self.todo[0]) + ":" if self.todo else ""
        extra = {"COMMONWEIGHT_FAULT": armed} if armed else {"COMMONWEIGHT_FAULT": ""}
        self.world.spawn(self.who, self.who.role, "run", "--task", "1", extra=extra)

    def mind(self) -> None:
        """Note a kill at the armed point and start again."""
        assert self.who.process is not None
        code = self.who.process.poll()
        if code in (None, 0):
            return
        log = (self.who.home / "process.log").read_text()
        assert code == -signal.SIGKILL, f"{self.who.name} ended with {code}: {log[-2000:]}"
        self.kills.append(self.todo.popleft())
        self.start()


def test_the_transitions_are_fault_points_of_the_sender() -> None:
    assert set(TRANSITIONS) <= set(FAULT_POINTS)


def test_kill_anywhere_changes_nothing(tmp_path: Path) -> None:
    plan = DemoPlan("none", rounds=3, trainers=2, validators=2, seed=5, runs=tmp_path)
    # Long windows: a killed process needs seconds to come back, and no window may pass meanwhile.
    with small_world(tmp_path, plan, merge="6") as (world, spectator):
        wait_for(spectator, lambda task: True)
        victims = [Victim(world, "trainer-1"), Victim(world, "validator-1")]
        for name in ("trainer-2", "validator-2"):
            who = world.people[name]
            world.spawn(who, who.role, "run", "--task", "1")

        def mind() -> None:
            for victim in victims:
                victim.mind()

        task = wait_for(spectator, lambda t: t.finished and not world.running(), mind, limit=540)
        for victim in victims:
            done = set(victim.kills)
            missed = [(p, e) for e in EFFECTS[victim.who.role] for p in TRANSITIONS if (p, e) not in done]
            assert not missed, f"{victim.who.name} was not killed at {missed}"
        works = [w for r in task.rounds.values() for w in r.works.values()]
        assert len(works) == plan.rounds * plan.trainers
        assert all(w.state is WorkState.VALID and w.paid == task.reward for w in works)
        assert report.vault(world)["balances"]
        for name in ("trainer-1", "trainer-2"):
            who = report.person(world, spectator.state, task, world.people[name], set())
            # Never less than the rules give; a juror's mistake about a restarting trainer may compensate it.
            assert int(who["gain"]) >= int(who["expected_gain"]), who
        finals = {(report.result(p) or {}).get("final") for p in world.people.values()}
        assert finals == {task.latest.hex()}
