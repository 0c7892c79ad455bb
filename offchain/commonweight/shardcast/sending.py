"""How shards leave: few at a time, from the file to the socket inside the kernel, with a clock on every piece.

Measured on loopback, 1 GiB, one reader, CPU seconds of the server: see docs/shardcast.md. FastAPI routes the request
and uvicorn keeps the connection; only the bytes of the body go past both, through `asyncio`'s ``sendfile``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11
from fastapi import Response

from .limits import Limits
from .store import Loan

SENDFILE = "commonweight.sendfile"
"""Key of the connection (an `edge.Bounded`) in a scope's extensions."""


class LoanResponse(Response):
    """Sends a lent shard and closes its file, whatever happens; calls ``done`` when the reader has it."""

    def __init__(
        self, loan: Loan, limits: Limits, headers: dict[str, str], done: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(headers=headers, media_type="application/octet-stream")
        self.headers["content-length"] = str(loan.size)
        self._loan, self._limits, self._done = loan, limits, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI call."""
        loan = self._loan
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            line = scope.get("extensions", {}).get(SENDFILE)
            if line is None:
                await self._copy(send)
            else:
                await self._sendfile(line)
                await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(loan.handle)
            self._done()

    async def _sendfile(self, line: Any) -> None:
        loan, loop = self._loan, asyncio.get_running_loop()
        if line.conn.our_state is not h11.SEND_BODY:  # it went away before the answer began
            line.abort()
            return
        line.conn.send_with_data_passthrough(h11.Data(data=_Sized(loan.size)))  # type: ignore[arg-type]
        with open(loan.handle, "rb", closefd=False) as file:
            for at in range(0, loan.size, self._limits.chunk_bytes):
                count = min(self._limits.chunk_bytes, loan.size - at)
                try:
                    async with asyncio.timeout(self._limits.stall_seconds):
                        sent = await loop.sendfile(line.transport, file, loan.offset + at, count)
                except (TimeoutError, OSError, RuntimeError):  # it takes nothing, or has gone
                    sent = 0
                if sent != count:
                    line.abort()
                    return

    async def _copy(self, send: Any) -> None:
        """Under another server than ours, such as a test client."""
        loan = self._loan
        for at in range(0, loan.size, self._limits.chunk_bytes):
            piece = os.pread(loan.handle, min(self._limits.chunk_bytes, loan.size - at), loan.offset + at)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Sized:
    """Stands for bytes that h11 counts but never sees."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class Slots:
    """A few shards at full speed rather than many slowly, so that each can be passed on sooner.

    Nobody can hold up the others with it: a slot is kept for `Limits.slot_seconds` at most and waited for
    `Limits.queue_seconds` at most, and who insists on one shard is served without.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = asyncio.Semaphore(limits.upload_slots)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Slot]:
        """Wait for a slot, or long enough (`Slot.free` tells); it is given back at the end, unless it is kept."""
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._free.acquire()
            slot = Slot(self._free, self._limits.slot_seconds)
        except TimeoutError:
            slot = Slot(None, 0.0)
        try:
            yield slot
        finally:
            if not slot.kept:
                slot.give_back()


class Slot:
    """A place among those being sent to."""

    def __init__(self, free: asyncio.Semaphore | None, seconds: float) -> None:
        self.kept, self.free = False, free is not None
        self._free = free
        self._timer = asyncio.get_running_loop().call_later(seconds, self.give_back) if free else None

    def keep(self) -> Callable[[], None]:
        """Hold it beyond the `Slots.turn`; call what is returned when the shard is sent."""
        self.kept = True
        return self.give_back

    def give_back(self) -> None:
        """Let the next one send. Harmless when repeated."""
        if self._free is not None:
            self._free.release()
            self._free = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
