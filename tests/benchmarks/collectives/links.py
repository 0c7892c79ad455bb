"""A slow link between benchmark peers: one network namespace each on a bridge, shaped by tc; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def _ip(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


@contextmanager
def shaped(peers: int, rate: str) -> Iterator[list[str] | None]:
    """Namespaces whose uplinks carry ``rate`` (tc's notation); None where this machine does not allow it."""
    tag = f"cw{os.getpid()}"
    hub, names = f"{tag}hub", [f"{tag}n{i}" for i in range(peers)]
    try:
        if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
            yield None
            return
        _ip("ip", "netns", "add", hub)
        _ip("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("ip", "-n", hub, "link", "set", "br0", "up")
        for i, name in enumerate(names):
            _ip("ip", "netns", "add", name)
            _ip(
                "ip",
                "link",
                "add",
                f"p{i}",
                "netns",
                hub,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            _ip("ip", "-n", hub, "link", "set", f"p{i}", "master", "br0", "up")
            _ip("ip", "-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            _ip("ip", "-n", name, "link", "set", "eth0", "up")
            _ip("ip", "-n", name, "link", "set", "lo", "up")
            shape = ["tbf", "rate", rate, "burst", "128kb", "latency", "400ms"]
            _ip("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shape)
    except subprocess.CalledProcessError:
        _remove([hub, *names])
        yield None
        return
    try:
        yield names
    finally:
        _remove([hub, *names])


def _remove(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
