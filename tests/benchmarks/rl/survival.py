"""kill -9 of a trainer and a validator of a `grpo` task at each journal transition of each effect, on a real chain.

The transitions are those of the journal's own table, and a trainer dies besides at each point of a lease's segments:
rollouts played, learnt, written down.
"""

from __future__ import annotations

import signal
import tempfile
from collections import deque
from pathlib import Path

from commonweight.chain.devnet import Devnet
from commonweight.chain.effects import FAILED, MOVES, REFUSED
from commonweight.chain.journal import Journal
from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import Participant, World, build, start_publisher
from commonweight.cli.demo_rl import RlPlan
from commonweight.core.state import WorkState
from commonweight.tasks.grpo import SEGMENT_POINTS
from tests.support import wait_for

from .common import Row

TRANSITIONS = tuple(state for state in MOVES if state not in (REFUSED, FAILED))
EFFECTS = {"trainer": ("claim", "submit", "open"), "validator": ("seal", "reveal", "settle")}
SMALLER = {
    "steps = 8": "steps = 4",
    "batch = 192": "batch = 32",
    "warm_steps = 600": "warm_steps = 25",
    "merge = 3": "merge = 6",
}


class Victim:
    """A participant that is killed at one point after another, and started again each time."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.who: Participant = world.people[name]
        effects = EFFECTS[self.who.role]
        self.todo = deque((point, effect) for effect in effects[:1] for point in TRANSITIONS)
        if self.who.role == "trainer":
            self.todo += [(point, "segment") for point in SEGMENT_POINTS]
        self.todo += [(point, effect) for effect in effects[1:] for point in TRANSITIONS]
        self.kills: list[tuple[str, str]] = []
        self.start()

    def start(self) -> None:
        armed = ":".join(self.todo[0]) + ":" if self.todo else ""
        self.world.spawn(self.who, self.who.role, "run", "--task", "1", extra={"COMMONWEIGHT_FAULT": armed})

    def mind(self) -> None:
        """Note a kill at the armed point and start again."""
        code = self.who.process.poll() if self.who.process else None
        if code in (None, 0):
            return
        if code != -signal.SIGKILL:
            raise AssertionError(f"{self.who.name}: {(self.who.home / 'process.log').read_text()[-2000:]}")
        self.kills.append(self.todo.popleft())
        self.start()


def text(plan: RlPlan) -> str:
    """The demonstration's task, made small."""
    out = plan.task_text()
    for old, new in SMALLER.items():
        if out.count(old) != 1:
            raise AssertionError(f"the example task has no single `{old}`")
        out = out.replace(old, new)
    return out


def run() -> Row:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plan = RlPlan("none", rounds=3, trainers=2, validators=2, seed=5, runs=folder)
        with Devnet(folder / "chain") as devnet:
            world = build(plan, folder, devnet, text(plan))
            spectator = Spectator(world.chain, folder / "spectator")
            try:
                start_publisher(world)
                wait_for(spectator, lambda task: True)
                victims = [Victim(world, "trainer-1"), Victim(world, "validator-1")]
                for name in ("trainer-2", "validator-2"):
                    who = world.people[name]
                    world.spawn(who, who.role, "run", "--task", "1")

                def mind() -> None:
                    for victim in victims:
                        victim.mind()

                task = wait_for(spectator, lambda t: t.finished and not world.running(), mind, limit=900)
                works = [w for r in task.rounds.values() for w in r.works.values()]
                return {
                    "transitions": [*TRANSITIONS, *SEGMENT_POINTS],
                    "kills": sum(len(v.kills) for v in victims),
                    "transitions_missed": [
                        f"{v.who.name} {point} {name}" for v in victims for point, name in v.todo
                    ],
                    "effects_in_their_journals": {v.who.name: _kinds(v.who) for v in victims},
                    "leases": len(works),
                    "accepted_and_paid": sum(
                        w.state is WorkState.VALID and w.paid == task.reward for w in works
                    ),
                    "ledger_balances": bool(report.vault(world)["balances"]),
                }
            finally:
                world.stop()
                spectator.close()


def _kinds(who: Participant) -> list[str]:
    """What a participant did on the chain, by its journal."""
    with Journal(next(who.home.glob("*.sqlite"))) as journal:
        return sorted({effect.effect_id.partition(":")[0] for effect in journal.effects()})
