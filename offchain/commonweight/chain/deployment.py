"""A deployment: which creation transactions, in which order, and the file that remembers what came of them.

Brownie (`scripts/deploy.py`) and the command line (`deploy`) share all of this; only the sending differs. Contracts
are created from the packaged bytecode, so both give the same code: a test token where one was asked for, the four
libraries without state that the contracts are linked to, and `Protocol`, whose constructor creates the other four
contracts and wires them. What came of it is compared with the package (`genuine`) before it is written down.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
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


@cache
def packaged(name: str) -> Mapping[str, Any]:
    """What the package knows of a contract (see ``scripts/export_abis.py``). Raises E1202 when it lacks it."""
    try:
        text = resources.files("commonweight.chain").joinpath("abi", f"{name}.json").read_text()
        found: Mapping[str, Any] = json.loads(text)
        bytes.fromhex(found["bytecode"].removeprefix("0x"))
    except (OSError, KeyError, ValueError) as error:
        raise CommonweightError(
            "E1202", f"the package has no code of {name}", "reinstall commonweight"
        ) from error
    return found


def creation_code(name: str, libraries: Mapping[str, bytes] | None = None) -> bytes:
    """Packaged creation bytecode of a contract, linked to ``libraries`` (name to address).

    One that is not named stands as zero. Raises E1202 when the package lacks the contract.
    """
    package = packaged(name)
    code = bytearray.fromhex(package["bytecode"].removeprefix("0x"))
    for library, places in package["links"].items():
        for place in places:
            code[place : place + ADDRESS_BYTES] = (libraries or {}).get(library, bytes(ADDRESS_BYTES))
    return bytes(code)


def created(creator: bytes, nonce: int) -> bytes:
    """Address of the contract that ``creator`` makes with number ``nonce``: keccak of RLP([creator, nonce])."""
    digits = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    number = digits if 0 < nonce < 0x80 else bytes([0x80 + len(digits)]) + digits
    body = bytes([0x80 + ADDRESS_BYTES]) + creator + number
    return keccak(bytes([0xC0 + len(body)]) + body)[-ADDRESS_BYTES:]


@dataclass(frozen=True, slots=True)
class Creation:
    """One creation transaction: the contract, its code with arguments, where it will be, and the arguments in words."""

    name: str
    code: bytes
    address: bytes
    arguments: tuple[tuple[str, str], ...] = ()


def order(config: DeployConfig) -> tuple[str, ...]:
    """What is created, in this order: each after those that it is linked to."""
    return (*(() if config.token else ("TestToken",)), *LIBRARIES, "Protocol")


def plan(config: DeployConfig, deployer: bytes, nonce: int) -> list[Creation]:
    """The creations in order, when ``deployer``'s next transaction has number ``nonce``."""
    places = {name: created(deployer, nonce + i) for i, name in enumerate(order(config))}
    words = (
        ("token", to_checksum_address(config.token or places["TestToken"])),
        ("seatStake", f"{config.seat_stake} ({config.seat_stake / TOKEN:g} tokens)"),
        ("exitDelay", f"{config.exit_delay} ({config.exit_delay / 86_400:g} days)"),
        ("riskMin", f"{config.risk_min} ({config.risk_min / TOKEN:g} tokens)"),
    )
    return [
        Creation(name, _code(name, config, places), at, words if name == "Protocol" else ())
        for name, at in places.items()
    ]


def _code(name: str, config: DeployConfig, places: Mapping[str, bytes]) -> bytes:
    """Creation code of one contract with its constructor's arguments, linked to what is at ``places``."""
    code = creation_code(name, places)
    if name != "Protocol":
        return code
    types = ["address", "uint96", "uint40", "uint96"]
    token = config.token or places["TestToken"]
    return code + abi_encode(types, [token, config.seat_stake, config.exit_delay, config.risk_min])


def execute(ledger: Ledger, config: DeployConfig) -> Record:
    """Deploy and return the record.

    Raises E1210 without a token contract at the given address, E1202 when the chain then holds other code than the
    package.
    """
    if config.token is not None and not ledger.code(config.token):
        raise CommonweightError(
            "E1210", f"there is no token contract at 0x{config.token.hex()}", "check the address"
        )
    places: dict[str, bytes] = {}
    blocks = []
    for name in order(config):
        places[name], block = ledger.create(_code(name, config, places))
        blocks.append(block)
    protocol = places["Protocol"]
    addresses = {"Token": config.token or places["TestToken"], "Protocol": protocol}
    for name in MODULES:
        answer = ledger.call(protocol, keccak(text=f"{name.lower()}()")[:4])
        addresses[name] = answer[-ADDRESS_BYTES:]
    record = {
        "format": FORMAT,
        "chain_id": ledger.chain_id,
        "block": blocks[-1] if config.token else blocks[0],
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
    return record


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
