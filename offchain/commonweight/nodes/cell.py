"""The machines of one trainer: assistants as child processes of it, or on other machines that its operator started.

An assistant has no key, no chain and no stake: it computes what its leader's job says. Children end with their
parent: their standard input closes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..collectives.cell import MOST_ASSISTANTS, Assistant, Cell
from ..collectives.listener import Metric
from ..collectives.wire import Credentials
from ..core.errors import CommonweightError

START_S = 60.0


@dataclass(frozen=True, slots=True)
class CellPlan:
    """An operator's choice: ``size`` processes here, the trainer included; assistants at ``peers``; their token."""

    size: int = 1
    peers: tuple[tuple[str, int], ...] = ()
    token: Path | None = None
    attack: str = "none"

    @property
    def alone(self) -> bool:
        """Whether there is no cell at all."""
        return self.size == 1 and not self.peers


ALONE = CellPlan()


@contextmanager
def open_cell(plan: CellPlan, home: Path, name: str, metric: Metric) -> Iterator[Cell | None]:
    """The cell of a trainer, its child processes started; all of it ends with the block. Raises E1525, E1526."""
    if plan.alone:
        yield None
        return
    if plan.size - 1 + len(plan.peers) > MOST_ASSISTANTS:
        raise CommonweightError("E1525", f"a cell has at most {MOST_ASSISTANTS + 1} machines", "take fewer")
    file = plan.token or home / "cell.token"
    token = read_token(file, make=not plan.peers)
    children: list[subprocess.Popen[str]] = []
    try:
        for _ in range(plan.size - 1):
            children.append(_spawn(file, plan.attack))
        here = tuple(("127.0.0.1", _port(child)) for child in children)
        cell = Cell(Credentials(name, token), (*here, *plan.peers), metric)
        metric("cell", machines=cell.size)
        try:
            yield cell
        finally:
            cell.close()
    finally:
        for child in children:
            _end(child)


def assist(listen: tuple[str, int], file: Path, attack: str, until: Callable[[], None]) -> None:
    """Be an assistant until ``until`` returns. Raises E1501 for a port in use, E1904 for an unknown attack."""
    from ..tasks.kind_pretrain import KIND

    if attack not in KIND.assistants:
        raise CommonweightError(
            "E1904", f"unknown attack `{attack}`", f"one of: {', '.join(KIND.assistants)}"
        )
    credentials = Credentials("assistant", read_token(file, make=True))
    assistant = Assistant(credentials, listen, KIND.assistants[attack], _say)
    assistant.start()
    host, port = assistant.address
    print(f"assists at {host}:{port}", flush=True)
    try:
        until()
    finally:
        assistant.close()


def until_stopped(with_parent: bool) -> Callable[[], None]:
    """Waits for SIGINT or SIGTERM; ``with_parent``: for the end of standard input, which a parent holds open."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())

    def watch() -> None:
        sys.stdin.read()
        over.set()

    if with_parent:
        threading.Thread(target=watch, daemon=True).start()
    return lambda: _wait(over)


def _wait(over: threading.Event) -> None:
    while not over.wait(timeout=3600):
        pass


def read_token(file: Path, make: bool) -> bytes:
    """The cell's secret, 64 hexadecimal digits in a file that only its owner reads; made if it may be. E1526."""
    if make:
        with contextlib.suppress(FileExistsError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
                out.write(secrets.token_hex(32) + "\n")
    try:
        token = bytes.fromhex(file.read_text().strip())
    except (OSError, ValueError) as error:
        raise CommonweightError(
            "E1526",
            f"{file} holds no cell token: {error}",
            "copy the file that `commonweight trainer assist --token FILE` made",
        ) from error
    if len(token) != 32:
        raise CommonweightError("E1526", f"{file} holds {len(token)} bytes of token, not 32", "copy it whole")
    return token


def _say(event: str, **fields: object) -> None:
    print(" ".join([event, *(f"{k}={v}" for k, v in fields.items())]), file=sys.stderr, flush=True)


def _spawn(token: Path, attack: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "commonweight", "trainer", "assist", "--listen", "127.0.0.1:0"]
    command += ["--token", str(token), "--with-parent", "--attack", attack]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _port(child: subprocess.Popen[str]) -> int:
    """Where a child listens, as it says in its first line. Raises E1527."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert child.stdout is not None
    threading.Thread(target=lambda out=child.stdout: said.put(out.readline()), daemon=True).start()
    try:
        line = said.get(timeout=START_S)
        return int(line.rsplit(":", 1)[1])
    except (queue.Empty, IndexError, ValueError) as error:
        raise CommonweightError(
            "E1527", "an assistant of this cell did not start", "see its messages above"
        ) from error


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(timeout=5)
    child.stdout.close()
