"""What the smaller commands do: devnet, deployment, task files, publishing, status."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..chain import deployment as deployments
from ..chain import keys
from ..chain.client import Chain
from ..chain.devnet import Devnet, fund
from ..chain.devnet import faucet as give
from ..chain.follower import Follower
from ..chain.networks import Network, resolve
from ..core.errors import CommonweightError
from ..core.fold import fold
from ..core.spec import TOKEN, TaskFile, parse_task
from ..nodes.wiring import NodeConfig, open_node, serve_node


def split_listen(listen: str) -> tuple[str, int]:
    """HOST:PORT as a pair. Raises E1901."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CommonweightError("E1901", f"`{listen}` is not HOST:PORT", "for example 127.0.0.1:8701")
    return host, int(port)


def deployment_path(given: Path | None, network: Network) -> Path:
    """The deployment file to use for a network."""
    return given or Path("deployments") / f"{network.chain_id or 31337}.json"


def connect(network: str, deployment: Path | None) -> Chain:
    """A checked connection to the contracts of a network."""
    net = resolve(network)
    record = deployments.load(deployment_path(deployment, net))
    return Chain.connect(net.rpc_url, record, confirmations=net.confirmations)


def parse_address(text: str) -> bytes:
    """20 bytes from 0x-prefixed hex. Raises E1902."""
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 20:
        raise CommonweightError("E1902", f"`{text}` is not an address", "0x and 40 hex digits")
    return raw


def devnet_up(directory: Path, port: int, block_time: int) -> None:
    """Run Anvil in the foreground until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Devnet(directory, port=port, block_time=block_time) as devnet:
        print(
            f"chain 31337 at {devnet.url}, state in {directory}; Ctrl-C stops it and keeps the state",
            flush=True,
        )
        stop.wait()


def faucet(network: str, deployment: Path | None, address: str, ether: float, tokens: float) -> None:
    """Give ether and, once contracts are deployed, test tokens."""
    net = resolve(network)
    to = parse_address(address)
    fund(net.rpc_url, to, int(ether * 10**18))
    print(f"{address} has {ether:g} ether")
    path = deployment_path(deployment, net)
    if not path.exists():
        print(f"no deployment file {path} yet: run this again after `contracts deploy` for test tokens")
        return
    give(connect(network, deployment), to, int(tokens * TOKEN))
    print(f"{address} got {tokens:g} test tokens")


def deploy(
    network: str, key: Path, password_file: Path | None, token: str, test_token: bool, out: Path | None
) -> None:
    """Deploy the contracts and write the deployment file."""
    from ..chain.deploy import deploy as send

    net = resolve(network)
    account = keys.load(key, keys.read_password(password_file))
    config = deployments.DeployConfig(token=parse_address(token) if token else None)
    record = send(net.rpc_url, account, config, test_token=test_token, progress=print)
    path = out or Path("deployments") / f"{record['chain_id']}.json"
    deployments.save(record, path)
    for name, contract in record["contracts"].items():
        print(f"{name:10} {contract['address']}")
    print(f"wrote {path}")


def check(network: str, deployment: Path | None) -> None:
    """Connecting is the check: it compares chain id and code hashes."""
    chain = connect(network, deployment)
    print(f"chain {chain.chain_id}: {len(chain.addresses)} contracts match the deployment file")


def template() -> str:
    """The example task file."""
    return (resources.files("commonweight.cli") / "templates" / "pretrain.toml").read_text()


def task_init(path: Path) -> None:
    """Write the example task file; never over an existing one."""
    try:
        with path.open("x") as out:
            out.write(template())
    except FileExistsError as error:
        raise CommonweightError("E1903", f"{path} exists already", "choose another name") from error
    print(f"wrote {path}")


def read_task(path: Path) -> TaskFile:
    """Parse a task file from disk."""
    try:
        return parse_task(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CommonweightError("E1001", f"cannot read {path}: {error}") from error


def task_lint(path: Path) -> None:
    """Check a task file and print what publishing it locks."""
    task = read_task(path)
    e = task.economy
    print(f"{path}: ok. {task.name}: {e.rounds} rounds of {e.slots} leases, {task.training.steps} steps each")
    print(f"publishing locks {e.escrow / TOKEN:g} tokens; a trainer's bond is {e.bond / TOKEN:g} per lease")


def publish(path: Path, config: NodeConfig, serve: bool) -> None:
    """Publish a task (once: the same file and home find the task again), then serve its artifacts."""
    from ..nodes.publishing import publish_task

    task_file = read_task(path)
    base = path.resolve().parent
    with open_node(config) as node:
        task_id = publish_task(node, task_file, base)
        print(f"task {task_id} is published: {task_file.name}", flush=True)
        if serve:
            node.settings = replace(node.settings, task=task_id)
            serve_node(node)


def status(network: str, deployment: Path | None, as_json: bool) -> None:
    """Print the folded state of the chain."""
    chain = connect(network, deployment)
    follower = Follower(chain)
    state = fold(follower.poll())
    owed = chain.view("Vault", "owed")
    balance = chain.token_balance(chain.addresses["Vault"])
    if as_json:
        print(json.dumps(_plain({"state": asdict(state), "vault": {"owed": owed, "balance": balance}})))
        return
    from .demo.view import render_status

    render_status(state, chain.head(), owed, balance)


def _plain(value: Any) -> Any:
    """JSON values from dataclass dictionaries: bytes become 0x hex, keys strings, sets lists."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    return value
