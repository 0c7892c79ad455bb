"""One source during one fetch: a single connection to a pinned address on which every read has a deadline.

httpx bounds each read but not their sum, so a source that drips a header byte now and then would hold us
for ever. The network layer below bounds every read by the deadline of the whole request, and can be
cancelled from another thread.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

import httpcore
import httpx

from .address import AddressPolicy, Endpoint, Forbidden
from .limits import Limits

_NETWORK = (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, httpx.StreamError, OSError)


class Fault(StrEnum):
    """ABSENT: it does not have the artifact. The others are its doing or its line's; only LIED is proof."""

    ABSENT = "absent"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    SLOW = "slow"
    LIED = "lied"


class PeerFault(Exception):
    """Why a source was left."""

    def __init__(self, kind: Fault, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Peer:
    """A source. One thread uses it; any thread may `cancel` it."""

    def __init__(
        self, source: str, policy: AddressPolicy, limits: Limits, on_bytes: Callable[[int], None]
    ) -> None:
        self.source = source
        self._policy, self._limits, self._on_bytes = policy, limits, on_bytes
        self._line: _Line | None = None
        self._client: httpx.Client | None = None
        self._cancelled = False

    def get(self, path: str, sizes: range, seconds: float) -> bytes:
        """Body of a 200 answer whose announced length is one of ``sizes``. Raises `PeerFault`."""
        deadline = time.monotonic() + seconds
        for attempt in range(self._limits.retries + 1):
            try:
                return self._get(path, sizes, deadline)
            except (httpcore.TimeoutException, httpx.TimeoutException) as error:
                raise PeerFault(Fault.SLOW, "did not answer in time") from error
            except _NETWORK as error:
                self._hang_up()
                if attempt == self._limits.retries or self._cancelled:
                    reason = str(error).strip() or type(error).__name__
                    raise PeerFault(Fault.UNREACHABLE, f"connection failed: {reason[:200]}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def cancel(self) -> None:
        """Let a request in another thread end now."""
        self._cancelled = True
        if self._line is not None:
            self._line.cut()

    def close(self) -> None:
        """Close the connection."""
        self._hang_up()

    def _get(self, path: str, sizes: range, deadline: float) -> bytes:
        client, line, base = self._connected()
        line.deadline = deadline
        with client.stream("GET", base + path) as answer:
            expected = _announced(answer, sizes)
            started, out = time.monotonic(), bytearray()
            for chunk in answer.iter_raw():
                out += chunk
                self._on_bytes(len(chunk))
                if len(out) > expected:
                    raise PeerFault(Fault.LIED, f"sent more than {expected} bytes")
                lasted = time.monotonic() - started
                if lasted > self._limits.grace_seconds and len(out) < self._limits.min_rate * lasted:
                    raise PeerFault(Fault.SLOW, f"sends less than {self._limits.min_rate} bytes per second")
        if len(out) != expected:
            raise PeerFault(Fault.LIED, f"sent {len(out)} of {expected} bytes")
        return bytes(out)

    def _connected(self) -> tuple[httpx.Client, _Line, str]:
        if self._line is None:
            try:
                endpoint = self._policy.resolve(self.source, self._limits.resolve_seconds)
            except Forbidden as error:
                raise PeerFault(Fault.FORBIDDEN, str(error)) from error
            self._line = _Line(endpoint)
        if self._cancelled:
            raise PeerFault(Fault.UNREACHABLE, "cancelled")
        if self._client is None:
            timeout = httpx.Timeout(self._limits.read_seconds, connect=self._limits.connect_seconds)
            headers = {"Accept-Encoding": "identity", "User-Agent": "commonweight"}
            transport = _Transport(self._line)
            self._client = httpx.Client(
                transport=transport, timeout=timeout, headers=headers, trust_env=False
            )
        return self._client, self._line, self._line.endpoint.url

    def _hang_up(self) -> None:
        if self._client is not None:
            with contextlib.suppress(*_NETWORK):
                self._client.close()
            self._client = None


def _announced(answer: httpx.Response, sizes: range) -> int:
    """The length of an acceptable answer, before any of its body is read. Raises `PeerFault`."""
    status = answer.status_code
    if status == 404:
        raise PeerFault(Fault.ABSENT, "does not have it")
    if 300 <= status < 400:
        raise PeerFault(Fault.LIED, f"redirects ({status})")
    if status != 200:
        raise PeerFault(Fault.UNREACHABLE, f"answered {status}")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise PeerFault(Fault.LIED, "compresses its answer")
    text = answer.headers.get("content-length", "")
    length = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if length not in sizes:
        raise PeerFault(Fault.LIED, f"announces a wrong length ({text[:20] or 'none'})")
    return length


class _Line(httpcore.NetworkBackend):
    """Connects to the pinned addresses only, and never reads past `deadline` (monotonic seconds)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.deadline = 0.0
        self._inner = httpcore.SyncBackend()
        self._socket: socket.socket | None = None
        self._cut = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first pinned address that answers."""
        for last, address in enumerate(self.endpoint.addresses, 1 - len(self.endpoint.addresses)):
            try:
                stream = self._inner.connect_tcp(address, self.endpoint.port, self.left(timeout))
                break
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == 0:
                    raise
        return self.hold(stream)

    def hold(self, stream: httpcore.NetworkStream) -> _Stream:
        """Remember the socket, so that it can be cut."""
        self._socket = stream.get_extra_info("socket")
        if self._cut:
            self.cut()
        return _Stream(stream, self)

    def left(self, timeout: float | None) -> float:
        """The shorter of ``timeout`` and what the deadline leaves."""
        rest = self.deadline - time.monotonic()
        if rest <= 0:
            raise httpcore.ReadTimeout("the request took too long")
        return rest if timeout is None else min(rest, timeout)

    def cut(self) -> None:
        """End the connection under whoever reads from it."""
        self._cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, line: _Line) -> None:
        self._inner, self._line = inner, line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._line.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._line.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return self._line.hold(self._inner.start_tls(ssl_context, server_hostname, self._line.left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Transport(httpx.BaseTransport):
    """httpx's own connection layer over a `_Line`: no proxy, no HTTP/2, one connection."""

    def __init__(self, line: _Line) -> None:
        # a TLS context takes tens of milliseconds to make, so only those who need one get one
        context = httpx.create_ssl_context(trust_env=False) if line.endpoint.scheme == "https" else None
        self._pool = httpcore.ConnectionPool(ssl_context=context, max_connections=1, network_backend=line)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = self._pool.handle_request(
            httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()
