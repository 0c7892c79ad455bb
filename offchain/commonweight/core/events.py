"""Decoded contract events, as plain data: the only input of the fold (see `state`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One log of a Commonweight contract.

    ``args`` by their Solidity names: addresses and bytes32 as ``bytes`` (20 and 32), integers as ``int``, structs
    as mappings. ``timestamp`` is the block's, in seconds.
    """

    contract: str
    name: str
    args: Mapping[str, Any]
    block: int
    block_hash: bytes
    index: int
    timestamp: int
    tx: bytes
