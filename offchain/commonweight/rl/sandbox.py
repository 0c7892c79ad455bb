"""Environments of other people's making, each in a process of its own with limits.

The process has no secrets (an empty environment), little memory and time, may write no files and open no
sockets or processes; what it says is read as bounded JSON. This keeps honest mistakes and common malice away; who runs
code of publishers they do not know at all should run the node as a user of its own besides.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import CommonweightError
from .environments import MAX_TEXT, Task

MAX_CODE = 1 << 20
CALL_SECONDS = 5.0
CPU_SECONDS = 3600
MEMORY = 1 << 30
MAX_LINE = 8 * MAX_TEXT

# Runs in the child before any foreign code. Audit hooks cannot be taken out again by Python code.
_CHILD = r"""
import json, sys
def guard(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system",
                         "os.kill", "ctypes.", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod",
                         "os.chown", "os.link", "os.symlink", "os.truncate", "shutil.", "ftplib.", "urllib.")):
        raise PermissionError(event + " is not for environments")
    if event == "open" and args[1] is not None and set(str(args[1])) & set("wax+"):
        raise PermissionError("environments write no files")
    if event == "import" and args[0] in ("ctypes", "_ctypes", "socket", "_socket", "subprocess", "multiprocessing"):
        raise PermissionError(args[0] + " is not for environments")
code = json.loads(sys.stdin.readline())
out, sys.stdout = sys.stdout, sys.stderr
sys.addaudithook(guard)
space = {"__name__": "environment"}
def answer(value):
    out.write(json.dumps(value) + "\n"); out.flush()
try:
    exec(compile(code, "environment.py", "exec"), space)
    one = space["Environment"]()
    answer({"ok": {"name": str(one.name), "turns": hasattr(one, "reply")}})
except BaseException as error:
    answer({"error": f"{type(error).__name__}: {error}"[:300]})
    sys.exit(0)
for line in sys.stdin:
    ask = json.loads(line)
    try:
        if ask["call"] == "task":
            prompt, right = one.task(bytes.fromhex(ask["seed"]))
            answer({"ok": [str(prompt), str(right)]})
        elif ask["call"] == "score":
            answer({"ok": float(one.score(ask["prompt"], ask["answer"], ask["turns"]))})
        else:
            said = one.reply(ask["prompt"], ask["answer"], ask["turns"])
            answer({"ok": None if said is None else str(said)})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"[:300]})
"""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in the process, and what it may use: bytes of memory, open files, seconds to load."""

    command: tuple[str, ...]
    memory: int = MEMORY
    files: int = 32
    load_seconds: float = CALL_SECONDS


OWN = Program(("-I", "-S", "-c", _CHILD))
"""Runs an environment's source text, which is what it is told first."""


class Sandbox:
    """One foreign environment; thread-safe, restarted when it dies."""

    def __init__(self, code: str, program: Program = OWN) -> None:
        self._code = code
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end, self._started)
        self._buffer = b""
        with self._lock:
            hello = self._start()
        self._name, self._turns = str(hello["name"])[:64], bool(hello["turns"])

    @property
    def name(self) -> str:
        """The environment's own name."""
        return self._name

    def task(self, seed: bytes) -> Task:
        """Raises E1010 when the environment has no task for this seed."""
        found = self._ask({"call": "task", "seed": seed.hex()})
        if not (isinstance(found, list) and len(found) == 2 and max(map(len, found)) <= MAX_TEXT):
            raise CommonweightError("E1010", f"environment {self.name} gave no task")
        return Task(*found)

    def score(self, task: Task, turns: Sequence[str]) -> float:
        """An exception of the environment is worth nothing: it is the same for everybody."""
        ask = {"call": "score", "prompt": task.prompt, "answer": task.answer, "turns": list(turns)}
        value = self._ask(ask, default=0.0)
        return float(value) if isinstance(value, int | float) else 0.0

    def reply(self, task: Task, turns: Sequence[str]) -> str | None:
        """None for environments without `reply`."""
        if not self._turns:
            return None
        ask = {"call": "reply", "prompt": task.prompt, "answer": task.answer, "turns": list(turns)}
        said = self._ask(ask, default=None)
        return None if said is None else str(said)[:MAX_TEXT]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _ask(self, question: dict[str, Any], **default: Any) -> Any:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            answer = self._exchange(question)
        if "error" in answer:
            if "default" in default:
                return default["default"]
            raise CommonweightError("E1010", f"environment {self._name} failed: {answer['error']}")
        return answer["ok"]

    def _start(self) -> dict[str, Any]:
        self._stop()
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, *self._program.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},
            preexec_fn=partial(_limit, self._program),  # noqa: PLW1509
        )
        self._started[:] = [self._process]
        hello = self._exchange(self._code, self._program.load_seconds)
        if "error" in hello:
            raise CommonweightError(
                "E1010", f"the environment does not load: {hello['error']}", "see docs/rl.md for an example"
            )
        loaded: dict[str, Any] = hello["ok"]
        return loaded

    def _stop(self) -> None:
        _end(self._started)
        self._process = None

    def _exchange(self, question: Any, seconds: float | None = None) -> dict[str, Any]:
        """One line there, one line back, within ``seconds``, `CALL_SECONDS` if None."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(seconds or CALL_SECONDS))
        except (OSError, ValueError) as error:
            self._stop()
            raise CommonweightError("E1010", f"the environment's process is gone: {error}") from error
        if not isinstance(answer, dict) or not set(answer) <= {"ok", "error"} or len(answer) != 1:
            self._stop()
            raise CommonweightError("E1010", "the environment's process does not answer as agreed")
        return answer

    def _line(self, seconds: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout, time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise OSError(f"no answer within {seconds:g} s")
                piece = os.read(pipe.fileno(), 65_536)
                if not piece:
                    raise OSError("it ended")
                self._buffer += piece
                if len(self._buffer) > MAX_LINE:
                    raise OSError(f"an answer of more than {MAX_LINE} bytes")
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill and reap; also when a sandbox is forgotten."""
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _limit(program: Program) -> None:
    """In the child: memory, CPU time, no files, few descriptors."""
    resource.setrlimit(resource.RLIMIT_AS, (program.memory, program.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (program.files, program.files))


def sandboxed(code: str) -> Sandbox:
    """A publisher's own environment. Raises E1010."""
    if len(code) > MAX_CODE:
        raise CommonweightError("E1010", f"an environment's code has at most {MAX_CODE} characters")
    return Sandbox(code)


def read_code(path: Path) -> str:
    """An environment's source file. Raises E1006."""
    try:
        with path.open(encoding="utf-8") as file:
            code = file.read(MAX_CODE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise CommonweightError("E1006", f"cannot read the environment {path}: {error}") from error
    if len(code) > MAX_CODE:
        raise CommonweightError("E1006", f"{path} is longer than {MAX_CODE} characters")
    return code
