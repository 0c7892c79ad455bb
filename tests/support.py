"""A small world of real processes on a real local chain, for tests of the whole cycle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from commonweight.chain.devnet import Devnet
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import DemoPlan, Process, World, build, start, start_publisher
from commonweight.core.state import Task

DEADLINE_S = 240.0
Launch = Callable[[list[str], Path, Mapping[str, str]], Process]

TINY = """
[model]
dim = 16
layers = 1
heads = 2
hidden = 32
context = 32
seed = {seed}

[data]
source = "pydoc-topics"
max_bytes = 60000

[training]
steps = {steps}
segment = 1
batch = 2

[verification]
checks = {checks}
topk = 128
"""


def tiny_task(plan: DemoPlan, sections: str = "", codec: str = "none", steps: int = 4, **economy: str) -> str:
    """The demo's task with a model that trains in milliseconds, updates in ``codec``; others replace economy lines.

    ``sections``: further TOML.
    """
    full = plan.task_text()
    checks = next(
        line.split("=")[1].split("#")[0].strip() for line in full.splitlines() if line.startswith("checks")
    )
    head, money = full.split("[data]")[0], full[full.index("[economy]") :]
    # tests run beside others: whoever is killed or slow has the example's whole minute to open its seal
    for key, value in {"open": "60", **economy}.items():
        lines = money.splitlines()
        assert any(line.split("=")[0].strip() == key for line in lines), f"the example task has no {key}"
        money = "\n".join(f"{key} = {value}" if line.split("=")[0].strip() == key else line for line in lines)
    return (
        head
        + TINY.format(seed=plan.seed, checks=checks, steps=steps)
        + '\n[merge]\nrule = "mean"\ncodec = "'
        + codec
        + '"\n\n'
        + sections
        + money
    )


@contextmanager
def small_world(
    folder: Path,
    plan: DemoPlan,
    sections: str = "",
    launch: Launch = start,
    steps: int = 4,
    **economy: str,
) -> Iterator[tuple[World, Spectator]]:
    """Chain, contracts, funded participants and a running publisher; everything ends with the block.

    ``launch`` starts a process (`tests.nursery.fork` does so at once); ``steps`` of training per lease.
    """
    with Devnet(folder / "chain") as devnet:
        world = build(plan, folder, devnet, tiny_task(plan, sections, steps=steps, **economy))
        world.launch = launch
        spectator = Spectator(world.chain, folder / "spectator")
        try:
            start_publisher(world)
            yield world, spectator
        finally:
            world.stop()
            spectator.close()


def wait_for(
    spectator: Spectator,
    until: Callable[[Task], bool],
    tick: Callable[[], None] = lambda: None,
    limit: float = DEADLINE_S,
) -> Task:
    """Follow the chain until the condition holds; fails after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    pause = 0.2
    while time.monotonic() < deadline:
        spectator.poll()
        tick()
        task = next(iter(spectator.state.tasks.values()), None)
        if task is not None and until(task):
            return task
        time.sleep(pause)
    raise AssertionError(f"nothing happened within {limit:.0f} s: {spectator.state.tasks}")
