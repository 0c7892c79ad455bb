"""Origin to 3 relays to 4 clients on this machine: ours, the published package, and a plain copy with our hashing.

The three are run one after the other, `repeats` times in turn, on the same file and in the same folder; a run ends
when the last client has verified the whole file. The folder is on a memory file system where there is room, so that
the disk's speed, which is the same for all, does not hide the difference.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonweight.core import merkle

HERE = Path(__file__).resolve().parent
RELAYS, CLIENTS = 3, 4
PATIENCE = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from the origin's start to the last verified copy, CPU seconds, largest memory of a node in bytes."""

    seconds: float
    cpu: float
    memory: int
    detail: dict[str, Any]


def make_file(path: Path, size: int, seed: int) -> None:
    """A file of ``size`` bytes that does not compress, the same for the same seed."""
    import numpy as np

    rng = np.random.default_rng(seed)
    with open(path, "wb") as out:
        for at in range(0, size, 1 << 24):
            out.write(rng.bytes(min(1 << 24, size - at)))


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class OurNode:
    """A node process that obeys commands."""

    def __init__(
        self, folder: Path, listen: str, file: Path | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        self.url = f"http://{listen}"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2] / "offchain")}
        command = [
            *prefix,
            sys.executable,
            str(HERE / "our_node.py"),
            str(folder),
            listen,
            *([str(file)] if file else []),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.expect("ready")

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def expect(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"event": "gone"}
        if found["event"] != event:
            raise RuntimeError(f"a node at {self.url} said {found} and not {event}")
        return found

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(30)


def run_ours(file: Path, folder: Path) -> Outcome:
    """Every relay and client asks everybody and serves what it has."""
    before, nodes = children_cpu(), []
    try:
        ports = free_ports(1 + RELAYS + CLIENTS)
        for i, port in enumerate(ports):
            nodes.append(OurNode(folder / f"ours-{i}", f"127.0.0.1:{port}", file if i == 0 else None))
        start = time.monotonic()
        nodes[0].tell("put")
        root = nodes[0].expect("put")["root"]
        for node in nodes[1:]:
            others = ",".join(other.url for other in nodes if other is not node)
            node.tell("fetch", root, others, PATIENCE)
        done = [node.expect("done") for node in nodes[1:]]
        seconds = max(d["at"] for d in done) - start
        memory = max(d["rss"] for d in done)
        origin = sum(d["by_source"].get(nodes[0].url, 0) for d in done)
        repeated = sum(d["repeated"] for d in done)
    finally:
        for node in nodes:
            node.stop()
        for path in folder.glob("ours-*"):
            shutil.rmtree(path)
    return Outcome(
        seconds,
        children_cpu() - before,
        memory,
        {"origin_copies": origin / file.stat().st_size, "repeated": repeated},
    )


class PeerNode:
    """A node of the published package; see `peer_node`."""

    def __init__(
        self, bench_python: Path, folder: Path, name: str, *args: object, prefix: tuple[str, ...] = ()
    ) -> None:
        # the package keeps scratch files beside itself, so two of its processes must not share one copy
        copy = folder / f"peer-package-{name}"
        package = next((bench_python.parent.parent / "lib").glob("python3*")) / "site-packages" / "shardcast"
        shutil.copytree(package, copy / "shardcast")
        env = {**os.environ, "PYTHONPATH": str(copy), "SHARDCAST_LOG_LEVEL": "ERROR"}
        command = [*prefix, str(bench_python), str(HERE / "peer_node.py"), *map(str, args)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        self.peak = 0
        self.expect("ready")
        threading.Thread(target=self._watch, daemon=True).start()

    def expect(self, event: str) -> float:
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if not words or words[0] != event:
            raise RuntimeError(f"a peer said {words} and not {event}")
        return float(words[-1])

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _watch(self) -> None:
        """Anonymous memory, since mapping a file for its checksum is not its fault."""
        while self.process.poll() is None:
            try:
                lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
                found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
                self.peak = max(self.peak, *found, 0)
            except (OSError, ValueError):
                return
            time.sleep(0.05)


def run_peer(file: Path, folder: Path, bench_python: Path) -> Outcome:
    """The package's own roles; relays look for news every second, clients start when all relays are ready.

    Clients that start earlier fail for good on the first file they miss (two of four did, see docs/shardcast.md).
    """
    before, nodes = children_cpu(), []
    ports = free_ports(1 + RELAYS)
    try:
        nodes.append(
            PeerNode(bench_python, folder, "origin", "origin", folder / "peer-origin", ports[0], file)
        )
        for i, port in enumerate(ports[1:]):
            where = folder / f"peer-relay-{i}"
            nodes.append(
                PeerNode(
                    bench_python, folder, f"r{i}", "middle", where, port, f"http://127.0.0.1:{ports[0]}", 1
                )
            )
        servers = ",".join(f"http://127.0.0.1:{port}" for port in ports[1:])
        for i in range(CLIENTS):
            nodes.append(
                PeerNode(
                    bench_python, folder, f"c{i}", "client", folder / f"peer-client-{i}", servers, "staged"
                )
            )
        nodes[0].go()
        start = nodes[0].expect("begun")
        relays = [node.expect("done") for node in nodes[1 : 1 + RELAYS]]
        for node in nodes[1 + RELAYS :]:
            node.go()
        done = [node.expect("done") for node in nodes[1 + RELAYS :]]
        memory = max(node.peak for node in nodes)
    finally:
        for node in nodes:
            node.stop()
        for path in folder.glob("peer-*"):
            shutil.rmtree(path)
    return Outcome(max(done) - start, children_cpu() - before, memory, {"relays_ready": max(relays) - start})


def run_copy(file: Path, folder: Path) -> Outcome:
    """The same eight copies and hashings without any protocol: one socket per hop, as many processes as cores."""
    before, start = children_cpu(), time.monotonic()
    lanes = os.cpu_count() or 1
    jobs = [list(range(1 + RELAYS + CLIENTS))[i::lanes] for i in range(lanes)]
    code = "from tests.benchmarks.shardcast.loopback import copy_hops; copy_hops()"
    root = HERE.parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'offchain'}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file), str(folder), *map(str, job)], env=env, cwd=root
        )
        for job in jobs
        if job
    ]
    if any(process.wait() for process in running):
        raise RuntimeError("a plain copy failed")
    seconds = time.monotonic() - start
    for path in folder.glob("copy-*"):
        path.unlink()
    return Outcome(seconds, children_cpu() - before, 0, {})


def copy_hops() -> None:
    """In a process of its own: for each number, send the file through a loopback socket, hash it and keep it."""
    file, folder, *numbers = sys.argv[1:]
    size = os.path.getsize(file)
    for number in numbers:
        with socket.create_server(("127.0.0.1", 0)) as server, open(file, "rb") as source:
            client = socket.create_connection(server.getsockname())
            line, _ = server.accept()
            threading.Thread(target=lambda line=line: line.sendfile(source), daemon=True).start()
            buffer = bytearray(merkle.SHARD)
            with open(f"{folder}/copy-{number}", "wb", buffering=0) as out:
                left = size
                while left:
                    view = memoryview(buffer)[: min(left, merkle.SHARD)]
                    got = 0
                    while got < len(view):
                        got += client.recv_into(view[got:])
                    merkle.shard_hash(view)
                    out.write(view)
                    left -= len(view)
            client.close()
            line.close()
