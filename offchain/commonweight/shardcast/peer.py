"""One source during one fetch: a single connection to a pinned address on which every read has a deadline.

HTTP/1.1 with h11 for what is parsed (heads) and plain ``recv_into`` for what is not (bodies, straight into the
buffer they are hashed in): measured against httpx on loopback this takes a third of the CPU per byte, bounds the
sum of all reads and not only each of them, and can be cancelled from another thread.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import h11

from .address import AddressPolicy, Endpoint, Forbidden
from .limits import Limits

HEAD_CHUNK = 16 * 1024


class Fault(StrEnum):
    """ABSENT: it does not have the artifact. The others are its doing or its line's; only LIED is proof."""

    ABSENT = "absent"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    SLOW = "slow"
    LIED = "lied"


class Dropped(Exception):
    """The request was ended from here, because nobody wants its answer any more."""


class PeerFault(Exception):
    """Why a source was left."""

    def __init__(self, kind: Fault, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True, slots=True)
class Answer:
    """Head of an acceptable answer and its body, whose length is one of those asked for."""

    status: int
    headers: dict[bytes, bytes]
    body: memoryview


class Peer:
    """A source. One thread uses it; any thread may `cancel` it."""

    def __init__(self, source: str, policy: AddressPolicy, limits: Limits) -> None:
        self.source = source
        self.received = 0
        """Bytes of bodies so far, of all requests."""
        self.moved = 0
        """Bytes of the present body so far."""
        self._policy, self._limits = policy, limits
        self._endpoint: Endpoint | None = None
        self._socket: socket.socket | None = None
        self._cancelled = self._dropped = False
        self._deadline = 0.0

    def get(
        self,
        path: str,
        sizes: Callable[[Answer], range] | range,
        seconds: float,
        buffer: bytearray | None = None,
        *,
        on_head: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:
        """Answer with status 200 and a body of an acceptable length, or with 204. Raises `PeerFault`.

        ``sizes`` may look at the head first; the body is read into ``buffer`` when one is given.
        """
        return self.request("GET", path, sizes, seconds, buffer, on_head=on_head)

    def request(
        self,
        method: str,
        path: str,
        sizes: Callable[[Answer], range] | range,
        seconds: float,
        buffer: bytearray | None = None,
        *,
        headers: Sequence[tuple[str, str]] = (),
        data: bytes | memoryview = b"",
        on_head: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:
        """As `get`, with any method, further headers and a body to send."""
        self._deadline = time.monotonic() + seconds
        self._dropped = False
        for attempt in range(self._limits.retries + 1):
            try:
                return self._once(method, path, sizes, buffer, headers, data, on_head)
            except TimeoutError as error:
                self._hang_up()
                if self._dropped:
                    raise Dropped from error
                raise PeerFault(Fault.SLOW, "did not answer in time") from error
            except PeerFault:
                self._hang_up()
                raise
            except (OSError, h11.ProtocolError) as error:
                self._hang_up()
                if self._dropped:
                    raise Dropped from error
                if self._cancelled or attempt == self._limits.retries:
                    reason = str(error).strip() or type(error).__name__
                    raise PeerFault(Fault.UNREACHABLE, f"connection failed: {reason[:200]}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def drop(self) -> None:
        """Let the present request in another thread end now with `Dropped`; further ones are possible."""
        self._dropped = True
        self._cut()

    def cancel(self) -> None:
        """Let a request in another thread end now, and make no further ones."""
        self._cancelled = True
        self._cut()

    def _cut(self) -> None:
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._hang_up()

    # -- one exchange --------------------------------------------------------------------------------------

    def _once(
        self,
        method: str,
        path: str,
        sizes: Callable[[Answer], range] | range,
        buffer: bytearray | None,
        headers: Sequence[tuple[str, str]],
        data: bytes | memoryview,
        on_head: Callable[[Answer], None],
    ) -> Answer:
        sock, host = self._connected()
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.header_bytes)
        self._send(sock, parser, method, path, host, headers, data)
        answer = self._head(sock, parser)
        self._require_acceptable(answer)
        self.moved = 0
        on_head(answer)
        rest, _ = parser.trailing_data
        if answer.status == 204:
            body = memoryview(b"")
        else:
            allowed = sizes if isinstance(sizes, range) else sizes(answer)
            body = self._body(sock, rest, _announced(answer, allowed), buffer)
        if answer.headers.get(b"connection", b"").lower() == b"close":
            self._hang_up()
        return Answer(answer.status, answer.headers, body)

    def _send(
        self,
        sock: socket.socket,
        parser: h11.Connection,
        method: str,
        path: str,
        host: str,
        headers: Sequence[tuple[str, str]],
        data: bytes | memoryview,
    ) -> None:
        head: list[tuple[str, str]] = [
            ("Host", host),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "commonweight"),
            *headers,
        ]
        if method != "GET":
            head.append(("Content-Length", str(len(data))))
        self._arm(sock)
        sock.sendall(parser.send(h11.Request(method=method, target=path, headers=head)) or b"")
        if len(data):
            sock.sendall(data)

    def _head(self, sock: socket.socket, parser: h11.Connection) -> Answer:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Response):
                return Answer(event.status_code, dict(event.headers), memoryview(b""))
            if event is not h11.NEED_DATA:
                continue  # 1xx, which the deadline bounds
            self._arm(sock)
            piece = sock.recv(HEAD_CHUNK)
            if not piece:
                raise ConnectionError("closed before its answer")
            parser.receive_data(piece)

    def _require_acceptable(self, answer: Answer) -> None:
        status = answer.status
        if status == 404:
            raise PeerFault(Fault.ABSENT, "does not have it")
        if 300 <= status < 400:
            raise PeerFault(Fault.LIED, f"redirects ({status})")
        if status not in (200, 204):
            raise PeerFault(Fault.UNREACHABLE, f"answered {status}")
        if answer.headers.get(b"content-encoding", b"identity") != b"identity":
            raise PeerFault(Fault.LIED, "compresses its answer")

    def _body(self, sock: socket.socket, early: Any, expected: int, buffer: bytearray | None) -> memoryview:
        if len(early) > expected:
            raise PeerFault(Fault.LIED, f"sent more than {expected} bytes")
        target = bytearray(expected) if buffer is None else buffer
        view = memoryview(target)[:expected]
        view[: len(early)] = early
        have, started = len(early), time.monotonic()
        self.moved, self.received = have, self.received + have
        while have < expected:
            self._arm(sock)
            got = sock.recv_into(view[have:])
            if not got:  # no lie: a process that was killed looks the same
                raise ConnectionError(f"closed after {have} of {expected} bytes")
            have += got
            self.moved, self.received = have, self.received + got
            lasted = time.monotonic() - started
            if lasted > self._limits.grace_seconds and have < self._limits.min_rate * lasted:
                raise PeerFault(Fault.SLOW, f"sends less than {self._limits.min_rate} bytes per second")
        return view

    # -- the connection ------------------------------------------------------------------------------------

    def _connected(self) -> tuple[socket.socket, str]:
        if self._endpoint is None:
            try:
                self._endpoint = self._policy.resolve(self.source, self._limits.resolve_seconds)
            except Forbidden as error:
                raise PeerFault(Fault.FORBIDDEN, str(error)) from error
        if self._cancelled:
            raise PeerFault(Fault.UNREACHABLE, "cancelled")
        if self._socket is None:
            self._socket = self._connect(self._endpoint)
            if self._cancelled:  # between the two: nobody else would cut it
                raise PeerFault(Fault.UNREACHABLE, "cancelled")
        return self._socket, self._endpoint.netloc

    def _connect(self, endpoint: Endpoint) -> socket.socket:
        problem: OSError = OSError("no address")
        for address in endpoint.addresses:  # the pinned ones only
            left = min(self._limits.connect_seconds, self._left())
            try:
                sock = socket.create_connection((address, endpoint.port), timeout=left)
            except OSError as error:
                problem = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.scheme == "https":
                self._socket = sock  # so that a cancel reaches the handshake too
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=endpoint.host)
            return sock
        raise problem

    def _left(self) -> float:
        rest = self._deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError("the request took too long")
        return rest

    def _arm(self, sock: socket.socket) -> None:
        sock.settimeout(min(self._limits.read_seconds, self._left()))

    def _hang_up(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _announced(answer: Answer, sizes: range) -> int:
    """The length of the body, before any of it is read. Raises `PeerFault`."""
    text = answer.headers.get(b"content-length", b"").decode("ascii", "replace")
    length = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if length not in sizes or b"transfer-encoding" in answer.headers:
        raise PeerFault(Fault.LIED, f"announces a wrong length ({text[:20] or 'none'})")
    return length
