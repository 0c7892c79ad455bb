"""The demo's world: a chain, keys, deployed contracts, a task file, and one operating-system process per role."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from eth_account import Account

from ...chain import deployment as deployments
from ...chain import keys
from ...chain.client import Chain
from ...chain.deploy import deploy
from ...chain.devnet import Devnet, faucet, fund
from ...core import economics
from ...core.errors import CommonweightError
from ...core.spec import TOKEN, TaskFile, parse_task
from ..commands import template

ETHER = 10**18
STOP_SECONDS = 20.0
BLOCK_SECONDS = 1


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the person asked for."""

    attack: str
    rounds: int
    trainers: int
    validators: int
    seed: int
    runs: Path

    @property
    def names(self) -> list[str]:
        """Participants in display order; trainer-1 is the cheater, if there is one."""
        trainers = [f"trainer-{i}" for i in range(1, self.trainers + 1)]
        return [*trainers, *(f"validator-{i}" for i in range(1, self.validators + 1))]

    def task_text(self) -> str:
        """The packaged example task, sized for this demo."""
        task = parse_task(template())
        segments = task.training.segments
        checks = min(segments, -(-(segments - 1) // self.validators))
        bond = -(-economics.least_bond(replace(task.economy.terms, want=self.validators)) // TOKEN)
        changes = {
            "seed = 7 ": f"seed = {self.seed} ",
            "slots = 4 ": f"slots = {self.trainers} ",
            "rounds = 4\n": f"rounds = {self.rounds}\n",
            "want = 3 ": f"want = {self.validators} ",
            "quorum = 2 ": f"quorum = {min(2, self.validators)} ",
            "checks = 1 ": f"checks = {checks} ",
            'bond = "10"     ': f'bond = "{bond}"     ',
            "open = 60\n": "open = 30\n",  # a cheat that does not answer is judged when this is over
        }
        text = template()
        for old, new in changes.items():
            if text.count(old) != 1:
                raise AssertionError(f"the example task has no single `{old}`")
            text = text.replace(old, new)
        return text


class Process(Protocol):
    """What the demo asks of an operating-system process, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Exit status; negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, once there is one. Raises `subprocess.TimeoutExpired`."""

    def send_signal(self, sig: int) -> None:
        """Send a signal."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


@dataclass(slots=True)
class Participant:
    """One process of the demo."""

    name: str
    role: str
    address: bytes
    home: Path
    key: Path
    minted: int
    process: Process | None = None


@dataclass(slots=True)
class World:
    """Everything the demo started."""

    folder: Path
    devnet: Devnet
    chain: Chain
    deployment: Path
    password: Path
    task_path: Path
    task: TaskFile
    people: dict[str, Participant] = field(default_factory=dict)
    launch: Callable[[list[str], Path, Mapping[str, str]], Process] = field(default_factory=lambda: start)
    """Starts the command line with these words, output file and additions to the environment."""

    def spawn(self, who: Participant, *command: str, extra: Mapping[str, str] | None = None) -> None:
        """Start the participant's process, with more environment if given; it dies with the demo."""
        words = [
            *command,
            "--key",
            str(who.key),
            "--home",
            str(who.home),
            "--password-file",
            str(self.password),
        ]
        words += ["--network", self.devnet.url, "--deployment", str(self.deployment), "--exit-when-done"]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        who.process = self.launch(words, who.home / "process.log", {**threads, **(extra or {})})

    def failed(self) -> list[Participant]:
        """Participants whose process ended with an error."""
        return [
            p for p in self.people.values() if p.process is not None and p.process.poll() not in (None, 0)
        ]

    def guard(self, deadline: float, limit: float) -> None:
        """Raises E1905 when a process failed, or when ``deadline`` (monotonic), ``limit`` seconds in all, is over."""
        for who in self.failed():
            tail = (who.home / "process.log").read_text(errors="replace").strip().splitlines()[-3:]
            raise CommonweightError("E1905", f"{who.name} stopped with an error: {' | '.join(tail)}")
        if time.monotonic() > deadline:
            raise CommonweightError(
                "E1905", f"the demo did not get on within {limit:.0f} s", "see the logs of the run"
            )

    def running(self) -> list[Participant]:
        """Participants whose process is alive."""
        return [p for p in self.people.values() if p.process is not None and p.process.poll() is None]

    def stop(self) -> None:
        """End every process, politely first."""
        for who in self.running():
            assert who.process is not None
            who.process.terminate()
        for who in self.running():
            assert who.process is not None
            try:
                who.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                who.process.kill()


def start(words: list[str], log: Path, environment: Mapping[str, str]) -> Process:
    """An interpreter of its own for `commonweight WORDS`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "commonweight", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )


def _die_with_parent() -> None:
    """Linux: SIGTERM when the demo is gone, however it went; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def build(plan: DemoPlan, folder: Path, devnet: Devnet, task_text: str) -> World:
    """Keys, money, contracts, task file: everything before the first process."""
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24) + "\n")
    deployer = Account.create()
    fund(devnet.url, bytes.fromhex(deployer.address[2:]), 100 * ETHER)
    record = deploy(devnet.url, deployer, deployments.DeployConfig())
    path = folder / "deployment.json"
    deployments.save(record, path)
    chain = Chain.connect(devnet.url, record, confirmations=0)
    task_path = folder / "task.toml"
    task_path.write_text(task_text)
    task = parse_task(task_path.read_text())
    world = World(folder, devnet, chain, path, password, task_path, task)
    economy = task.economy
    seat = int(chain.view("Panel", "seatStake"))
    working = (economy.rounds + 1) * economy.bond + 2 * economy.merge_bond
    add_person(world, "publisher", "publisher", economy.escrow)
    for name in plan.names:
        role = name.split("-")[0]
        add_person(world, name, role, working if role == "trainer" else seat + 2 * economy.merge_bond)
    # Set-up had a block per transaction; from here time passes as on a public chain.
    devnet.mine_by_the_clock(BLOCK_SECONDS)
    return world


def add_person(world: World, name: str, role: str, tokens: int) -> None:
    """A participant with a key, ether for gas and ``tokens`` wei."""
    home = world.folder / name
    home.mkdir(mode=0o700)
    key = home / "key.json"
    address = keys.create(key, world.password.read_text().strip(), light=True)
    fund(world.devnet.url, address, 10 * ETHER)
    faucet(world.chain, address, tokens)
    world.people[name] = Participant(name, role, address, home, key, tokens)


def start_publisher(world: World) -> None:
    """The publisher publishes and then serves."""
    world.spawn(world.people["publisher"], "task", "publish", str(world.task_path))


def start_workers(world: World, plan: DemoPlan, task: int) -> None:
    """Trainers and validators, one process each; trainer-1 may cheat."""
    for name in plan.names:
        who = world.people[name]
        cheat = ["--attack", plan.attack] if name == "trainer-1" and plan.attack != "none" else []
        world.spawn(who, who.role, "run", "--task", str(task), *cheat)
