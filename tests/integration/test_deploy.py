"""Deploying: the dry run tells the truth and sends nothing, and what came of it is the package's own code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from commonweight.chain import deploy as deploying
from commonweight.chain import deployment, keys
from commonweight.chain.client import Chain
from commonweight.chain.deploy import asker, deploy, estimate
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, fund
from commonweight.chain.genuine import require_genuine
from commonweight.chain.rpc import Rpc, hexed
from commonweight.cli import commands
from commonweight.core.errors import CommonweightError
from commonweight.nodes.wiring import NodeConfig, open_node

pytestmark = pytest.mark.chain
BASE_SEPOLIA = 84_532
ORACLE = "0x420000000000000000000000000000000000000F"
TEN_TO_THE_15 = "0x66038d7ea4c6800060005260206000f3"
"""Code that answers 10**15 to whatever it is asked."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with Devnet(tmp_path_factory.mktemp("net"), chain_id=BASE_SEPOLIA) as net:
        yield net


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create(tmp_path / "key.json", "a password", light=True)
    return tmp_path / "key.json"


def command(net: Devnet, *words: Any) -> str:
    """What the command line prints; the environment says where the preset is, and there is no terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "commonweight", *map(str, words)],
        env={**os.environ, "COMMONWEIGHT_RPC_BASE_SEPOLIA": net.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_dry_run_says_what_comes_and_what_it_costs_at_most(net: Devnet, key: Path) -> None:
    rpc, me = Rpc(net.url), keys.address_of(key)
    blocks = rpc.call("eth_blockNumber")
    words = ("contracts", "deploy", "--network", "base-sepolia", "--key", key, "--test-token", "--dry-run")
    rpc.call("anvil_setCode", ORACLE, TEN_TO_THE_15)
    said = command(net, *words)
    fund(net.url, me, 10**18)
    expected = estimate(asker(rpc), me, DeployConfig(), test_token=True)
    assert rpc.call("eth_blockNumber") == blocks
    assert rpc.call("eth_getTransactionCount", hexed(me), "pending") == "0x0"
    assert f"maximum cost: {expected.cost} wei = {deploying.ether(expected.cost)} ether" in said
    assert expected.data_fee == 2 * len(expected.steps) * 10**15
    assert f"the key has 0 ether: send it {deploying.ether(expected.cost)} before you deploy" in said
    assert all(len(line) <= 88 for line in said.splitlines()), said

    account = keys.load(key, "a password")
    record = deploy(net.url, account, DeployConfig(), test_token=True, chain_id=BASE_SEPOLIA)
    spent = 10**18 - int(rpc.call("eth_getBalance", hexed(me), "latest"), 16)
    assert 0 < spent <= expected.gas * expected.fee
    for name in ("Protocol", *deployment.MODULES):
        assert f"{name:<10} {record['contracts'][name]['address']}" in said
    order = [said.index(f" {step.name}") for step, _ in expected.steps]
    assert order == sorted(order)


def test_a_network_whose_address_is_another_chain_is_refused(tmp_path: Path, key: Path) -> None:
    with Devnet(tmp_path / "other") as other:
        words = (
            "contracts",
            "deploy",
            "--network",
            "base-sepolia",
            "--key",
            key,
            "--test-token",
            "--dry-run",
        )
        assert "error[E1201]" in command(other, *words)
        with pytest.raises(CommonweightError) as caught:
            deploy(other.url, keys.load(key, "a password"), DeployConfig(), chain_id=BASE_SEPOLIA)
        assert caught.value.code == "E1201"


def test_a_dry_run_refuses_what_deploying_would_refuse(net: Devnet, key: Path) -> None:
    ask, me = asker(Rpc(net.url)), keys.address_of(key)
    refusals = (
        ("E1209", me, DeployConfig()),
        ("E1210", me, DeployConfig(token=b"\x11" * 20)),
        ("E1304", keys.DEV_ADDRESSES[0], DeployConfig(token=b"\x11" * 20)),
    )
    for code, who, config in refusals:
        with pytest.raises(CommonweightError) as caught:
            estimate(ask, who, config)
        assert caught.value.code == code


@pytest.mark.parametrize("victim", ["Vault", "Panel", "Tasks", "Court", "Protocol", "Token"])
def test_false_contracts_are_found_although_the_file_vouches_for_them(
    deployed: tuple[Devnet, dict[str, Any]], victim: str
) -> None:
    """A stranger's file has the hashes of a stranger's contracts: only the package can tell."""
    net, record = deployed
    rpc, at = Rpc(net.url), record["contracts"][victim]["address"]
    right = rpc.call("eth_getCode", at, "latest")
    # the last byte of an address or of a number that the code carries, else one byte of the code itself
    places = deployment.packaged(victim if victim != "Token" else "TestToken")["deployedBytecode"][
        "immutables"
    ]
    spot = sum(places[-1]) - 1 if places and victim != "Protocol" else 100
    false = bytearray.fromhex(right[2:])
    false[spot] ^= 1
    rpc.call("anvil_setCode", at, hexed(bytes(false)))
    try:
        contracts = {**record["contracts"], victim: {"address": at, "code_hash": hexed(keccak(bytes(false)))}}
        forged = {**record, "contracts": contracts}
        Chain.connect(net.url, forged)  # the file's own hashes agree
        with pytest.raises(CommonweightError) as caught:
            require_genuine(rpc, forged)
        assert caught.value.code == "E1202"
        assert f"where {victim} should be" in caught.value.message
    finally:
        rpc.call("anvil_setCode", at, right)
    require_genuine(rpc, record)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Devnet, dict[str, Any]]]:
    with Devnet(tmp_path_factory.mktemp("deployed")) as net:
        yield net, deploy(net.url, keys.dev_account(0), DeployConfig())


def test_false_libraries_are_found(deployed: tuple[Devnet, dict[str, Any]]) -> None:
    """They run on the storage of Tasks, so they matter as much; no file names them."""
    net, record = deployed
    rpc = Rpc(net.url)
    deployer = bytes.fromhex(record["deployer"][2:])
    for nonce, name in enumerate(deployment.LIBRARIES, 1):
        at = hexed(deployment.created(deployer, nonce))
        right = rpc.call("eth_getCode", at, "latest")
        rpc.call("anvil_setCode", at, right[:-2] + "00")
        with pytest.raises(CommonweightError) as caught:
            require_genuine(rpc, record)
        assert caught.value.code == "E1202", name
        assert f"where {name} should be" in caught.value.message
        rpc.call("anvil_setCode", at, right)
    require_genuine(rpc, record)


def test_a_node_does_not_act_on_false_contracts(
    deployed: tuple[Devnet, dict[str, Any]], tmp_path: Path, key: Path
) -> None:
    net, record = deployed
    rpc, at = Rpc(net.url), record["contracts"]["Court"]["address"]
    right = rpc.call("eth_getCode", at, "latest")
    false = bytearray.fromhex(right[2:])
    false[200] ^= 1
    rpc.call("anvil_setCode", at, hexed(bytes(false)))
    record = {**record, "contracts": {**record["contracts"]}}
    record["contracts"]["Court"] = {"address": at, "code_hash": hexed(keccak(bytes(false)))}
    deployment.save(record, tmp_path / "deployment.json")
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("a password\n")
    config = NodeConfig("relay", tmp_path / "home", key, password, net.url, tmp_path / "deployment.json", 1)
    try:
        with pytest.raises(CommonweightError) as caught, open_node(config):
            pass
        assert caught.value.code == "E1202"
        assert not (tmp_path / "home" / "node.sqlite").exists()
    finally:
        rpc.call("anvil_setCode", at, right)


def test_the_check_names_libraries_and_arguments_for_explorers(
    deployed: tuple[Devnet, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Creation code and these arguments, run unsent, give the code that is there."""
    net, record = deployed
    deployment.save(record, tmp_path / "deployment.json")
    commands.check(net.url, tmp_path / "deployment.json", arguments=True)
    said = capsys.readouterr().out.split()
    libraries = {name: bytes.fromhex(said[said.index(name) + 1][2:]) for name in deployment.LIBRARIES}
    for name in deployment.MODULES:
        place = said.index(name)
        assert said[place + 2 : place + 4] == ["constructor", "arguments"]
        code = deployment.creation_code(name, libraries).hex() + said[place + 4]
        made = Rpc(net.url).call("eth_call", {"data": "0x" + code}, "latest")
        assert made == Rpc(net.url).call("eth_getCode", said[place + 1], "latest")
