"""`commonweight demo-rl`: reinforcement learning on a local chain with real processes, judged from outside."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from ..chain.devnet import Devnet
from ..core.errors import CommonweightError
from ..core.state import Task, WorkState
from ..nodes import metrics
from ..tasks.kinds import task_kind
from ..tasks.rl_cheats import NEED_SOURCES
from .demo.run import _interrupt, _new_folder
from .demo.spectator import Spectator
from .demo.world import DemoPlan, World, build, start_publisher, start_workers
from .plot import bars, svg

TICK_SECONDS = 0.3
PUBLISH_SECONDS = 600.0
ROUND_SECONDS = 600.0
GOAL = 0.90
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RlPlan(DemoPlan):
    """What the person asked for; ``runs`` is where the run's folder is made."""

    def task_text(self) -> str:
        """The packaged example task, sized for this demo."""
        text = template()
        changes = {
            "seed = 7 ": f"seed = {self.seed} ",
            "slots = 3 ": f"slots = {self.trainers} ",
            "rounds = 6\n": f"rounds = {self.rounds}\n",
            "want = 2 ": f"want = {self.validators} ",
            "quorum = 2 ": f"quorum = {min(2, self.validators)} ",
        }
        if self.attack != "none":
            # A forged piece must be drawn by somebody: the seats cover all units together.
            changes["checks = 1 "] = f"checks = {-(-28 // self.validators)} "
        for old, new in changes.items():
            if text.count(old) != 1:
                raise AssertionError(f"the example task has no single `{old}`")
            text = text.replace(old, new)
        return text


def template() -> str:
    """The example task file of the kind."""
    return (resources.files("commonweight.cli") / "templates" / "grpo.toml").read_text()


def run_demo_rl(plans: list[RlPlan], as_json: bool) -> int:
    """Run one world per seed; 0 when every one of them learnt, was honest and balanced its books."""
    attack = plans[0].attack
    attacks = {"none", *task_kind("grpo").cheats} - NEED_SOURCES
    if attack not in attacks:
        known = ", ".join(sorted(attacks))
        raise CommonweightError("E1904", f"unknown attack `{attack}`", f"one of: {known}")
    console = Console(stderr=as_json)
    folder = _new_folder(plans[0].runs)
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()
    seeds: list[Json] = []
    try:
        for plan in plans:
            seeds.append(_seed(plan, folder / f"seed-{plan.seed}", console))
    except KeyboardInterrupt:
        console.print(f"interrupted; what happened so far is in {folder}")
        return 130
    summary: Json = {"seeds": seeds, "wall_seconds": round(time.monotonic() - begun, 1)}
    summary["ok"] = all(all(s["checks"].values()) for s in seeds)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    lines = {f"seed {s['seed']}": list(enumerate(s["accuracy"])) for s in seeds}
    (folder / "accuracy.svg").write_text(
        svg(lines, "Reversal learnt on-chain", "rounds merged", "held-out greedy accuracy", (0.0, 1.0))
    )
    _render(console, summary, folder)
    if as_json:
        print(json.dumps(summary))
    return 0 if summary["ok"] else 1


def _seed(plan: RlPlan, folder: Path, console: Console) -> Json:
    folder.mkdir()
    begun = time.monotonic()
    with Devnet(folder / "chain") as devnet:
        console.print(f"seed {plan.seed}: chain {devnet.url}, folder {folder}", soft_wrap=True)
        world = build(plan, folder, devnet, plan.task_text())
        spectator = Spectator(world.chain, folder / "spectator")
        try:
            start_publisher(world)
            console.print(f"seed {plan.seed}: warm start, then publish")
            task = _watch(world, spectator, console, plan, lambda t: True, PUBLISH_SECONDS)
            start_workers(world, plan, task.id)
            limit = ROUND_SECONDS * plan.rounds

            def over(t: Task) -> bool:
                return t.finished and len(spectator.losses(t)) == len(t.rounds) + 1 and not world.running()

            _watch(world, spectator, console, plan, over, limit)
            return _summary(plan, world, spectator, time.monotonic() - begun)
        finally:
            world.stop()
            spectator.close()


def _watch(
    world: World,
    spectator: Spectator,
    console: Console,
    plan: RlPlan,
    until: Callable[[Task], bool],
    limit: float,
) -> Task:
    """Follow the chain until a condition on the task holds, a line per merged round. Raises E1905."""
    deadline, told = time.monotonic() + limit, 0
    while True:
        spectator.poll()
        task = next(iter(spectator.state.tasks.values()), None)
        if task is not None:
            accuracy = [1 - loss for loss in spectator.losses(task)]
            for index in range(told, len(accuracy)):
                console.print(_round_line(plan, task, index, accuracy[index]))
            told = max(told, len(accuracy))
            if until(task):
                return task
        world.guard(deadline, limit)
        time.sleep(TICK_SECONDS)


def _round_line(plan: RlPlan, task: Task, index: int, accuracy: float) -> str:
    bar = "#" * round(accuracy * 40)
    if index == 0:
        return f"seed {plan.seed}  start     accuracy {accuracy:.3f} {bar}"
    states = [w.state for w in task.rounds[index - 1].works.values()]
    accepted, rejected = states.count(WorkState.VALID), states.count(WorkState.HARD)
    tail = f"accepted {accepted}" + (f" rejected {rejected}" if rejected else "")
    return f"seed {plan.seed}  round {index:<3} accuracy {accuracy:.3f} {bar:<40} {tail}"


def _summary(plan: RlPlan, world: World, spectator: Spectator, seconds: float) -> Json:
    task = next(iter(spectator.state.tasks.values()))
    accuracy = [round(1 - loss, 4) for loss in spectator.losses(task)]
    cheater = world.people["trainer-1"].address if plan.attack != "none" else None
    works = [(r.index, w) for r in task.rounds.values() for w in r.works.values()]
    honest = [w for _, w in works if w.trainer != cheater]
    forged = [w for _, w in works if w.trainer == cheater]
    chain = world.chain
    owed, holds = int(chain.view("Vault", "owed")), chain.token_balance(chain.addresses["Vault"])
    return {
        "seed": plan.seed,
        "attack": plan.attack,
        "task": task.id,
        "accuracy": accuracy,
        "trainers": plan.trainers,
        "rounds": len(task.rounds),
        "accepted": sum(w.state is WorkState.VALID for _, w in works),
        "rejected": sum(w.state is WorkState.HARD for _, w in works),
        "expired": sum(w.state is WorkState.EXPIRED for _, w in works),
        "paid": {
            name: str(_paid(works, p.address)) for name, p in world.people.items() if p.role == "trainer"
        },
        "cpu_seconds": _cpu(world),
        "wall_seconds": round(seconds, 1),
        "checks": {
            "learnt": accuracy[-1] >= GOAL,
            "started_low": accuracy[0] <= 0.5,
            "honest_work_accepted": bool(honest) and all(w.state is WorkState.VALID for w in honest),
            "forged_work_rejected": all(w.state is WorkState.HARD for w in forged),
            "ledger_balances": owed == holds,
            "all_rounds_ran": len(task.rounds) == plan.rounds
            and not any(r.skipped for r in task.rounds.values()),
        },
    }


def _paid(works: list[Any], who: bytes) -> int:
    return sum(w.paid for _, w in works if w.trainer == who)


def _cpu(world: World) -> dict[str, float]:
    """CPU seconds of training and of checking, all processes together."""
    totals: dict[str, float] = {}
    for who in world.people.values():
        for record in metrics.read(who.home / "metrics.jsonl"):
            if record["event"] in ("train", "check"):
                totals[record["event"]] = totals.get(record["event"], 0.0) + record["cpu"]
    return {name: round(value, 2) for name, value in sorted(totals.items())}


def _render(console: Console, summary: Json, folder: Path) -> None:
    for s in summary["seeds"]:
        console.print(bars(list(enumerate(s["accuracy"])), f"seed {s['seed']} round"), highlight=False)
        cpu = s["cpu_seconds"]
        console.print(
            f"seed {s['seed']}: {s['accuracy'][0]:.3f} > {s['accuracy'][-1]:.3f} with {s['trainers']} trainers, "
            f"{s['accepted']} leases accepted, {s['rejected']} rejected; CPU s training {cpu.get('train', 0)}, "
            f"checking {cpu.get('check', 0)}; {s['wall_seconds']:.0f} s"
        )
        for name, ok in s["checks"].items():
            console.print(f"  {'ok  ' if ok else 'FAIL'} {name.replace('_', ' ')}")
    console.print(f"plot: {folder / 'accuracy.svg'}   summary: {folder / 'summary.json'}", soft_wrap=True)
    console.print(f"{summary['wall_seconds']:.0f} s")
