"""The local chain: it keeps its state, says what is wrong, and never outlives the process that started it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from commonweight.chain import devnet as module
from commonweight.chain.client import Chain, Reverted
from commonweight.chain.deploy import deploy as deploy_all
from commonweight.chain.deployment import DeployConfig, load, save
from commonweight.chain.devnet import Devnet, faucet, find_anvil, fund
from commonweight.chain.rpc import Rpc
from commonweight.core.errors import CommonweightError

from .sender_probe import PROBE, Bench, deploy, until

pytestmark = pytest.mark.chain
FORK = multiprocessing.get_context("fork")


def test_state_survives_a_restart(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net") as net:
        record = deploy(net.url)
        bench = Bench(net.url, record, tmp_path / "journal.sqlite")
        bench.act("a")
        bench.sender.pump()
        before, identity = bench.chain.head(), bench.chain.identity
        bench.close()
    with Devnet(tmp_path / "net") as net:
        chain = Chain.connect(net.url, record)
        assert chain.view(PROBE, "total") == 1
        assert chain.identity == identity
        assert chain.block_hash(before.number) == before.hash
        assert [e.args["note"] for e in chain.events(0, chain.head().number)] == ["a"]


def test_blocks_come_by_the_clock_when_asked(tmp_path: Path) -> None:
    with Devnet(tmp_path, block_time=1) as net:
        rpc = Rpc(net.url)
        assert until(lambda: int(rpc.call("eth_blockNumber"), 16) >= 1)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CommonweightError) as caught:
            Devnet(tmp_path, port=port).start()
    assert caught.value.code == "E1501"
    assert str(port) in caught.value.message
    Devnet(tmp_path).start().stop()  # the folder is free again


def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Devnet(tmp_path / "first") as first:
        free = iter([first.port, 0])
        real = module._free_port
        monkeypatch.setattr(module, "_free_port", lambda: next(free) or real())
        with Devnet(tmp_path / "second") as second:
            assert second.port != first.port
            Rpc(second.url).call("evm_mine")
            assert Rpc(first.url).call("eth_blockNumber") == "0x0"


def test_a_chain_that_is_stopped_at_once_keeps_its_state(tmp_path: Path) -> None:
    for turn in range(5):
        Devnet(tmp_path / str(turn)).start().stop()
        assert (tmp_path / str(turn) / "state.json").exists()


def test_one_folder_holds_one_chain(tmp_path: Path) -> None:
    with Devnet(tmp_path), pytest.raises(CommonweightError) as caught:
        Devnet(tmp_path).start()
    assert caught.value.code == "E1401"


@pytest.mark.parametrize(
    "content", [b"", b'{"block": {', b"[]", b"\x00" * 64], ids=["empty", "torn", "other", "zeros"]
)
def test_a_damaged_state_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    Devnet(tmp_path).start().stop()
    state, backup = tmp_path / "state.json", tmp_path / "state.backup.json"
    good = state.read_bytes()
    state.write_bytes(content)
    with pytest.raises(CommonweightError) as caught:
        Devnet(tmp_path).start()
    assert caught.value.code == "E1406"
    assert str(backup) in caught.value.hint
    assert state.read_bytes() == content
    assert backup.read_bytes() == good


def test_a_missing_program_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMMONWEIGHT_ANVIL", str(tmp_path / "nothing"))
    with pytest.raises(CommonweightError) as caught:
        find_anvil()
    assert caught.value.code == "E1204"
    assert "npm ci" in caught.value.hint


def test_ether_can_be_given_away(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net") as net:
        chain = Chain.connect(net.url, deploy(net.url))
        fund(net.url, b"\x77" * 20, 5 * 10**18)
        assert chain.balance(b"\x77" * 20) == 5 * 10**18


def test_the_real_contracts_deploy_and_the_faucet_mints(tmp_path: Path) -> None:
    deployer = Account.create()
    me = bytes.fromhex(deployer.address[2:])
    with Devnet(tmp_path / "net") as net:
        with pytest.raises(CommonweightError) as caught:
            deploy_all(net.url, deployer, DeployConfig())
        assert caught.value.code == "E1305"
        assert Rpc(net.url).call("eth_blockNumber") == "0x0"
        fund(net.url, me, 10**18)
        record = deploy_all(net.url, deployer, DeployConfig())
        save(record, tmp_path / "deployment.json")
        chain = Chain.connect(net.url, load(tmp_path / "deployment.json"), confirmations=0)
        assert set(chain.addresses) == {"Token", "Protocol", "Vault", "Panel", "Tasks", "Court"}
        faucet(chain, me, 7)
        assert chain.token_balance(me) == 7
        assert chain.view("Vault", "owed") == 0
        refused = chain.simulate(me, "Vault", "withdraw", [1])
        assert refused == Reverted("ShortFree", (me, 0, 1))
        with pytest.raises(CommonweightError) as away:
            chain.view("Panel", "drawn", 99, 0, 1)
        assert "UnknownPoll" in away.value.message


def start_and_hang(folder: Path, pipe: Any) -> None:
    net = Devnet(folder).start()
    pipe.send((os.getpid(), net.pid, net.url))
    signal.pause()


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_it_dies_with_its_parent_and_keeps_its_state(tmp_path: Path) -> None:
    mine, theirs = FORK.Pipe()
    child = FORK.Process(target=start_and_hang, args=(tmp_path, theirs))
    child.start()
    assert mine.poll(20)
    parent, anvil, _ = mine.recv()
    os.kill(parent, signal.SIGKILL)
    child.join(10)
    assert until(lambda: not alive(anvil))
    assert (tmp_path / "state.json").stat().st_size > 0
    child.close()
    Devnet(tmp_path).start().stop()
