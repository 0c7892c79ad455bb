"""Which chain is meant: names with their chain ids and confirmation depths, as data, or an RPC address as it
is.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
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


@cache
def presets() -> Mapping[str, Network]:
    """Every network that is known by name; ``rpc_url`` is empty where the environment must give it."""
    text = resources.files(__package__).joinpath("networks.toml").read_text("utf-8")
    return {
        name: Network(
            name, entry["chain_id"], entry["confirmations"], entry.get("rpc_url", ""), entry["rpc_env"]
        )
        for name, entry in tomllib.loads(text).items()
    }


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
    url = environ.get(preset.rpc_env) or preset.rpc_url
    if not url:
        raise CommonweightError("E1212", f"{name_or_url} needs an RPC address", f"set {preset.rpc_env}")
    return Network(preset.name, preset.chain_id, preset.confirmations, url, preset.rpc_env)
