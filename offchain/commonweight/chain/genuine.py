"""Is what stands at a deployment's addresses this package's code? Asked of the chain itself, byte by byte.

A deployment file comes from whoever deployed, its code hashes with it, so a stranger's file could name contracts that
pay the stranger. Constructors are therefore run again, unsent (``eth_call``), with the arguments that the file claims:
what they return is the code that must be there, immutables included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from eth_abi.abi import encode as abi_encode

from ..core.errors import CommonweightError
from .deployment import ADDRESS_BYTES, LIBRARIES, MODULES, Record, creation_code, packaged
from .rpc import Rpc, RpcError, data, hexed

Read = Callable[[bytes], bytes]
OWN_ADDRESS = slice(1, 1 + ADDRESS_BYTES)
"""Where a library's code keeps its own address, so that it can tell a call from a delegated one."""

ARGUMENTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Vault": (("address", "Token"), ("address", "Panel"), ("address", "Tasks"), ("address", "Court")),
    "Panel": (
        ("address", "Vault"),
        ("address", "Tasks"),
        ("address", "Court"),
        ("uint96", "seat_stake"),
        ("uint40", "exit_delay"),
    ),
    "Tasks": (("address", "Vault"), ("address", "Panel"), ("address", "Court"), ("uint96", "risk_min")),
    "Court": (("address", "Vault"), ("address", "Panel"), ("address", "Tasks")),
}
"""Type and origin of each constructor argument: a contract of the record, or an entry of its config."""


def require_genuine(rpc: Rpc, record: Record) -> dict[str, bytes]:
    """Ask the chain; returns the libraries' addresses.

    Raises E1202 where the code is not this package's, E1203 and E1206 as every request does.
    """

    def ask(method: str, *params: Any) -> bytes:
        try:
            return data(rpc.call(method, *params))
        except RpcError as error:
            raise CommonweightError(
                "E1206", f"the chain answered: {error}", "try again, or use another RPC"
            ) from error

    return compare(
        record,
        code=lambda address: ask("eth_getCode", hexed(address), "latest"),
        run=lambda creation: ask("eth_call", {"data": hexed(creation)}, "latest"),
    )


def compare(record: Record, code: Read, run: Read) -> dict[str, bytes]:
    """The check itself; ``code``: address to code, ``run``: creation code to what its constructor returns."""
    at = {name: data(entry["address"]) for name, entry in record["contracts"].items()}
    found = {name: code(at[name]) for name in ARGUMENTS}
    libraries: dict[str, bytes] = {}
    for name in ARGUMENTS:
        libraries |= _linked(name, found[name])
    for name in ARGUMENTS:
        if run(creation_code(name, libraries) + constructor_arguments(record, name)) != found[name]:
            raise _false(name, at[name])
    for name in LIBRARIES:
        made = bytearray(run(creation_code(name, libraries)))
        made[OWN_ADDRESS] = libraries[name]
        if bytes(made) != code(libraries[name]):
            raise _false(name, libraries[name])
    if not _is_protocol(code(at["Protocol"]), {at[name] for name in MODULES}):
        raise _false("Protocol", at["Protocol"])
    if record["config"]["test_token"] and run(creation_code("TestToken")) != code(at["Token"]):
        raise _false("Token", at["Token"])
    return libraries


def constructor_arguments(record: Record, name: str) -> bytes:
    """ABI-encoded arguments that Vault, Panel, Tasks or Court were created with."""
    values: dict[str, Any] = {key: data(entry["address"]) for key, entry in record["contracts"].items()}
    values |= {key: int(value) for key, value in record["config"].items()}
    types, origins = zip(*ARGUMENTS[name], strict=True)
    return abi_encode(types, [values[origin] for origin in origins])


def _linked(name: str, code: bytes) -> dict[str, bytes]:
    """Addresses of the libraries that a contract's code calls. The runtime code is the end of the creation code."""
    package = packaged(name)
    skipped = len(creation_code(name)) - package["deployedBytecode"]["size"]
    return {
        library: code[places[0] - skipped : places[0] - skipped + ADDRESS_BYTES].rjust(ADDRESS_BYTES, b"\0")
        for library, places in package["links"].items()
    }


def _is_protocol(code: bytes, modules: set[bytes]) -> bool:
    """Its constructor creates the others, so it is not run again: the rest of its code, and whom it names."""
    package, blank, named = packaged("Protocol")["deployedBytecode"], bytearray(code), set()
    for start, length in package["immutables"]:
        named.add(code[start : start + length][-ADDRESS_BYTES:])
        blank[start : start + length] = bytes(length)
    return named == modules and sha256(blank).hexdigest() == package["sha256"]


def _false(name: str, address: bytes) -> CommonweightError:
    return CommonweightError(
        "E1202",
        f"at {hexed(address)}, where {name} should be, there is other code than this package's",
        "the contracts are another version's, or the deployment file is not to be trusted",
    )
