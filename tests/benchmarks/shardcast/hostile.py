"""Hostile rows: lying and stalling relays in a real swarm, half-open and slow connections, fuzzed requests."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from commonweight.core import merkle
from commonweight.shardcast.access import Doorkeeper
from commonweight.shardcast.gossip import Rumours
from commonweight.shardcast.limits import LIMITS
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.signing import Domain
from commonweight.shardcast.store import Store
from commonweight.shardcast.writing import Inbox
from tests.shardcast_fuzz import ROUTES, case
from tests.shardcast_peers import Raw, honest, reply

from .loopback import OurNode, free_ports


def lying(line: socket.socket, index: int, shard: bytes) -> bool:
    """A wrong shard."""
    reply(line, bytes(len(shard)), shard=str(index))
    return True


def stalling(line: socket.socket, index: int, shard: bytes) -> bool:
    """The beginning of a shard, and nothing more."""
    reply(line, shard[:1000], shard=str(index), content_length=str(len(shard)))
    return True


def swarm(file: Path, folder: Path, hostile: bool, readers: int = 5) -> dict[str, Any]:
    """An origin, some readers that all serve, and two of eight relays that lie or stall."""
    data, nodes = file.read_bytes(), []
    liars = [Raw(honest(data, spoil)) for spoil in (lying, stalling)] if hostile else []
    try:
        for i, port in enumerate(free_ports(1 + readers)):
            nodes.append(OurNode(folder / f"h-{i}", f"127.0.0.1:{port}", file if i == 0 else None))
        nodes[0].tell("put")
        root = nodes[0].expect("put")["root"]
        start = time.monotonic()
        for node in nodes[1:]:
            others = [other.url for other in nodes if other is not node] + [liar.url for liar in liars]
            node.tell("fetch", root, ",".join(others), 60)
        done = [node.expect("done") for node in nodes[1:]]
    finally:
        for node in nodes:
            node.stop()
        for liar in liars:
            liar.__exit__()
        for path in folder.glob("h-*"):
            shutil.rmtree(path)
    names = {liar.url for liar in liars}
    blamed = {blame.split()[0] for d in done for blame in d["blames"]}
    return {
        "seconds": max(d["at"] for d in done) - start,
        "honest_blamed": len(blamed - names),
        "named": len(blamed),
    }


def connections(folder: Path, many: int = 200, requests: int = 400) -> dict[str, Any]:
    """p99 of an honest reader and memory of the server, alone and beside ``many`` half-open and slow connections."""
    data = os.urandom(64 * 1024)
    (folder / "small").write_bytes(data)
    (port,) = free_ports(1)
    node = OurNode(folder / "c-0", f"127.0.0.1:{port}", folder / "small")
    try:
        node.tell("put")
        path = f"/v1/artifacts/{node.expect('put')['root']}/shards/0"
        calm = _latencies(port, path, requests)
        before = _rss(node.process.pid)
        lines = _attack(port, many)
        storm = _latencies(port, path, requests)
        after = _rss(node.process.pid)
        for line in lines:
            line.close()
    finally:
        node.stop()
        shutil.rmtree(folder / "c-0", ignore_errors=True)
    p99 = [statistics.quantiles(times, n=100)[98] for times in (calm, storm)]
    return {"p99_calm": p99[0], "p99_storm": p99[1], "ratio": p99[1] / p99[0], "memory_grown": after - before}


def _attack(port: int, many: int) -> list[socket.socket]:
    """From eight addresses: half a head, and a body that never comes."""
    lines = []
    for i in range(many):
        for text in (
            b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: ",
            b"POST /v1/gossip HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc",
        ):
            line = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + i % 8}", 0))
            line.sendall(text)
            lines.append(line)
    return lines


def _latencies(port: int, path: str, requests: int) -> list[float]:
    times = []
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(requests):
        start = time.perf_counter()
        line.request("GET", path)
        answer = line.getresponse()
        answer.read()
        times.append(time.perf_counter() - start)
        if answer.status != 200:
            raise RuntimeError(f"an honest reader got {answer.status}")
    line.close()
    return times


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def fuzz(cases: int) -> dict[str, int]:
    """Answers of 500 and more per route, out of ``cases`` requests each; the seed of a case is its number."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        root = store.put(os.urandom(merkle.SHARD // 64))
        domain = Domain(31337, bytes(20))
        keeper = Doorkeeper(domain, bytes(20), lambda who: True, LIMITS)
        inbox = Inbox(store, keeper, Rumours(domain, lambda who: True))
        unmetered = replace(LIMITS, reads_per_second=1e9, reads_burst=1e9)  # every case reaches its route
        with ArtifactServer(store, "127.0.0.1", 0, limits=unmetered, inbox=inbox) as server:
            for route in ROUTES:
                found[route] = _fuzz_route(server, route, cases, root)
    return found


def _fuzz_route(server: ArtifactServer, route: str, cases: int, root: bytes) -> int:
    line, bad = http.client.HTTPConnection(server.host, server.port, timeout=30), 0
    for seed in range(cases):
        method, path, headers = case(route, random.Random(seed), root)
        try:
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError):
            line.close()
            continue
        bad += answer.status >= 500
        if answer.will_close:
            line.close()
    line.close()
    return bad
