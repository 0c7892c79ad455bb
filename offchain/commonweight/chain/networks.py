"""Which chain is meant: names with their chain ids and confirmation depths, as data, or an RPC address as it
is.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from ..core.errors import CommonweightError

UNKNOWN_CONFIRMATIONS = 12
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Network:
    """One chain and how to reach it. ``chain_id`` is None for a bare address: the deployment file knows it
    then.
    """

    name: str
    chain_id: int | None
    confirmations: int
    rpc_url: str
    rpc_env: str
    data_fee_oracle: bytes | None = None
    """Where a rollup says what it takes for keeping data on the chain below."""

    def address_in(self, environ: Mapping[str, str]) -> str:
        """Its RPC address: the environment's, else the preset's; empty without either."""
        return environ.get(self.rpc_env) or self.rpc_url


@cache
def presets() -> Mapping[str, Network]:
    """Every network that is known by name; ``rpc_url`` is empty where the environment must give it."""
    text = resources.files(__package__).joinpath("networks.toml").read_text("utf-8")
    return {name: _network(name, entry) for name, entry in tomllib.loads(text).items()}


def _network(name: str, entry: Mapping[str, Any]) -> Network:
    oracle = entry.get("data_fee_oracle")
    return Network(
        name,
        entry["chain_id"],
        entry["confirmations"],
        entry.get("rpc_url", ""),
        entry["rpc_env"],
        None if oracle is None else bytes.fromhex(oracle.removeprefix("0x")),
    )


def data_fee_oracle(chain_id: int) -> bytes | None:
    """The oracle of a rollup's data fee; None for chains that have none."""
    return next((net.data_fee_oracle for net in presets().values() if net.chain_id == chain_id), None)


def brownie_networks() -> dict[str, Any]:
    """The presets as `brownie networks import` reads them; our name is in the ids, so that nobody's own are touched.

    RPC addresses stay in the environment: Brownie expands the variable when it connects.
    """
    networks = [
        {
            "name": f"{net.name} (commonweight)",
            "id": f"commonweight-{net.name}",
            "chainid": net.chain_id,
            "host": net.rpc_url or f"${net.rpc_env}",
        }
        for net in presets().values()
    ]
    return {"live": [{"name": "Commonweight", "networks": networks}]}


def resolve(name_or_url: str, environ: Mapping[str, str] = os.environ) -> Network:
    """A preset with its RPC address from the environment, or a bare http(s) address.

    Raises E1212 for an unknown name or a network without an address.
    """
    if name_or_url.startswith(("http://", "https://")):
        depth = 0 if urlsplit(name_or_url).hostname in LOCAL else UNKNOWN_CONFIRMATIONS
        return Network("custom", None, depth, name_or_url, "")
    preset = presets().get(name_or_url)
    if preset is None:
        known = ", ".join(presets())
        raise CommonweightError(
            "E1212", f"there is no network {name_or_url!r}", f"use an RPC address or one of: {known}"
        )
    url = preset.address_in(environ)
    if not url:
        raise CommonweightError("E1212", f"{name_or_url} needs an RPC address", f"set {preset.rpc_env}")
    return replace(preset, rpc_url=url)
