"""Brownie and the command line deploy the same bytes in the same order, and write the same deployment file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commonweight.chain import deployment, keys
from commonweight.chain.client import Chain
from commonweight.chain.deploy import asker, deploy, describe, estimate
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, fund
from commonweight.chain.genuine import require_genuine
from commonweight.chain.rpc import Rpc
from commonweight.cli import commands

pytestmark = [pytest.mark.chain, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
BROWNIE = Path(sys.prefix) / "bin" / "brownie"


def brownie(home: Path, *command: str, code: int = 0, **settings: str) -> str:
    """What a brownie command prints; it must end with exit status ``code``."""
    done = subprocess.run(
        [str(BROWNIE), *command],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_brownie_and_the_command_line_write_the_same_file(tmp_path: Path) -> None:
    home, by_brownie, by_us = tmp_path / "home", tmp_path / "brownie.json", tmp_path / "ours.json"
    home.mkdir()
    with Devnet(tmp_path / "one") as net:
        brownie(home, "networks", "add", "Ethereum", "one", f"host={net.url}", "chainid=31337")
        said = brownie(home, "run", "deploy", "--network", "one", COMMONWEIGHT_OUT=str(by_brownie))
        assert f"wrote {by_brownie}" in said
        Chain.connect(net.url, deployment.load(by_brownie), confirmations=0)
    with Devnet(tmp_path / "two") as net:
        deployment.save(deploy(net.url, keys.dev_account(0), DeployConfig()), by_us)
    assert by_brownie.read_bytes() == by_us.read_bytes()


def test_brownie_knows_the_presets_plans_and_deploys_from_a_keystore(tmp_path: Path) -> None:
    """A preset whose address the environment gives; the dry run is the command line's, and needs no password."""
    home, out, password = tmp_path / "home", tmp_path / "deployment.json", tmp_path / "password"
    home.mkdir()
    password.touch(mode=0o600)
    password.write_text("a password\n")
    address = keys.create(tmp_path / "key.json", "a password", light=True)
    commands.network_brownie(tmp_path / "networks.yaml")
    brownie(home, "networks", "import", str(tmp_path / "networks.yaml"), "True")
    with Devnet(tmp_path / "net", chain_id=11155111) as net:
        fund(net.url, address, 10**18)
        settings = {"COMMONWEIGHT_OUT": str(out), "COMMONWEIGHT_RPC_SEPOLIA": net.url}
        run = ("run", "deploy", "--network", "commonweight-sepolia")
        said = brownie(home, *run, code=1, **settings)
        assert "error[E1302] COMMONWEIGHT_KEY" in said
        settings["COMMONWEIGHT_KEY"] = str(tmp_path / "key.json")
        said = brownie(home, *run, code=1, **settings)
        assert "error[E1209] no reward token was named for chain 11155111" in said
        settings["COMMONWEIGHT_TEST_TOKEN"] = "1"
        said = brownie(home, *run, COMMONWEIGHT_DRY_RUN="1", **settings)
        expected = estimate(asker(Rpc(net.url)), address, DeployConfig(), test_token=True)
        assert all(line in said for line in describe(expected)), said
        assert not out.exists()
        settings["COMMONWEIGHT_PASSWORD_FILE"] = str(password)
        brownie(home, *run, **settings)
        record = deployment.load(out)
        assert bytes.fromhex(record["deployer"][2:]) == address
        assert record["chain_id"] == 11155111
        chain = Chain.connect(net.url, record, confirmations=0)
        require_genuine(chain.rpc, record)
        assert chain.addresses["Protocol"] == expected.steps[-1][0].address
        assert 10**18 - chain.balance(address) <= expected.cost
