"""A deployment: which creation transactions, in which order, and the file that remembers what came of them.

Brownie (`scripts/deploy.py`) and the command line (`deploy`) share all of this; only the sending differs. Contracts
are created from the packaged bytecode, so both give the same code: a test token where one was asked for, the four
libraries without state that the contracts are linked to, and `Protocol`, whose constructor creates the other four
contracts and wires them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from ..core.errors import CommonweightError

FORMAT = 1
LOCAL_CHAINS = (31337, 1337)  # Anvil, Ganache
TOKEN = 10**18
MODULES = ("Vault", "Panel", "Tasks", "Court")
CONTRACTS = ("Token", "Protocol", *MODULES)
LIBRARIES = ("Exact", "Terms", "Leases", "Merges")
ADDRESS_BYTES = 20
RISKS_PER_SEAT = 16  # as Tasks demands of every task

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """Constructor choices; amounts in token wei, times in seconds. ``token`` None: create a test token.

    ``exit_delay`` should outlast a poll and its disputes. Raises E1213 where the contracts could not work.
    """

    token: bytes | None = None
    seat_stake: int = 1_000 * TOKEN
    exit_delay: int = 7 * 86_400
    risk_min: int = TOKEN // 10

    def __post_init__(self) -> None:
        """Refuse what no task could be published under, before anything is paid for."""
        if self.token is not None and (len(self.token) != ADDRESS_BYTES or not any(self.token)):
            raise CommonweightError("E1213", f"0x{self.token.hex()} is no token address", "give 20 bytes")
        if not 1 <= self.risk_min <= self.seat_stake // RISKS_PER_SEAT or self.seat_stake >= 2**96:
            raise CommonweightError(
                "E1213",
                f"a seat of {self.seat_stake} does not cover {RISKS_PER_SEAT} votes at {self.risk_min}",
                "raise seat_stake or lower risk_min, which is at least 1",
            )
        if not 0 <= self.exit_delay < 2**40:
            raise CommonweightError("E1213", f"exit_delay {self.exit_delay} is no number of seconds")


@dataclass(frozen=True, slots=True)
class Ledger:
    """What deploying needs of a chain: create a contract, call it, read code; all finished when they return."""

    chain_id: int
    deployer: bytes
    create: Callable[[bytes], tuple[bytes, int]]
    """Creation code to (address, block number)."""
    call: Callable[[bytes, bytes], bytes]
    code: Callable[[bytes], bytes]


def creation_code(name: str, libraries: Mapping[str, bytes] | None = None) -> bytes:
    """Packaged creation bytecode of a contract, linked to ``libraries`` (name to address).

    One that is not named stands as zero. Raises E1202 when the package lacks the contract.
    """
    try:
        text = resources.files("commonweight.chain").joinpath("abi", f"{name}.json").read_text()
        packaged = json.loads(text)
        code = bytearray.fromhex(packaged["bytecode"].removeprefix("0x"))
        links: dict[str, list[int]] = packaged["links"]
    except (OSError, KeyError, ValueError) as error:
        raise CommonweightError(
            "E1202", f"the package has no code of {name}", "reinstall commonweight"
        ) from error
    for library, places in links.items():
        for place in places:
            code[place : place + ADDRESS_BYTES] = (libraries or {}).get(library, bytes(ADDRESS_BYTES))
    return bytes(code)


def protocol_code(token: bytes, config: DeployConfig, libraries: Mapping[str, bytes] | None = None) -> bytes:
    """Creation code of the whole protocol, constructor arguments included."""
    types = ["address", "uint96", "uint40", "uint96"]
    return creation_code("Protocol", libraries) + abi_encode(
        types, [token, config.seat_stake, config.exit_delay, config.risk_min]
    )


def plan(config: DeployConfig) -> list[tuple[str, bytes]]:
    """The creations in order, as (name, code); addresses that are not known yet stand as zero."""
    first = [] if config.token else [("TestToken", creation_code("TestToken"))]
    libraries = [(name, creation_code(name)) for name in LIBRARIES]
    return [*first, *libraries, ("Protocol", protocol_code(config.token or bytes(ADDRESS_BYTES), config))]


def execute(ledger: Ledger, config: DeployConfig) -> Record:
    """Deploy and return the record. Raises E1209 where a test token would go to a public chain unasked."""
    token = config.token
    if token is None:
        token, first_block = ledger.create(creation_code("TestToken"))
    elif not ledger.code(token):
        raise CommonweightError(
            "E1210", f"there is no token contract at 0x{token.hex()}", "check the address"
        )
    libraries: dict[str, bytes] = {}
    for name in LIBRARIES:
        libraries[name], _ = ledger.create(creation_code(name, libraries))
    protocol, block = ledger.create(protocol_code(token, config, libraries))
    addresses = {"Token": token, "Protocol": protocol}
    for name in MODULES:
        answer = ledger.call(protocol, keccak(text=f"{name.lower()}()")[:4])
        addresses[name] = answer[-ADDRESS_BYTES:]
    return {
        "format": FORMAT,
        "chain_id": ledger.chain_id,
        "block": block if config.token else first_block,
        "deployer": to_checksum_address(ledger.deployer),
        "config": {
            "test_token": config.token is None,
            "seat_stake": str(config.seat_stake),
            "exit_delay": config.exit_delay,
            "risk_min": str(config.risk_min),
        },
        "contracts": {
            name: {
                "address": to_checksum_address(addresses[name]),
                "code_hash": "0x" + keccak(ledger.code(addresses[name])).hex(),
            }
            for name in CONTRACTS
        },
    }


def require_allowed(config: DeployConfig, chain_id: int, test_token: bool) -> None:
    """A test token that anybody can mint belongs on a local chain, or on a testnet on request. Raises E1209."""
    if config.token is None and chain_id not in LOCAL_CHAINS and not test_token:
        raise CommonweightError(
            "E1209",
            f"no reward token was named for chain {chain_id}",
            "name one with --token, or pass --test-token to create one that anybody can mint",
        )


def save(record: Record, path: Path) -> None:
    """Write a deployment file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    os.replace(scratch, path)


def load(path: Path) -> Record:
    """Read and check a deployment file. Raises E1211."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CommonweightError(
            "E1211", f"cannot read the deployment file {path}: {error}", "run `commonweight contracts deploy`"
        ) from error
    problem = _problem(record)
    if problem:
        raise CommonweightError("E1211", f"{path} is no deployment file: {problem}")
    checked: Record = record
    return checked


def _problem(record: Any) -> str | None:
    """What is wrong with a decoded deployment file, if anything."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return f"its format is not {FORMAT}"
    if set(record) != {"format", "chain_id", "block", "deployer", "config", "contracts"}:
        return "it has other entries than a deployment"
    if any(type(record[key]) is not int or record[key] < 0 for key in ("chain_id", "block")):
        return "chain_id and block must be natural numbers"
    if not _is_hex(record["deployer"], ADDRESS_BYTES):
        return "deployer must be an address"
    contracts = record["contracts"]
    if not isinstance(contracts, Mapping) or set(contracts) != set(CONTRACTS):
        return f"its contracts must be {', '.join(CONTRACTS)}"
    for name, entry in contracts.items():
        if not isinstance(entry, Mapping) or set(entry) != {"address", "code_hash"}:
            return f"{name} must have an address and a code_hash"
        for key, size in (("address", ADDRESS_BYTES), ("code_hash", 32)):
            if not _is_hex(entry[key], size):
                return f"{name}.{key} must be 0x and {2 * size} hex digits"
    return _config_problem(record["config"])


def _config_problem(config: Any) -> str | None:
    if not isinstance(config, Mapping) or set(config) != {
        "test_token",
        "seat_stake",
        "exit_delay",
        "risk_min",
    }:
        return "its config has other entries than the constructor's"
    try:
        DeployConfig(None, int(config["seat_stake"]), config["exit_delay"], int(config["risk_min"]))
    except (CommonweightError, TypeError, ValueError) as error:
        return f"its config is wrong: {error}"
    return None


def _is_hex(value: Any, size: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", value) is not None
