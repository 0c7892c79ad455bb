"""A published task and processes in their roles, on a chain whose time the test has in its hands."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from commonweight.chain.devnet import faucet
from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import DemoPlan, Process, World, add_person
from commonweight.core.spec import TOKEN
from commonweight.core.state import Task
from tests.clock import Clock
from tests.nursery import fork
from tests.support import small_world, wait_for

LIMIT = 800.0
"""Seconds of a scenario on a machine that has a lot else to do; an idle one needs a fiftieth of it."""

PATIENT = {"merge": "30"}
"""Windows are long and the test's clock leaps over them, so that a slow machine misses none."""


@contextmanager
def world_of(
    folder: Path,
    roles: Mapping[str, list[str] | None],
    rounds: int,
    rich: Mapping[str, int] = MappingProxyType({}),
    steps: int = 4,
    **economy: str,
) -> Iterator[tuple[World, Spectator, Clock]]:
    """A published task with these participants running, each with more options of its command.

    ``roles``: options by name; None: he is not started yet. ``rich``: tokens that somebody has besides what his role
    needs at least.
    """
    trainers = sum(name.startswith("trainer") for name in roles)
    validators = sum(name.startswith("validator") for name in roles)
    plan = DemoPlan("none", rounds=rounds, trainers=trainers, validators=validators, seed=3, runs=folder)
    idle = {name for name, options in roles.items() if "--attack" in (options or ())}
    leases = {name: int(o[o.index("--leases") + 1]) for name, o in roles.items() if o and "--leases" in o}
    with small_world(folder, plan, launch=fork, steps=steps, **{**PATIENT, **economy}) as (world, spectator):
        for name in roles.keys() - world.people.keys():
            add_person(world, name, name.split("-")[0], world.task.economy.merge_bond)
        for name, tokens in rich.items():
            faucet(world.chain, world.people[name].address, tokens * TOKEN)
            world.people[name].minted += tokens * TOKEN
        clock = Clock(world, spectator, idle, leases)
        for name, options in roles.items():
            if options is not None:
                run(world, name, *options)
        yield world, spectator, clock


def run(world: World, name: str, *options: str) -> None:
    """Start a participant's process."""
    who = world.people[name]
    world.spawn(who, who.role, "run", "--task", "1", *options)


def freeze(world: World, clock: Clock, name: str) -> None:
    """Suspend his process, as a laptop does that is shut; nobody waits for him."""
    _process(world, name).send_signal(signal.SIGSTOP)
    clock.away.add(name)


def thaw(world: World, clock: Clock, name: str) -> None:
    """He is back, and may not even have noticed."""
    _process(world, name).send_signal(signal.SIGCONT)
    clock.away.discard(name)


def _process(world: World, name: str) -> Process:
    process = world.people[name].process
    assert process is not None
    return process


def ended(world: World, spectator: Spectator, clock: Clock) -> Task:
    """The task, once it is over and everybody has left."""
    return wait_for(spectator, lambda t: t.finished and not world.running(), clock, limit=LIMIT)


def nothing_lost(world: World, spectator: Spectator, task: Task, *names: str) -> None:
    """Each of these got to the wei what the rules give, and the rules took nothing."""
    for name in names:
        row = report.person(world, spectator.state, task, world.people[name], set())
        assert row["gain"] == row["expected_gain"], name
        assert int(row["gain"]) >= 0 or world.people[name].role == "publisher", name
        assert row["bond_lost"] == "0", name
    assert report.vault(world)["balances"]
