"""kill -9 of a trainer and a validator of a `grpo` task at each journal transition of each effect, on a real chain."""

from __future__ import annotations

import tempfile
from pathlib import Path

from commonweight.chain.devnet import Devnet
from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import build, start_publisher
from commonweight.cli.demo_rl import RlPlan
from commonweight.core.state import WorkState
from tests.adversary.test_kill_anywhere import EFFECTS, TRANSITIONS, Victim
from tests.support import wait_for

from .common import Row

SMALLER = {
    "steps = 8": "steps = 4",
    "batch = 192": "batch = 32",
    "warm_steps = 600": "warm_steps = 25",
    "merge = 3": "merge = 6",
}


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
                wanted = {(p, e) for v in victims for e in EFFECTS[v.who.role] for p in TRANSITIONS}
                killed = {kill for v in victims for kill in v.kills}
                return {
                    "kills": len(killed),
                    "transitions_missed": sorted(map(str, wanted - killed)),
                    "leases": len(works),
                    "accepted_and_paid": sum(
                        w.state is WorkState.VALID and w.paid == task.reward for w in works
                    ),
                    "ledger_balances": bool(report.vault(world)["balances"]),
                }
            finally:
                world.stop()
                spectator.close()
