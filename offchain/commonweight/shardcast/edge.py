"""The edge of the HTTP service: deadlines, counts of connections, no bodies. uvicorn has none of them.

A connection is *waiting* (for a whole request) or *answering*. Waiting ones have a deadline of seconds and
give way: when an address, or the server, has its fill, the one that has waited longest is closed in favour
of the new one, so that half-open connections can only crowd out each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .access import Buckets
from .limits import Limits
from .sending import SENDFILE

# Strangers must not be able to fill an operator's log: our own faults are written, malformed requests not.
_quiet = logging.getLogger("commonweight.shardcast.http")
_quiet.setLevel(logging.ERROR)


class Crowd:
    """The open connections of one server, in order of arrival. Used from its event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._members: dict[Bounded, str] = {}

    def __len__(self) -> int:
        return len(self._members)

    def admit(self, newcomer: Bounded, host: str) -> bool:
        """Take a connection in, if need be at the cost of the longest waiting one; False when none waits."""
        same = [member for member, where in self._members.items() if where == host]
        rivals: list[Bounded] | None = None
        if len(same) >= self.limits.connections_per_ip:
            rivals = same
        elif len(self._members) >= self.limits.connections:
            rivals = list(self._members)
        if rivals is not None:
            victim = min((r for r in rivals if r.waiting), key=lambda r: r.since, default=None)
            if victim is None:
                return False
            victim.abort()
        self._members[newcomer] = host
        return True

    def leave(self, member: Bounded) -> None:
        """Give a place back."""
        self._members.pop(member, None)

    def abort(self) -> None:
        """Close every connection now."""
        for member in list(self._members):
            member.abort()


class Bounded(H11Protocol):
    """One connection with two clocks: its phase's deadline, and how long a full send buffer may stand still."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _quiet
        self.crowd, self.limits = crowd, crowd.limits
        self.timeout_keep_alive: float = self.limits.idle_seconds  # type: ignore[assignment]
        self.waiting = True
        self.since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Admit the connection or close it at once; from here on its first request is due."""
        super().connection_made(transport)
        self.since = self.loop.time()
        _keep_unsent_small(transport, self.limits.unsent_bytes)
        host = str((transport.get_extra_info("peername") or ("?",))[0])
        if self.crowd.admit(self, host):
            self._due(self.limits.header_seconds)
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back and stop the clocks."""
        self.crowd.leave(self)
        self._due(None)
        self._may_stall(None)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it running after an abort

    def data_received(self, data: bytes) -> None:
        """The first byte of a further request starts its clock; later bytes do not wind it up again."""
        if self.waiting and self._deadline is None:
            self._due(self.limits.header_seconds)
        super().data_received(data)

    def handle_events(self) -> None:
        """Notice when a request is complete: then the answer has its own deadline."""
        before = self.cycle
        super().handle_events()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if cycle is not before:
            cycle.scope["extensions"] = {SENDFILE: self}  # type: ignore[dict-item]
            self.waiting = cycle.more_body
            self._due(self._body_seconds(cycle.scope) if self.waiting else self.limits.response_seconds)
        elif self.waiting and not cycle.more_body:
            self.waiting = False
            self._due(self.limits.response_seconds)

    def _body_seconds(self, scope: Any) -> float:
        """Time for a whole body at the least acceptable rate; the gate refuses one without a length."""
        length = body_length(scope)
        return self.limits.header_seconds + max(length, 0) / self.limits.body_rate

    def on_response_complete(self) -> None:
        """Wait for the next request; what is still in the send buffer keeps the answer's deadline."""
        self.waiting, self.since = True, self.loop.time()
        if not self.transport.get_write_buffer_size():
            self._due(None)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The reader does not keep up: it has to take something before the clock runs out."""
        super().pause_writing()
        self._may_stall(self.limits.stall_seconds)

    def resume_writing(self) -> None:
        """It did."""
        super().resume_writing()
        self._may_stall(None)

    def abort(self) -> None:
        """Close now, whatever is unsent: closing politely would wait for a reader that takes nothing."""
        self.crowd.leave(self)
        self.transport.abort()

    def _due(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.abort)

    def _may_stall(self, seconds: float | None) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall = None if seconds is None else self.loop.call_later(seconds, self.abort)


def _keep_unsent_small(transport: Any, size: int) -> None:
    """Otherwise a whole shard fits into the kernel's buffer, and a slot would be free before anything was sent."""
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


class Gate:
    """ASGI wrapper: what is not a harmless request is answered, and its connection ended, before anything is read.

    Only GET, without a body; where others may write, also signed POST and PUT with a body of known length. What needs
    no signature is metered per address of the network, what does per identity (see `access`).
    """

    def __init__(self, app: Any, largest: int, limits: Limits) -> None:
        """``largest``: bytes of a body; 0 where nobody may write."""
        self._app, self._largest = app, largest
        self._reads = Buckets(limits.reads_per_second, limits.reads_burst)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a harmless request on."""
        if scope["type"] != "http" or (refusal := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
            return
        allow = b"GET, POST, PUT" if self._largest else b"GET"
        headers = [(b"content-length", b"0"), (b"connection", b"close"), (b"allow", allow)]
        await send({"type": "http.response.start", "status": refusal, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, scope: Any) -> int | None:
        length = body_length(scope)
        if scope["method"] == "GET":
            if length:
                return 413
            client = scope.get("client")
            return None if self._reads.take(client[0] if client else "?") else 429
        if scope["method"] not in ("POST", "PUT") or not self._largest:
            return 405
        if length < 0:
            return 411
        if length > self._largest:
            return 413
        if not any(name == b"authorization" for name, _ in scope["headers"]):
            return 401
        return None


def body_length(scope: Any) -> int:
    """Announced bytes of a request's body; -1 for one of unknown length."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return -1
        if name == b"content-length":
            text = value.strip()
            if not text.isdigit() or len(text) > 12:
                return -1
            length = int(text)
    return length
