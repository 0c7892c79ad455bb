"""Wire a node from an operator's choices: locks, journal, chain, store, server; and run it until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount

from ..chain import keys
from ..chain.client import Chain
from ..chain.deployment import LOCAL_CHAINS
from ..chain.deployment import load as load_deployment
from ..chain.follower import Follower
from ..chain.genuine import require_genuine
from ..chain.journal import Journal
from ..chain.lock import FileLock
from ..chain.networks import require_nodes
from ..chain.sender import Sender
from ..core.errors import CommonweightError
from ..core.state import State
from ..shardcast.address import AddressPolicy
from ..shardcast.fetch import Library
from ..shardcast.limits import LIMITS
from ..shardcast.server import ArtifactServer
from ..shardcast.signing import Domain
from ..shardcast.store import Store
from ..shardcast.versions import VersionBook
from ..tasks.kinds import assistant_cheats, cheat_names
from .cell import ALONE, CellPlan, open_cell
from .doubles import DOUBLES
from .metrics import Metrics
from .neighbours import Neighbours
from .node import Kit, Node, Settings
from .publisher import Publisher, Relay
from .story import record_line
from .trainer import Trainer
from .validator import Validator

ROLES: dict[str, type[Node]] = {
    "trainer": Trainer,
    "validator": Validator,
    "publisher": Publisher,
    "relay": Relay,
}


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything `run_node` needs; secrets only as file names."""

    role: str
    home: Path
    key: Path
    password_file: Path | None
    rpc: str
    deployment: Path
    task: int
    host: str = "127.0.0.1"
    port: int = 0
    confirmations: int = 1
    exit_when_done: bool = False
    attack: str = "none"
    public_url: str = ""
    seats: int = 1
    leases: int = 1
    cell: CellPlan = ALONE
    rollouts: bool = False
    store_bytes: int = LIMITS.store_bytes


def run_node(config: NodeConfig) -> None:
    """Run one role until it is done, or until SIGINT or SIGTERM."""
    with open_node(config) as node:
        serve_node(node)


def serve_node(node: Node) -> None:
    """Tick until done or until SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop.set())
    print(f"{node.role} 0x{node.me.hex()} serves {node.kit.server.url}", flush=True)
    node.run()


@contextmanager
def open_node(config: NodeConfig) -> Iterator[Node]:
    """Open everything a node owns, checked, in the order in which it must be closed again."""
    role = _role(config)
    config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    account = keys.load(config.key, keys.read_password(config.password_file))
    record = load_deployment(config.deployment)
    chain = Chain.connect(config.rpc, record, confirmations=config.confirmations)
    require_genuine(chain.rpc, record)
    require_nodes(chain.chain_id)
    keys.refuse_dev_key(account.address, chain.chain_id)
    _log_to(config.home)
    keys.guard_logs(account)
    _require_gas(chain, account)
    with (
        FileLock(config.key.with_suffix(config.key.suffix + ".lock")),
        Journal(config.home / "node.sqlite") as journal,
    ):
        store = Store(config.home / "store", config.store_bytes, task=config.task or None)
        state = State()
        metrics = Metrics(config.home / "metrics.jsonl", _tell)
        policy = AddressPolicy(chain.chain_id in LOCAL_CHAINS)
        domain = Domain(chain.chain_id, chain.addresses["Tasks"])
        book = VersionBook(store.folder / "versions")
        neighbours = Neighbours(account, domain, state, store, policy)
        info = {"role": config.role}
        server = ArtifactServer(
            store, config.host, config.port, lambda: info, book=book, inbox=neighbours.inbox
        )
        server.start()
        neighbours.start()
        try:
            sender = Sender(chain, account, journal)
            library = Library(
                store,
                sources=lambda: [url for who, url in list(state.endpoints.items()) if who != sender.address],
                allow_private=chain.chain_id in LOCAL_CHAINS,
                holders=neighbours.holders,
            )
            kit = Kit(
                chain, Follower(chain), sender, journal, store, server, library, metrics, state, book, _say
            )
            settings = Settings(
                home=config.home,
                task=config.task,
                exit_when_done=config.exit_when_done,
                attack=config.attack,
                public_url=config.public_url,
                seats=config.seats,
                leases=config.leases,
                rollouts=config.rollouts,
            )
            with open_cell(config.cell, config.home, sender.address.hex(), metrics.write) as cell:
                yield role(kit, replace(settings, cell=cell))
        finally:
            neighbours.stop()
            server.stop()


def _role(config: NodeConfig) -> type[Node]:
    """The role's class, or the test double that ``attack`` names. Raises E1904 for a name unknown to the role."""
    if config.role == "trainer":
        known = (*cheat_names(), *assistant_cheats())
    else:
        known = tuple(name for name, (role, _) in DOUBLES.items() if role == config.role)
    if config.attack != "none" and config.attack not in known:
        raise CommonweightError(
            "E1904", f"unknown attack `{config.attack}`", f"one of: {', '.join(('none', *known))}"
        )
    return DOUBLES[config.attack][1] if config.attack in DOUBLES else ROLES[config.role]


def _require_gas(chain: Chain, account: LocalAccount) -> None:
    if chain.balance(bytes.fromhex(account.address[2:])) == 0:
        raise CommonweightError(
            "E1305",
            f"{account.address} has no ether for gas on chain {chain.chain_id}",
            f"send it some, or on a devnet run `commonweight devnet faucet {account.address}`",
        )


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _tell(event: str, fields: dict[str, Any]) -> None:
    line = record_line(event, fields)
    if line:
        _say(line)


def _log_to(home: Path) -> None:
    """Human-readable log beside the metrics; a person's terminal gets warnings."""
    root = logging.getLogger("commonweight")
    root.setLevel(os.environ.get("COMMONWEIGHT_LOG", "INFO").upper())
    file = logging.FileHandler(home / "node.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    for before in root.handlers:
        before.close()
    root.handlers[:] = [file, console]
