"""Contract interfaces from packaged ABIs: plain Python values to call data and back, and names for reverts
and events.

Addresses and fixed bytes are ``bytes``, integers ``int``, structs mappings by their Solidity field names.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from typing import Any

from eth_abi.exceptions import DecodingError, EncodingError
from web3 import Web3
from web3.providers import BaseProvider

from ..core.errors import CommonweightError

_CODEC = Web3(BaseProvider()).codec
_PLAIN_ERRORS = (
    {"name": "Error", "inputs": [{"type": "string"}]},
    {"name": "Panic", "inputs": [{"type": "uint256"}]},
)

Abi = Sequence[Mapping[str, Any]]


class Interface:
    """One contract's ABI, ready to encode and decode."""

    def __init__(self, name: str, abi: Abi) -> None:
        self.name = name
        self.abi = abi

    @cached_property
    def _functions(self) -> dict[tuple[str, int], Mapping[str, Any]]:
        return {(f["name"], len(f["inputs"])): f for f in self.abi if f["type"] == "function"}

    @cached_property
    def _selectors(self) -> dict[bytes, Mapping[str, Any]]:
        return {_selector(f): f for f in self._functions.values()}

    @cached_property
    def _topics(self) -> dict[bytes, Mapping[str, Any]]:
        return {bytes(Web3.keccak(text=_signature(e))): e for e in self.abi if e["type"] == "event"}

    @property
    def errors(self) -> dict[bytes, Mapping[str, Any]]:
        """Custom errors by selector."""
        return {_selector(e): e for e in self.abi if e["type"] == "error"}

    def encode(self, function: str, args: Sequence[Any]) -> bytes:
        """Call data. Raises ValueError when the arguments do not fit: a programming error."""
        entry = self._function(function, len(args))
        values = [_lower(i, a) for i, a in zip(entry["inputs"], args, strict=True)]
        try:
            return _selector(entry) + bytes(_CODEC.encode([_type(i) for i in entry["inputs"]], values))
        except EncodingError as error:
            raise ValueError(f"{self.name}.{function}: {error}") from error

    def decode_result(self, function: str, count: int, data: bytes) -> Any:
        """What a call returned: one value, a tuple of several, or None. Structs are mappings."""
        outputs = self._function(function, count)["outputs"]
        values = _decode(outputs, data)
        return None if not values else values[0] if len(values) == 1 else values

    def function_of(self, data: bytes) -> str:
        """Name of the function that some call data calls, or an empty string."""
        entry = self._selectors.get(data[:4])
        return str(entry["name"]) if entry else ""

    def decode_event(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Name and arguments of a log, or None when it is not an event of this ABI."""
        entry = self._topics.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = [i for i in entry["inputs"] if i["indexed"]]
        plain = [i for i in entry["inputs"] if not i["indexed"]]
        if len(indexed) != len(topics) - 1:
            return None
        values = dict(zip((i["name"] for i in plain), _decode(plain, data), strict=True))
        for item, topic in zip(indexed, topics[1:], strict=True):
            # What does not fit into a word is there as its hash only.
            whole = (
                item["type"] in ("string", "bytes") or item["type"].endswith("]") or item["type"] == "tuple"
            )
            values[item["name"]] = topic if whole else _decode([item], topic)[0]
        return str(entry["name"]), {i["name"]: values[i["name"]] for i in entry["inputs"]}

    def _function(self, name: str, count: int) -> Mapping[str, Any]:
        try:
            return self._functions[name, count]
        except KeyError:
            raise ValueError(f"{self.name} has no function {name} with {count} arguments") from None


class Errors:
    """Names the reverts of several contracts, because one contract's error often surfaces in a call to
    another.
    """

    def __init__(self, interfaces: Sequence[Interface]) -> None:
        self._known: dict[bytes, Mapping[str, Any]] = {_selector(e): e for e in _PLAIN_ERRORS}
        for interface in interfaces:
            self._known.update(interface.errors)

    def decode(self, data: bytes, text: str = "") -> tuple[str, tuple[Any, ...]]:
        """Error name and arguments; unknown data keeps its hex, no data keeps the node's own words."""
        entry = self._known.get(data[:4])
        if entry is None:
            return ("Unknown", (data,)) if data else (text or "Reverted", ())
        try:
            return str(entry["name"]), _decode(entry["inputs"], data[4:])
        except ValueError:
            return "Unknown", (data,)


def load_abi(name: str) -> Abi:
    """A packaged ABI. Raises E1202 when the package has none of that name."""
    try:
        text = resources.files(__package__).joinpath("abi", f"{name}.json").read_text("utf-8")
    except FileNotFoundError:
        raise CommonweightError(
            "E1202", f"there is no packaged ABI for {name}", "reinstall commonweight"
        ) from None
    found = json.loads(text)
    abi: Abi = found["abi"] if isinstance(found, dict) else found
    return abi


def _type(item: Mapping[str, Any]) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return "(" + ",".join(_type(c) for c in item["components"]) + ")" + item["type"][5:]


def _wire_type(item: Mapping[str, Any]) -> str:
    """The type to decode as. Strangers choose the strings in events, so those need not be UTF-8: take them as
    bytes.
    """
    return re.sub(r"\bstring\b", "bytes", _type(item))


def _signature(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(_type(i) for i in entry['inputs'])})"


def _selector(entry: Mapping[str, Any]) -> bytes:
    return bytes(Web3.keccak(text=_signature(entry)))[:4]


def _element(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The element type of an array type."""
    return {**item, "type": item["type"][: item["type"].rindex("[")]}


def _lower(item: Mapping[str, Any], value: Any) -> Any:
    """A Python value as the codec wants it: structs as tuples in the order of their fields."""
    if item["type"].endswith("]"):
        return [_lower(_element(item), v) for v in value]
    if item["type"] != "tuple":
        return value
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        value = [value[c["name"]] for c in item["components"]]
    if len(value) != len(item["components"]):
        raise ValueError(f"{item.get('internalType', 'a struct')} has {len(item['components'])} fields")
    return tuple(_lower(c, v) for c, v in zip(item["components"], value, strict=True))


def _lift(item: Mapping[str, Any], value: Any) -> Any:
    """The reverse: addresses as bytes, structs as mappings."""
    if item["type"].endswith("]"):
        return tuple(_lift(_element(item), v) for v in value)
    if item["type"] == "tuple":
        return {c["name"]: _lift(c, v) for c, v in zip(item["components"], value, strict=True)}
    if item["type"] == "string":
        text: str = value.decode("utf-8", "replace")
        return text
    return bytes.fromhex(value[2:]) if item["type"] == "address" else value


def _decode(items: Sequence[Mapping[str, Any]], data: bytes) -> tuple[Any, ...]:
    """Raises ValueError on bytes that are not an encoding of these types."""
    try:
        values = _CODEC.decode([_wire_type(i) for i in items], data)
    except DecodingError as error:
        raise ValueError(f"not an ABI encoding: {error}") from error
    return tuple(_lift(i, v) for i, v in zip(items, values, strict=True))
