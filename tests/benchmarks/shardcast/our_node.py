"""One Commonweight node for the benchmarks: keeps a store, serves it, and fetches one artifact when told to.

Usage: ``our_node.py STORE HOST:PORT [FILE]``. Commands on stdin: ``put``, ``fetch ROOT SOURCES PATIENCE``. One line
of JSON per event on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from commonweight.core.errors import CommonweightError
from commonweight.shardcast.address import AddressPolicy
from commonweight.shardcast.fetch import fetch
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store


def say(event: str, **values: object) -> None:
    cpu = time.process_time()
    # not ru_maxrss, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"event": event, "at": time.monotonic(), "cpu": cpu, "rss": peak, **values}), flush=True)


def main(folder: str, listen: str, file: str = "") -> None:
    store = Store(Path(folder))
    host, _, port = listen.rpartition(":")
    with ArtifactServer(store, host, int(port)) as server:
        say("ready", url=server.url)
        for line in sys.stdin:
            command, *words = line.split()
            if command == "put":
                say("put", root=store.put_file(Path(file)).hex())
            elif command == "fetch":
                root, sources, patience = words
                try:
                    found = fetch(
                        bytes.fromhex(root),
                        sources.split(","),
                        store,
                        policy=AddressPolicy(allow_private=True),
                        patience=float(patience),
                    )
                    traffic = {"received": found.bytes_received, "repeated": found.bytes_repeated}
                    blames = [f"{b.source} {b.kind} {b.reason}" for b in found.blamed]
                    say("done", **traffic, by_source=dict(found.bytes_by_source), blames=blames)
                except CommonweightError as error:
                    say("failed", error=str(error))
        say("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
