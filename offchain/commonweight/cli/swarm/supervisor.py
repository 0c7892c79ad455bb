"""Starts members as processes, kills them, and folds their logs into what is known about the swarm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import STOP, LocalSwarm

MAX_LINE = 1 << 16


@dataclass(slots=True)
class Known:
    """What a member's log has said so far."""

    state: str = "starting"
    round: int = -1
    loss: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    anchors: list[dict[str, Any]] = field(default_factory=list)
    recovered: dict[str, Any] | None = None
    sent: int = 0
    root: str = ""
    model: str = ""
    members: tuple[str, ...] = ()
    last_at: float = 0.0


class Supervisor:
    """Owns the processes of a run; every one of them is dead when `close` returns."""

    def __init__(self, folder: Path, swarm: LocalSwarm) -> None:
        self.folder, self.swarm = folder, swarm
        swarm.save(folder)
        self.known: dict[str, Known] = {name: Known("not started") for name, _ in swarm.members}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._offsets: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start a member, or start it again."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (self.folder / f"{name}.err").open("ab") as errors:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "commonweight", "swarm-member", str(self.folder), name],
                stdout=errors,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self.known.setdefault(name, Known()).state = "starting"

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()
        self.known[name].state = "killed"

    def stop(self, name: str) -> None:
        """Freeze a member: it hangs, its connections stay open."""
        self.processes[name].send_signal(signal.SIGSTOP)
        self.known[name].state = "hangs"

    def resume(self, name: str) -> None:
        """Wake a frozen member."""
        self.processes[name].send_signal(signal.SIGCONT)
        self.known[name].state = "training"

    def finish(self) -> None:
        """Ask an open-ended swarm to end after its current round."""
        (self.folder / STOP).touch()

    @property
    def alive(self) -> list[str]:
        """Members whose process runs."""
        return [name for name, process in self.processes.items() if process.poll() is None]

    def poll(self) -> list[tuple[str, dict[str, Any]]]:
        """New events of all logs, oldest first, folded into `known`."""
        fresh = []
        for name in self.known:
            fresh += [(name, event) for event in self._read(name)]
        fresh.sort(key=lambda item: item[1]["at"])
        for name, event in fresh:
            _fold(self.known[name], event)
        for name, process in self.processes.items():
            if process.poll() not in (None, 0) and self.known[name].state not in ("killed", "failed"):
                self.known[name].state = "failed"
                fresh.append((name, {"at": time.time(), "event": "failed", "reason": self._last_words(name)}))
        return fresh

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offsets.get(name, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[name] = self._offsets.get(name, 0) + len(whole)
        return [json.loads(line) for line in whole.splitlines() if len(line) < MAX_LINE]

    def _last_words(self, name: str) -> str:
        lines = (
            (self.folder / f"{name}.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        )
        return lines[-1] if lines else "no message"

    def close(self) -> None:
        """End every process."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
        for process in self.processes.values():
            process.wait()


def _fold(known: Known, event: dict[str, Any]) -> None:
    kind = event["event"]
    known.last_at = event["at"]
    if kind == "started":
        known.state = "joining"
    elif kind == "round":
        if known.state != "killed":  # what it wrote before may be read after
            known.state = "training"
        known.round, known.loss = event["round"], event["loss"]
        known.losses.append((event["round"], event["loss"]))
        known.members, known.root = tuple(event["members"]), event["root"]
    elif kind == "anchor":
        known.anchors.append(event)
        known.sent += event["sent"]
    elif kind == "mixed":
        known.sent += event["sent"]
    elif kind == "adopted":
        known.recovered = event
    elif kind == "finished":
        known.state, known.model, known.loss = "finished", event["model"], event["loss"]
