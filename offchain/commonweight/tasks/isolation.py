"""Checks in a child process with limits: what a work's bytes may do to native code ends there.

The child is this package's ``tasks.checker``. It holds no key, opens no socket, and asks its parent for artifacts. It
stays between checks, so that loading torch is paid once, and is replaced after a crash, a time-out or an excess of
memory. All of these are `Outcome.ERROR`: our own failure, never a verdict on the work.

A frame is one byte of sort, eight bytes of length, then the body. Bodies are canonical encodings (`core.codec`), so
that the parent trusts the child no more than it trusts a peer.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..core import codec
from ..core.codec import U8, U32, U64
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.verdict import Evidence, Outcome, Verdict
from .base import Fetch
from .evidence import write
from .lease import Lease

CHECK, JUDGE, PART, FETCH, BYTES, REFUSED, VERDICT = range(7)
HEAD = struct.Struct(">BQ")
MAX_FROM_CHILD = 1 << 16
PIPE = 4096
"""A pipe that select calls writable takes as much without blocking (PIPE_BUF)."""
HIDDEN = ("KEY", "SECRET", "TOKEN", "PASSWORD", "MNEMONIC")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one check may use: seconds by the clock (fetching does not count), bytes of address space."""

    seconds: float = 3600.0
    memory: int = 16 << 30


@dataclass(frozen=True, slots=True)
class Question:
    """A check or a judgement, without its large parts; ``record`` is evidence with an empty verdict."""

    record: Evidence
    tree: U8
    leaf: U32
    memory: U64


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the parent has no bytes: a `CommonweightError`."""

    code: str
    message: str


class Broken(Exception):
    """The child cannot go on; the text says why."""


class Checker:
    """Checks works in one child process, one at a time; the interface is that of `base.TaskKind`'s checks.

    ``cpu_seconds`` is what the child spent on the last check.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.cpu_seconds = 0.0
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def check(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        root: bytes,
        segments: Iterable[int],
        fetch: Fetch,
    ) -> Verdict:
        """`TaskKind.check`, isolated."""
        drawn = tuple(segments)
        return self._ask(CHECK, spec, data, base, lease, root, drawn, 0, 0, fetch)

    def judge_leaf(
        self,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        root: bytes,
        tree: int,
        leaf: int,
        fetch: Fetch,
    ) -> Verdict:
        """`TaskKind.judge_leaf`, isolated."""
        return self._ask(JUDGE, spec, data, base, lease, root, (), tree, leaf, fetch)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _ask(
        self,
        sort: int,
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        root: bytes,
        drawn: tuple[int, ...],
        tree: int,
        leaf: int,
        fetch: Fetch,
    ) -> Verdict:
        try:
            open_question = write(lease, spec.root, root, drawn, Verdict(Outcome.ERROR, ""))
            question = Question(open_question, tree, leaf, self._limits.memory)
            parts = [codec.encode(question), spec.encode(), data, base.encode()]
        except CommonweightError as error:
            return Verdict(Outcome.ERROR, str(error))
        with self._lock:
            try:
                return self._converse(sort, parts, fetch)
            except (Broken, OSError, EncodingError) as error:
                return Verdict(Outcome.ERROR, f"the checking process failed: {self._end(error)}")
            except BaseException:
                self._end()
                raise

    def _converse(self, sort: int, parts: list[bytes], fetch: Fetch) -> Verdict:
        child = self._running()
        clock = _Clock(self._limits.seconds)
        self._send(child, sort, parts[0], clock)
        for part in parts[1:]:
            self._send(child, PART, part, clock)
        while True:
            kind, body = self._receive(child, clock)
            if kind == VERDICT and len(body) > 8:
                self.cpu_seconds = int.from_bytes(body[:8], "big") / 1e6
                return Evidence.decode(body[8:]).verdict
            if kind != FETCH or len(body) != 40:
                raise Broken(f"it sent a frame of sort {kind} with {len(body)} bytes")
            with clock.paused():
                answer = _fetched(body[:32], int.from_bytes(body[32:], "big"), fetch)
            self._send(child, *answer, clock)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            safe = {k: v for k, v in os.environ.items() if not any(word in k.upper() for word in HIDDEN)}
            self._child = subprocess.Popen(
                [sys.executable, "-m", "commonweight.tasks.checker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=safe,
                start_new_session=True,
            )
        return self._child

    def _send(self, child: subprocess.Popen[bytes], sort: int, body: bytes, clock: _Clock) -> None:
        if child.stdin is None:
            raise AssertionError("the child has a standard input")
        for piece in (HEAD.pack(sort, len(body)), body):
            left = memoryview(piece)
            while left:
                _, ready, _ = select.select([], [child.stdin], [], clock.left())
                if not ready:
                    raise Broken(f"it took more than {self._limits.seconds:g} s")
                left = left[os.write(child.stdin.fileno(), left[:PIPE]) :]

    def _receive(self, child: subprocess.Popen[bytes], clock: _Clock) -> tuple[int, bytes]:
        sort, size = HEAD.unpack(self._read(child, HEAD.size, clock))
        if size > MAX_FROM_CHILD:
            raise Broken(f"it sent a frame of {size} bytes")
        return sort, self._read(child, size, clock)

    def _read(self, child: subprocess.Popen[bytes], size: int, clock: _Clock) -> bytes:
        if child.stdout is None:
            raise AssertionError("the child has a standard output")
        out = b""
        while len(out) < size:
            ready, _, _ = select.select([child.stdout], [], [], clock.left())
            if not ready:
                raise Broken(f"it took more than {self._limits.seconds:g} s")
            piece = os.read(child.stdout.fileno(), size - len(out))
            if not piece:
                raise Broken("it ended")
            out += piece
        return out

    def _end(self, error: BaseException | None = None) -> str:
        """End the child; how it ended, or ``error``."""
        child, self._child = self._child, None
        if child is None:
            return str(error)
        try:
            child.wait(timeout=1.0 if isinstance(error, Broken | OSError) else 0.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return str(error)
        finally:
            for pipe in (child.stdin, child.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    pass  # what was buffered for a dead child is lost with it
        status = child.returncode
        return f"it ended by signal {-status}" if status < 0 else f"it ended with status {status}"


class _Clock:
    """Seconds that a check may still take."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def left(self) -> float:
        """Not negative."""
        return max(0.0, self._deadline - time.monotonic())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not the child's."""
        start = time.monotonic()
        yield
        self._deadline += time.monotonic() - start


def _fetched(root: bytes, limit: int, fetch: Fetch) -> tuple[int, bytes]:
    """The frame that answers a child's wish."""
    try:
        return BYTES, fetch(root, limit)
    except CommonweightError as error:
        return REFUSED, codec.encode(Refusal(error.code, error.message[:1000]))


_shared = Checker()


def isolated() -> Checker:
    """This process's checker."""
    return _shared
