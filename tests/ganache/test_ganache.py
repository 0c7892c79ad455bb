"""The same packaged contracts on Ganache 7: deployed by the command line and by Brownie, and a round played on them.

`make test-ganache` installs Ganache under build/ and runs this; no other target does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from eth_account import Account

from commonweight.chain import deployment, keys
from commonweight.chain.client import Chain, Reverted
from commonweight.chain.deploy import asker, describe, estimate
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import fund
from commonweight.chain.genuine import require_genuine
from commonweight.chain.rpc import Rpc
from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import DemoPlan, build, start_publisher
from commonweight.core.errors import CommonweightError
from commonweight.core.state import WorkState
from tests.integration.test_brownie_deploy import brownie
from tests.support import tiny_task, wait_for

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "ganache" / "node_modules" / ".bin" / "ganache"
CHAIN = 1337
ETHER = 10**18
pytestmark = pytest.mark.timeout(600)


class Ganache:
    """A Ganache with Anvil's well-known accounts; a block every second, or one per transaction."""

    def __init__(self, block_seconds: int | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        options = {
            "server.port": self.port,
            "chain.chainId": CHAIN,
            "miner.blockGasLimit": 60_000_000,
            "wallet.mnemonic": "test test test test test test test test test test test junk",
        }
        if block_seconds is not None:
            options["miner.blockTime"] = block_seconds
        words = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [str(PROGRAM), *words, "--logging.quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        rpc, end = Rpc(self.url, attempts=1), time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            try:
                assert "Ganache/v7" in rpc.call("web3_clientVersion")
                return
            except CommonweightError:
                time.sleep(0.1)
        raise AssertionError("Ganache does not answer; `make test-ganache` installs it")

    def mine_by_the_clock(self, seconds: int) -> None:
        """It does so from its start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)


@pytest.fixture
def net() -> Iterator[Ganache]:
    with Ganache() as net:
        yield net


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create(tmp_path / "key.json", "a password", light=True)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("a password\n")
    return tmp_path / "key.json"


def check(net: Ganache, file: Path) -> Chain:
    """Connect, compare with the package, and use the contracts a little."""
    record = deployment.load(file)
    chain = Chain.connect(net.url, record, confirmations=0)
    require_genuine(chain.rpc, record)
    me = bytes.fromhex(Account.create().address[2:])
    assert chain.view("Vault", "owed") == 0
    assert chain.simulate(me, "Vault", "withdraw", [1]) == Reverted("ShortFree", (me, 0, 1))
    return chain


def test_the_command_line_plans_and_deploys(net: Ganache, key: Path, tmp_path: Path) -> None:
    me = keys.address_of(key)
    fund(net.url, me, ETHER)
    out = tmp_path / "deployment.json"
    words = [sys.executable, "-m", "commonweight", "contracts", "deploy", "--network", "ganache"]
    words += ["--key", str(key), "--out", str(out)]
    env = {**os.environ, "COMMONWEIGHT_RPC_GANACHE": net.url}
    lines = list(describe(estimate(asker(Rpc(net.url)), me, DeployConfig())))
    plan = subprocess.run([*words, "--dry-run"], env=env, check=True, capture_output=True, text=True)
    assert all(line in plan.stdout for line in lines)
    assert not out.exists()
    words += ["--password-file", str(tmp_path / "password")]
    subprocess.run(words, env=env, check=True, capture_output=True)
    chain = check(net, out)
    assert chain.nonce(me) == len(deployment.order(DeployConfig()))


def test_brownie_plans_and_deploys_the_same(net: Ganache, key: Path, tmp_path: Path) -> None:
    home, out, me = tmp_path / "home", tmp_path / "deployment.json", keys.address_of(key)
    home.mkdir()
    fund(net.url, me, ETHER)
    brownie(home, "networks", "add", "Ethereum", "ganache-7", f"host={net.url}", f"chainid={CHAIN}")
    settings = {
        "COMMONWEIGHT_OUT": str(out),
        "COMMONWEIGHT_KEY": str(key),
        "COMMONWEIGHT_PASSWORD_FILE": str(tmp_path / "password"),
    }
    run = ("run", "deploy", "--network", "ganache-7")
    lines = list(describe(estimate(asker(Rpc(net.url)), me, DeployConfig())))
    said = brownie(home, *run, COMMONWEIGHT_DRY_RUN="1", **settings)
    assert all(line in said for line in lines), said
    assert not out.exists()
    brownie(home, *run, **settings)
    check(net, out)


def test_a_round_is_published_claimed_checked_merged_and_paid(tmp_path: Path) -> None:
    """Publisher, trainer and validator as processes of their own, with the rules of the demo."""
    plan = DemoPlan("none", rounds=1, trainers=1, validators=1, seed=3, runs=tmp_path)
    with Ganache(block_seconds=1) as net:
        world = build(plan, tmp_path, net, tiny_task(plan))
        spectator = Spectator(world.chain, tmp_path / "spectator")
        try:
            start_publisher(world)
            wait_for(spectator, lambda task: True, limit=120)
            for name in plan.names:
                who = world.people[name]
                world.spawn(who, who.role, "run", "--task", "1")
            task = wait_for(spectator, lambda t: t.finished and not world.running(), limit=400)
            (work,) = task.rounds[0].works.values()
            assert (work.state, work.paid, work.included) == (WorkState.VALID, task.reward, True)
            assert task.latest != task.initial
            assert not world.failed()
            for name in ("trainer-1", "validator-1", "publisher"):
                row = report.person(world, spectator.state, task, world.people[name], set())
                assert row["gain"] == row["expected_gain"], name
            assert report.vault(world)["balances"]
            finals = {(report.result(p) or {}).get("final") for p in world.people.values()}
            assert finals == {task.latest.hex()}
        finally:
            world.stop()
            spectator.close()
