"""Starts, watches and disturbs a swarm of worker processes; tests read its structured metrics, never logs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORKER = Path(__file__).with_name("collectives_worker.py")
LIMIT_S = 60.0


def free_port() -> int:
    """A port that nobody listens on, below the range from which the system takes those of outgoing connections:
    one of that range may be gone before the worker that is told to use it has started."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Worker:
    """A member's process and everything it said."""

    def __init__(self, name: str, arguments: list[str], token: str) -> None:
        environment = {**os.environ, "SWARM_TOKEN": token, "OMP_NUM_THREADS": "1"}
        self.name = name
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait(self, until: Callable[[dict[str, Any]], bool], seconds: float = LIMIT_S) -> dict[str, Any]:
        """The first thing said that satisfies ``until``."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                found = next((e for e in self.said if until(e)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() not in (None, 0, -9) and not self._news.wait(0.5)):
                    told = [e for e in self.said if e["event"] != "contact_failed"]
                    raise AssertionError(f"{self.name} never got there: {told[-12:]} {self._errors()}")
                self._news.wait(min(left, 0.5))

    def _errors(self) -> str:
        if self.process.poll() is None or self.process.stderr is None:
            return ""
        return self.process.stderr.read().decode()[-2000:]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [e for e in list(self.said) if e["event"] == event]

    def round(self, number: int) -> dict[str, Any]:
        return self.wait(lambda e: e["event"] == "round" and e["number"] == number)

    def finish(self) -> None:
        self.wait(lambda e: e["event"] == "finished")
        assert self.process.wait(timeout=10) == 0, self._errors()


class Swarm:
    """Workers that meet at one founder; all end with the block."""

    def __init__(self, token: str = "t" * 32) -> None:
        self.port, self.token = free_port(), token
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait(timeout=10)
            for pipe in (worker.process.stdout, worker.process.stderr):
                if pipe is not None:
                    pipe.close()

    def spawn(self, name: str, *arguments: str, token: str = "") -> Worker:
        own = ["--founder", "--port", str(self.port)] if not self.workers else []
        worker = Worker(name, ["--contact", str(self.port), *own, *arguments], token or self.token)
        self.workers[name] = worker
        return worker

    def all(self, *names: str) -> list[Worker]:
        return [self.workers[name] for name in names]


class Proxy:
    """A link that can be slow or that changes a byte: stands before one member's listener.

    ``rate``: bytes per second and direction. ``flip``: change one byte of each of the first ``times`` connections
    that carry more than ``flip`` bytes towards the member.
    """

    def __init__(self, target: int, rate: float = 0.0, flip: int = 0, times: int = 1) -> None:
        self.target, self.rate, self.flip, self.times = target, rate, flip, times
        self.flipped = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with self._server:
            while True:
                try:
                    near, _ = self._server.accept()
                except OSError:
                    return
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        """Carry one connection both ways until either side ends it."""
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as far:
            back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
            back.start()
            self._pump(near, far, inward=True)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, inward: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                if inward and self.flip and passed <= self.flip < passed + len(data):
                    data = self._changed(data, self.flip - passed)
                passed += len(data)
                if self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _changed(self, data: bytes, at: int) -> bytes:
        with self._lock:
            if self.flipped >= self.times:
                return data
            self.flipped += 1
        return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]

    def close(self) -> None:
        with contextlib.suppress(OSError):  # wakes the accepting thread, which closes it
            self._server.shutdown(socket.SHUT_RDWR)


def expected_sum(names: list[str], number: int, count: int) -> np.ndarray:
    from tests.integration.collectives_worker import delta

    return np.sum([delta(name, number, count).astype(np.float64) for name in names], axis=0)
