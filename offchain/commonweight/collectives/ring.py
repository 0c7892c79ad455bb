"""Ring all-reduce over two sockets: chunks cut into tiles that flow through all steps without waiting for each other.

The algorithm is the bandwidth-optimal ring (Patarasuk and Yuan 2009): in ``n - 1`` steps each chunk gathers every
member's values, in ``n - 1`` more it travels to everybody. Each tile is encoded on its own; the bytes of a finished
tile are forwarded unchanged and its owner also takes their decode, so all members hold the same bits. The input is
never written to: when a member fails, the survivors run again from their inputs.

Sockets are non-blocking and one thread serves both, because on loopback the copying processor time is the limit.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.errors import EncodingError
from .codecs import Codec, codec
from .seals import HEADER, Seal

Values = npt.NDArray[np.float32] | npt.NDArray[np.int32]
QUEUED = 4 << 20  # bytes to keep ready for the right neighbour
TURN = 1 << 20  # bytes after which the other direction gets its turn, or one side would starve the other
GATHER = 16  # buffers handed to the kernel at once


@dataclass(frozen=True, slots=True)
class Plan:
    """Which values belong to which tile: ``size`` members, this one ``rank``, ``count`` values, ``tile`` per tile."""

    rank: int
    size: int
    count: int
    tile: int

    def chunk(self, index: int) -> tuple[int, int]:
        """Bounds of a chunk; chunks differ by at most 64 values, in whole blocks of 64."""
        blocks = -(-self.count // 64)
        at = [min(blocks * i // self.size * 64, self.count) for i in (index, index + 1)]
        return at[0], at[1]

    def tiles(self, step: int, own: bool) -> Iterator[tuple[int, int]]:
        """Bounds of the tiles that this member sends (``own``) or receives in a step, in order."""
        low, high = self.chunk((self.rank - step - (0 if own else 1)) % self.size)
        for at in range(low, high, self.tile):
            yield at, min(at + self.tile, high)

    @property
    def steps(self) -> int:
        """Steps of both halves."""
        return 2 * (self.size - 1)

    def incoming(self) -> Iterator[tuple[int, int, int]]:
        """(step, low, high) of every tile to receive, in order."""
        for step in range(self.steps):
            for low, high in self.tiles(step, own=False):
                yield step, low, high


def default_tile(count: int, size: int, name: str) -> int:
    """Values per tile: small enough for the cache and for pipelining, large enough to spread the fixed cost."""
    most = 1 << 17 if name == "none" else 1 << 16
    quarter = count // max(size, 1) // 4
    return max(min(most, quarter // 1024 * 1024), 4096)


def _bytes(values: Values) -> memoryview:
    return memoryview(values).cast("B")  # type: ignore[arg-type]  # arrays are buffers, whatever their stubs say


class Broken(Exception):
    """The ring cannot be completed. ``side`` is 'left', 'right', 'abort' or 'deadline'."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side
        self.reason = reason


class Ring:
    """One all-reduce. Reads ``values``, writes ``out`` (same shape and dtype); float32, or int32 with codec none."""

    def __init__(self, plan: Plan, through: Codec, values: Values, out: Values, seal: Seal) -> None:
        self.plan, self.through, self.values, self.out, self.seal = plan, through, values, out, seal
        self.raw = through.name == "none"
        self.received = 0  # tiles
        self.sent_bytes = 0
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._later: deque[memoryview] = deque()
        self._first = plan.tiles(0, own=True)
        self._first_done = False
        self._sending = 0
        self._expected = plan.incoming()
        self._now: tuple[int, int, int] | None = None
        widest = min(plan.tile, plan.count) or 1
        self._scratch: Values = np.empty_like(values, shape=(widest,))
        self._wire = bytearray(max(through.size(widest), 1))
        self._header = bytearray(HEADER)
        self._target: memoryview = memoryview(b"")
        self._filled = 0
        self._next_tile()

    # What arrives

    def _next_tile(self) -> None:
        self._now = next(self._expected, None)
        self._filled = 0
        if self._now is None:
            return
        step, low, high = self._now
        if not self.raw:
            self._target = memoryview(self._wire)[: self.through.size(high - low)]
        elif step < self.plan.size - 1:
            self._target = _bytes(self._scratch[: high - low])
        else:
            self._target = _bytes(self.out[low:high])

    @property
    def expects(self) -> bool:
        """Whether tiles are still to come."""
        return self._now is not None

    def receive(self, left: socket.socket) -> None:
        """Take some of what the left neighbour has sent. Raises `Broken`, `EncodingError`."""
        taken = 0
        while self._now is not None and taken < TURN:
            into = memoryview(self._header) if self._filled < HEADER else self._target
            at = self._filled if self._filled < HEADER else self._filled - HEADER
            try:
                got = left.recv_into(into[at:])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Broken("left", f"receiving failed: {error}") from error
            if not got:
                raise Broken("left", "the connection was closed")
            self._filled += got
            taken += got
            if self._filled == HEADER + len(self._target):
                self._take(*self._now)

    def _take(self, step: int, low: int, high: int) -> None:
        """Use a complete tile, and queue what becomes of it."""
        self.seal.open(self.received, self._header, self._target)
        last = self.plan.size - 2
        payload: memoryview
        if step > last:
            payload = self._keep(low, high)
        else:
            part = self._added(low, high)
            if step < last:
                payload = self._wired(part)
            else:
                payload = self._finish(part, low, high)
        self.received += 1
        if step < self.plan.steps - 1:
            self._push(payload)
        self._next_tile()

    def _added(self, low: int, high: int) -> Values:
        mine = self.values[low:high]
        if self.raw:
            np.add(self._scratch[: high - low], mine, out=self.out[low:high])
            return self.out[low:high]
        part = self.through.decode(self._target, high - low)
        part += mine
        return part

    def _wired(self, part: Values) -> memoryview:
        return _bytes(part) if self.raw else memoryview(self.through.encode(part))  # type: ignore[arg-type]

    def _finish(self, part: Values, low: int, high: int) -> memoryview:
        """A sum is complete: everybody, its owner included, takes the decode of its bytes."""
        if self.raw:
            self._require_finite(part)
            return _bytes(part)
        payload = self._wired(part)
        self.out[low:high] = self.through.decode(payload, high - low)
        return payload

    def _keep(self, low: int, high: int) -> memoryview:
        """A finished tile from its owner."""
        if self.raw:
            self._require_finite(self.out[low:high])
            return self._target
        self.out[low:high] = self.through.decode(self._target, high - low)
        return memoryview(bytes(self._target))

    def _require_finite(self, part: Values) -> None:
        if part.dtype == np.float32 and not np.isfinite(part).all():
            raise EncodingError("the sum of all members' values is not finite")

    # What leaves

    def _push(self, payload: memoryview) -> None:
        if not self._first_done:
            self._later.append(payload)
        else:
            self._enqueue(payload)

    def _enqueue(self, payload: memoryview) -> None:
        header = self.seal.close(self._sending, payload)
        self._sending += 1
        self._queue.append(memoryview(header))
        self._queue.append(payload)
        self._queued += len(header) + len(payload)

    def refill(self) -> bool:
        """Encode own tiles until enough is queued; True while something waits to be sent."""
        while not self._first_done and self._queued < QUEUED:
            bounds = next(self._first, None)
            if bounds is None:
                self._first_done = True
                while self._later:
                    self._enqueue(self._later.popleft())
                break
            part = self.values[bounds[0] : bounds[1]]
            self._enqueue(self._wired(part))
        return bool(self._queue)

    def send(self, right: socket.socket) -> None:
        """Hand the right neighbour's kernel buffer some of what fits. Raises `Broken`."""
        given = 0
        while given < TURN and self.refill():
            try:
                sent = right.sendmsg([self._queue[i] for i in range(min(GATHER, len(self._queue)))])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Broken("right", f"sending failed: {error}") from error
            self._queued -= sent
            self.sent_bytes += sent
            given += sent
            while sent:
                head = self._queue[0]
                if sent < len(head):
                    self._queue[0] = head[sent:]
                    return
                sent -= len(head)
                self._queue.popleft()


def run(
    ring: Ring,
    left: socket.socket,
    right: socket.socket,
    remaining: Callable[[], float],
    abort: socket.socket | None = None,
) -> None:
    """Drive a ring to its end. ``remaining`` gives the seconds left; ``abort`` becoming readable stops at once.

    Raises `Broken` and `EncodingError`.
    """
    with selectors.DefaultSelector() as selector:
        if abort is not None:
            selector.register(abort, selectors.EVENT_READ, "abort")
        selector.register(left, selectors.EVENT_READ, "left")
        selector.register(right, selectors.EVENT_WRITE, "right")
        writing, reading = True, True
        while True:
            waiting = ring.refill()
            if not ring.expects and not waiting:
                return
            if waiting != writing:
                writing = waiting
                if waiting:
                    selector.register(right, selectors.EVENT_WRITE, "right")
                else:
                    selector.unregister(right)
            if reading and not ring.expects:
                reading = False
                selector.unregister(left)
            seconds = remaining()
            ready = selector.select(seconds) if seconds > 0 else []
            if not ready:
                raise Broken("deadline", "nothing moved before the deadline")
            for key, _ in ready:
                if key.data == "abort":
                    raise Broken("abort", "told to stop")
                if key.data == "left":
                    ring.receive(left)
                else:
                    ring.send(right)


def all_reduce_alone(values: Values, through: Codec) -> Values:
    """What a ring of one member gives: the values, as they would have been sent."""
    if through.name == codec("none").name:
        return values.copy()
    return through.decode(through.encode(values), values.size)  # type: ignore[arg-type]
