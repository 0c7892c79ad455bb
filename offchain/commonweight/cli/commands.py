"""What the smaller commands do: devnet, deployment, task files, publishing, status."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eth_utils.address import to_checksum_address

from ..chain import deployment as deployments
from ..chain import keys
from ..chain.client import Chain
from ..chain.devnet import Devnet, fund
from ..chain.devnet import faucet as give
from ..chain.follower import Follower
from ..chain.genuine import ARGUMENTS, constructor_arguments, require_genuine
from ..chain.networks import Network, brownie_networks, presets, resolve
from ..chain.rpc import Rpc
from ..core import economics
from ..core.errors import CommonweightError
from ..core.fold import fold
from ..core.spec import KINDS, TOKEN, TaskFile, parse_task
from ..core.state import WorkState

if TYPE_CHECKING:
    from ..nodes.wiring import NodeConfig  # torch is imported by commands that run a node only


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
    chain = Chain.connect(net.rpc_url, record, confirmations=net.confirmations)
    require_genuine(chain.rpc, record)
    return chain


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
    record = send(net.rpc_url, account, config, test_token=test_token, chain_id=net.chain_id, progress=print)
    path = out or Path("deployments") / f"{record['chain_id']}.json"
    deployments.save(record, path)
    for name, contract in record["contracts"].items():
        print(f"{name:10} {contract['address']}")
    print(f"wrote {path}")


def deploy_plan(network: str, key: Path, token: str, test_token: bool, out: Path | None) -> None:
    """What deploying would send, where it would land and what it costs at most; needs no password."""
    from ..chain import deploy

    net = resolve(network)
    rpc = Rpc(net.rpc_url)
    ask = deploy.asker(rpc)
    deploy.require_chain(ask, net.chain_id, rpc.place)
    config = deployments.DeployConfig(token=parse_address(token) if token else None)
    found = deploy.estimate(ask, keys.address_of(key), config, test_token)
    for line in deploy.describe(found):
        print(line)
    print(f"the deployment file would be {out or Path('deployments') / f'{found.chain_id}.json'}")


def check(network: str, deployment: Path | None, arguments: bool) -> None:
    """Chain id, code hashes, and the packaged code itself; then where everything is, as an explorer asks for it."""
    net = resolve(network)
    record = deployments.load(deployment_path(deployment, net))
    chain = Chain.connect(net.rpc_url, record, confirmations=net.confirmations)
    libraries = require_genuine(chain.rpc, record)
    print(
        f"chain {chain.chain_id}: {len(chain.addresses)} contracts match the deployment file and this package"
    )
    for name, address in {**chain.addresses, **libraries}.items():
        print(f"{name:10} {to_checksum_address(address)}")
        if arguments and name in ARGUMENTS:
            print(f"           constructor arguments {constructor_arguments(record, name).hex()}")


def network_list() -> None:
    """The known networks and whether the environment says how to reach them."""
    for net in presets().values():
        place = "set" if os.environ.get(net.rpc_env) else net.rpc_url or "not set"
        only = "  (deploying only)" if net.deploying_only else ""
        print(
            f"{net.name:<18} chain {net.chain_id or 0:>9}  {net.confirmations:>2} confirmations  "
            f"{net.rpc_env}: {place}{only}"
        )


def network_brownie(path: Path) -> None:
    """Write the presets in the form that `brownie networks import` reads (JSON is YAML)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(brownie_networks(), indent=1) + "\n")
    print(f"wrote {path}: brownie networks import {path} True")


def template(kind: str = "pretrain") -> str:
    """The example task file of a kind. Raises E1004 for one that there is none of."""
    if kind not in KINDS:
        raise CommonweightError("E1004", f"unknown task kind `{kind}`", f"known: {', '.join(KINDS)}")
    return (resources.files("commonweight.cli") / "templates" / f"{kind}.toml").read_text()


def task_init(path: Path, kind: str) -> None:
    """Write the example task file of a kind; never over an existing one."""
    text = template(kind)
    try:
        with path.open("x") as out:
            out.write(text)
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
    """Check a task file and print what publishing it locks and what to expect of it."""
    task = read_task(path)
    e = task.economy
    found = economics.estimate(e.terms, economics.Host())
    print(f"{path}: ok. {task.name}: {e.rounds} rounds of {e.slots} leases, {task.training.steps} steps each")
    print(f"publishing locks {e.escrow / TOKEN:g} tokens; a trainer's bond is {e.bond / TOKEN:g} per lease")
    print(
        f"when all is accepted it costs {found.honest / TOKEN:g}; each vote stakes {found.risk / TOKEN:g}; "
        f"a wholly faked work goes unseen with {found.missed:.2g} if half of the seats are hostile"
    )
    if found.decoys:
        print(f"about {found.decoys:g} works will be decoys: paid, not merged")
    print(f"rounds take at most {found.seconds_most / 3600:.1f} hours in all when nothing is contested")


def publish(path: Path, config: NodeConfig, serve: bool) -> None:
    """Publish a task (once: the same file and home find the task again), then serve its artifacts."""
    from ..nodes.publishing import publish_task
    from ..nodes.wiring import open_node, serve_node

    task_file = read_task(path)
    base = path.resolve().parent
    with open_node(config) as node:
        task_id = publish_task(node, task_file, base)
        print(f"task {task_id} is published: {task_file.name}", flush=True)
        if serve:
            node.settings = replace(node.settings, task=task_id)
            serve_node(node)


def relinquish(config: NodeConfig, task: int, round_: int) -> None:
    """Give an own lease back, at no cost, so that somebody else can take it. Raises E1208 where that is too late."""
    from ..nodes.wiring import open_node

    with open_node(config) as node:
        node.follow()
        found = node.state.tasks.get(task)
        works = found.rounds[round_].works.values() if found and round_ in found.rounds else ()
        mine = next((w for w in works if w.trainer == node.me and w.state is WorkState.CLAIMED), None)
        if mine is None:
            raise CommonweightError(
                "E1208",
                f"this key holds no lease in round {round_} of task {task}",
                "see `commonweight status`",
            )
        name = f"relinquish:{task}:{round_}:{mine.slot}"
        answer = node.kit.sender.request(name, "Tasks", "relinquish", (task, round_, mine.slot))
        if not answer.final:
            answer = node.kit.sender.wait(name, 120.0)
        if not answer.ok:
            raise CommonweightError(
                "E1208",
                f"the lease was not given back: {answer.error}",
                "a lease can be given back in the first half of the claim window only",
            )
        print(f"round {round_}: the lease of slot {mine.slot} is given back")


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
