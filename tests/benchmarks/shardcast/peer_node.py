"""One node of the published `shardcast` package, run inside the benchmark's own environment.

Usage: ``peer_node.py origin|middle|client ARGUMENTS``. It prints one line per event and obeys lines on stdin, so
that the benchmark and not a sleep decides when something starts. Only this file imports the peer.
"""

from __future__ import annotations

import os
import sys
import time


def say(*words: object) -> None:
    print(*words, time.monotonic(), flush=True)


def origin(folder: str, port: str, file: str) -> None:
    """Serve ``folder``; on a line of stdin broadcast ``file``."""
    from shardcast import OriginServer

    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/data1.bin", "wb") as out:
        out.write(bytes(1_000_000))
    server = OriginServer(folder, int(port))
    say("ready")
    sys.stdin.readline()
    say("begun")
    say("broadcast", server.broadcast(file))
    sys.stdin.readline()


def middle(folder: str, port: str, upstream: str, interval: str) -> None:
    """Mirror ``upstream``, looking for news every ``interval`` seconds."""
    from shardcast import MiddleNode

    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/data1.bin", "wb") as out:
        out.write(bytes(1_000_000))
    node = MiddleNode([upstream], folder, int(port), float(interval))  # type: ignore[arg-type]
    say("ready")
    while not node.processed_versions:
        time.sleep(0.02)
    say("done")
    sys.stdin.readline()


def client(folder: str, servers: str, staged: str) -> None:
    """Fetch version v1 as soon as a middle node lists it."""
    from shardcast import ClientNode

    node = ClientNode(servers.split(","), folder)
    say("ready")
    if staged == "staged":
        sys.stdin.readline()
    while "v1" not in node.list_available_versions():
        time.sleep(0.1)
    found = node.download_version("v1")
    say("done" if found else "failed", found)
    sys.stdin.readline()


if __name__ == "__main__":
    {"origin": origin, "middle": middle, "client": client}[sys.argv[1]](*sys.argv[2:])
