"""`commonweight demo`: start everything, watch it, judge it, say so in the exit status."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ...chain.devnet import Devnet
from ...core.errors import CommonweightError
from ...core.state import Task
from ...tasks.cheats import NEED_REPLICAS
from ...tasks.kinds import task_kind
from . import report
from .spectator import Spectator
from .view import View
from .world import DemoPlan, World, build, start_publisher, start_workers

TICK_SECONDS = 0.3
FIRST_TASK = 1
"""What a new chain calls its first task."""
PUBLISH_SECONDS = 90
ROUND_SECONDS = 600
__all__ = ["DemoPlan", "run_demo"]


def run_demo(plan: DemoPlan, as_json: bool) -> int:
    """Run the demo; 0 when every check of `report.checks` holds, 1 when one does not, 130 when interrupted."""
    cheats = sorted(task_kind("pretrain").cheats.keys() - NEED_REPLICAS)
    if plan.attack not in ("none", *cheats):
        known = ", ".join(["none", *cheats])
        raise CommonweightError("E1904", f"unknown attack `{plan.attack}`", f"one of: {known}")
    console = Console(stderr=as_json)
    folder = _new_folder(plan.runs)
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        with Devnet(folder / "chain") as devnet:
            summary = _run(plan, folder, devnet, console, started)
    except KeyboardInterrupt:
        console.print(f"interrupted; what happened so far is in {folder}")
        return 130
    path = folder / "summary.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    if as_json:
        print(json.dumps(summary))
    report.render(console, summary)
    console.print(f"summary: {path}", soft_wrap=True)
    return 0 if summary["ok"] else 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _new_folder(runs: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        folder = runs.resolve() / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        if shutil.disk_usage(folder).free < 1 << 30:
            raise CommonweightError("E1404", f"less than 1 GiB is free at {folder}", "use --runs elsewhere")
        return folder
    raise CommonweightError("E1903", f"no free run folder under {runs}")


def _run(plan: DemoPlan, folder: Path, devnet: Devnet, console: Console, started: float) -> dict[str, object]:
    console.print(f"commonweight demo   chain {devnet.url}   folder {folder}", soft_wrap=True)
    world = build(plan, folder, devnet, plan.task_text())
    names = {p.address: p.name for p in world.people.values()}
    cheater = world.people["trainer-1"].address if plan.attack != "none" else None
    title = f"{plan.trainers} trainers, {plan.validators} validators, {plan.rounds} rounds, seed {plan.seed}"
    spectator = Spectator(world.chain, folder / "spectator")
    try:
        with View(console, title, names, cheater) as view:
            view.say(f"contracts deployed, {len(names)} participants funded")
            if cheater is not None:
                view.say(f"trainer-1 CHEATS: {plan.attack}")
            start_publisher(world)
            start_workers(
                world, plan, FIRST_TASK
            )  # they load torch while the publisher prepares, then wait for it
            limit = PUBLISH_SECONDS + ROUND_SECONDS * plan.rounds
            _watch(world, spectator, view, lambda t: _over(world, spectator, t), limit)
        return report.summarise(plan, world, spectator, time.monotonic() - started)
    finally:
        world.stop()
        spectator.close()


def _over(world: World, spectator: Spectator, task: Task) -> bool:
    measured = len(spectator.losses(task)) == len(task.rounds) + 1
    return task.finished and measured and not world.running()


def _watch(
    world: World, spectator: Spectator, view: View, until: Callable[[Task], bool], limit: float
) -> Task:
    """Follow the chain until a condition on the task holds. Raises E1905 when a process fails or time is up."""
    deadline = time.monotonic() + limit
    while True:
        head, events = spectator.poll()
        task = next(iter(spectator.state.tasks.values()), None)
        view.events(events)
        view.show(spectator.state, task, head.timestamp, head.number, spectator.losses(task) if task else [])
        if task is not None and until(task):
            return task
        world.guard(deadline, limit)
        time.sleep(TICK_SECONDS)
