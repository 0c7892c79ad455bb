"""Serve artifacts over HTTP: manifests and shards by root, and a health page. Every node runs one.

Shards are whole objects of at most 4 MiB: no ranges, no compression, no bodies, no names but digests.
Answers need no signature, since whoever asked knows the root. The bounds of a connection are in `edge`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from ..core import merkle
from ..core.errors import CommonweightError
from .edge import Bounded, Crowd, Gate
from .files import parse_name
from .limits import LIMITS, Limits
from .store import Store

START_SECONDS = 20.0
STOP_SECONDS = 10.0
GRACE_SECONDS = 1
BINARY = "application/octet-stream"
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)


def create_app(store: Store, info: Callable[[], dict[str, Any]] = dict, limits: Limits = LIMITS) -> FastAPI:
    """The artifact service. Whatever is not served here, malformed names included, is 404."""
    app = FastAPI(title="Commonweight artifacts", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(Gate)
    hashing = asyncio.Semaphore(limits.hashing_threads)

    @app.get("/v1/health")
    async def health() -> dict[str, Any]:
        return {"ok": True, **info()}

    @app.get("/v1/artifacts/{name}")
    async def manifest(name: str) -> Response:
        root = parse_name(name)
        if root is None or not store.served(root):
            return Response(status_code=404)
        try:
            async with hashing:
                found = await asyncio.to_thread(store.manifest, root)
        except CommonweightError:
            return Response(status_code=404)
        return Response(found.encode(), media_type=BINARY)

    @app.get("/v1/artifacts/{name}/shards/{index}")
    async def shard(name: str, index: str) -> Response:
        root = parse_name(name)
        if root is None or not _INDEX.fullmatch(index) or not store.served(root):
            return Response(status_code=404)
        try:
            async with hashing:
                size = len(await asyncio.to_thread(store.shard, root, int(index)))
        except CommonweightError:
            return Response(status_code=404)
        # Read again piece by piece, so that a crowd of slow readers does not hold a shard each in memory.
        body = _pieces(store, root, int(index) * merkle.SHARD, size, limits.chunk_bytes)
        return StreamingResponse(body, media_type=BINARY, headers={"content-length": str(size)})

    return app


async def _pieces(store: Store, root: bytes, offset: int, size: int, chunk: int) -> AsyncIterator[bytes]:
    for piece in store.read(root, offset, size, chunk):  # just hashed, so these reads come from memory
        yield piece


class ArtifactServer:
    """The service in a background thread, on its own socket."""

    def __init__(
        self,
        store: Store,
        host: str,
        port: int,
        info: Callable[[], dict[str, Any]] = dict,
        limits: Limits = LIMITS,
    ) -> None:
        """Take the port (0: any free one). Raises E1501 when it cannot be had."""
        self._socket = _bind(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.crowd = Crowd(limits)
        config = uvicorn.Config(
            create_app(store, info, limits),
            http=functools.partial(Bounded, crowd=self.crowd),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._ready = threading.Event()
        self._server = _Server(config, self._ready, self.crowd)
        self._thread = threading.Thread(target=self._run, name="artifacts", daemon=True)

    @property
    def url(self) -> str:
        """Where this server is reached on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> ArtifactServer:
        """Serve; returns when connections are accepted. Raises E1504 when that does not happen."""
        self._thread.start()
        self._ready.wait(START_SECONDS)
        if not self._server.started:
            raise CommonweightError(
                "E1504", f"the artifact server at {self.url} did not start", "see the node's log"
            )
        return self

    def stop(self) -> None:
        """Finish, for a second, what is being sent, and close. Harmless when repeated or never started."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self._socket.close()

    def __enter__(self) -> ArtifactServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._ready.set()


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves no connection behind."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event, crowd: Crowd) -> None:
        super().__init__(config)
        self._ready, self._crowd = ready, crowd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS / 2, self._crowd.abort)
        await super().shutdown(sockets)
        self._crowd.abort()
        await asyncio.sleep(0)


def _bind(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer waits 40 ms for an ACK
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        hint = "choose another port, or 0 for a free one"
        raise CommonweightError("E1501", f"cannot listen on {host}:{port}: {reason}", hint) from error
    return sock
