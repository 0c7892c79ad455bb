"""Brownie and the command line deploy the same bytes in the same order, and write the same deployment file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commonweight.chain import deployment, keys
from commonweight.chain.client import Chain
from commonweight.chain.deploy import deploy
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, fund

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


def test_brownie_deploys_from_a_keystore_and_says_what_is_missing(tmp_path: Path) -> None:
    home, out, password = tmp_path / "home", tmp_path / "deployment.json", tmp_path / "password"
    home.mkdir()
    password.touch(mode=0o600)
    password.write_text("a password\n")
    address = keys.create(tmp_path / "key.json", "a password", light=True)
    settings = {"COMMONWEIGHT_OUT": str(out)}
    with Devnet(tmp_path / "net", chain_id=11155111) as net:
        fund(net.url, address, 10**18)
        brownie(home, "networks", "add", "Ethereum", "public", f"host={net.url}", "chainid=11155111")
        run = ("run", "deploy", "--network", "public")
        said = brownie(home, *run, code=1, **settings)
        assert "error[E1209] no reward token was named for chain 11155111" in said
        settings["COMMONWEIGHT_TEST_TOKEN"] = "1"
        assert "error[E1302] COMMONWEIGHT_KEY" in brownie(home, *run, code=1, **settings)
        assert not out.exists()
        settings |= {
            "COMMONWEIGHT_KEY": str(tmp_path / "key.json"),
            "COMMONWEIGHT_PASSWORD_FILE": str(password),
        }
        brownie(home, *run, **settings)
        record = deployment.load(out)
        assert bytes.fromhex(record["deployer"][2:]) == address
        assert record["chain_id"] == 11155111
        Chain.connect(net.url, record, confirmations=0)
