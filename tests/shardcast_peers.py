"""Peers that misbehave, each under its own name, for tests of fetching; and honest nodes as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from commonweight.core import merkle
from commonweight.shardcast.address import AddressPolicy
from commonweight.shardcast.limits import LIMITS, Limits
from commonweight.shardcast.manifest import Manifest

LOCAL = AddressPolicy(allow_private=True)
NODE = Path(__file__).resolve().parent / "benchmarks" / "shardcast" / "our_node.py"
Handler = Callable[[socket.socket, str], None]


def blob(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two shards are alike."""
    import numpy as np

    return np.random.default_rng(seed).bytes(size)


def quick(**changes: Any) -> Limits:
    """The limits of a node whose deadlines are short enough for a test."""
    values: dict[str, Any] = {
        "read_seconds": 1.0,
        "connect_seconds": 1.0,
        "manifest_seconds": 2.0,
        "shard_seconds": 3.0,
        "grace_seconds": 0.5,
        "hedge_seconds": 0.6,
        "fetch_seconds": 30.0,
        "poll_seconds": 0.3,
        "absent_seconds": 0.1,
    }
    from dataclasses import replace

    return replace(LIMITS, **{**values, **changes})


class Raw:
    """A server that speaks for itself: ``handler(connection, path)`` answers each request as it likes."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.paths: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            self._open.append(line)
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError):
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    piece = line.recv(65536)
                    if not piece:
                        return
                    pending += piece
                head, _, pending = pending.partition(b"\r\n\r\n")
                path = head.split(b" ")[1].decode()
                self.paths.append(path)
                self.handler(line, path)


def reply(line: socket.socket, body: bytes, status: str = "200 OK", **headers: str) -> None:
    """An ordinary answer; a header named ``content_length`` replaces the true one."""
    fields = {"content-length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
    line.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)


def honest(data: bytes, spoil: Callable[[socket.socket, int, bytes], bool] = lambda *_: False) -> Handler:
    """Answers as a node does that has all of ``data``; ``spoil(line, index, shard)`` may answer for it instead."""
    manifest = Manifest.of(data)
    count = len(manifest.shards)
    have = (1 << count) - 1

    def handle(line: socket.socket, path: str) -> None:
        parts = path.split("/")
        if len(parts) == 4:
            reply(line, manifest.encode())
        elif parts[4] == "have":
            if parts[5] == str(count):
                time.sleep(0.2)
            reply(line, have.to_bytes(-(-count // 8), "little"))
        else:
            index = int(parts[5].split(",")[0])
            shard = data[index * merkle.SHARD : (index + 1) * merkle.SHARD]
            if not spoil(line, index, shard):
                reply(line, shard, shard=str(index), have=f"{have:x}")

    return handle


class Node:
    """An honest node in a process of its own."""

    def __init__(self, folder: Path, port: int = 0, file: Path | None = None) -> None:
        self.folder = folder
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(NODE), str(folder), f"127.0.0.1:{port}", *([str(file)] if file else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.url = self.expect("ready")["url"]

    def tell(self, *words: object) -> None:
        """One command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def expect(self, event: str) -> dict[str, Any]:
        """The next event, which must be this one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"event": "gone"}
        assert found["event"] == event, found
        return found

    def kill(self) -> None:
        """As the system does when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> None:
        """End it politely."""
        if self.process.poll() is None:
            self.process.communicate(timeout=30)


@contextlib.contextmanager
def nodes(*folders: Path, **options: Any) -> Iterator[list[Node]]:
    """Nodes that end with the block."""
    running: list[Node] = []
    try:
        running.extend(Node(folder, **options) for folder in folders)
        yield running
    finally:
        for node in running:
            node.kill()
