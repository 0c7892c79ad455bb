"""Serve artifacts over HTTP: manifests and shards by root, and a health page. Every node runs one.

Shards are whole objects of at most 4 MiB: no ranges, no compression, no names but digests. Answers need no
signature, since whoever asked knows the root. The bounds of a connection are in `edge`; what others may send is in
`writing`.

A download is served while it runs: ``have`` says which shards are here and waits for news, ``any`` gives the one of
the named shards that was given least so far, so that a lone origin does not send the same shard to everybody first.
"""

from __future__ import annotations

import asyncio
import functools
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ..core import merkle
from ..core.errors import CommonweightError
from .edge import Bounded, Crowd, Gate
from .files import parse_name
from .giving import Giving
from .limits import LIMITS, Limits
from .news import News
from .sending import LoanResponse, Slots
from .store import Loan, Store
from .versions import VersionBook
from .writing import Inbox

START_SECONDS = 20.0
STOP_SECONDS = 10.0
GRACE_SECONDS = 1
BINARY = "application/octet-stream"
MAX_HEADS = 64
MAX_HAVE = 8192
"""Shards up to which an answer's head says what is here."""
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)
_INDICES = re.compile(r"(?:0|[1-9][0-9]{0,5})(?:,(?:0|[1-9][0-9]{0,5})){0,15}", re.ASCII)


def create_app(
    store: Store,
    info: Callable[[], dict[str, Any]] = dict,
    limits: Limits = LIMITS,
    book: VersionBook | None = None,
    inbox: Inbox | None = None,
) -> FastAPI:
    """The artifact service. Whatever is not served here, malformed names included, is 404."""
    app = FastAPI(title="Commonweight artifacts", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(Gate, largest=merkle.SHARD if inbox else 0, limits=limits)
    desk = Desk(store, limits)

    async def health(request: Request) -> Response:
        return JSONResponse({"ok": True, **info()})

    async def manifest(request: Request) -> Response:
        return await desk.manifest(request.path_params["name"])

    async def have(request: Request) -> Response:
        return await desk.have(request.path_params["name"], request.path_params["count"])

    async def any_shard(request: Request) -> Response:
        return await desk.any(request.path_params["name"], request.path_params["indices"])

    async def shard(request: Request) -> Response:
        return await desk.shard(request.path_params["name"], request.path_params["index"])

    # plain routes: there is nothing to validate or to convert, and a swarm asks more often than it transfers
    app.add_route("/v1/health", health, methods=["GET"])
    app.add_route("/v1/artifacts/{name}", manifest, methods=["GET"])
    app.add_route("/v1/artifacts/{name}/have/{count}", have, methods=["GET"])
    app.add_route("/v1/artifacts/{name}/any/{indices}", any_shard, methods=["GET"])
    app.add_route("/v1/artifacts/{name}/shards/{index}", shard, methods=["GET"])
    if book is not None:
        _add_versions(app, book)
    if inbox is not None:
        inbox.add_routes(app)
    return app


def _add_versions(app: FastAPI, book: VersionBook) -> None:
    async def heads(request: Request) -> Response:
        newest = book.heads()[:MAX_HEADS]
        return Response(b"".join(record.root for record in newest), media_type=BINARY)

    async def record(request: Request) -> Response:
        root = parse_name(request.path_params["name"])
        found = book.get(root) if root is not None else None
        return _absent() if found is None else Response(found.encode(), media_type=BINARY)

    app.add_route("/v1/versions", heads, methods=["GET"])
    app.add_route("/v1/versions/{name}", record, methods=["GET"])


class Desk:
    """What the routes do. Used from one event loop."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store, self._limits = store, limits
        self._hashing = asyncio.Semaphore(limits.hashing_threads)
        self._slots = Slots(limits)
        self._given: dict[bytes, Giving] = {}
        self._rng = random.Random()
        self._news = News(store, limits)

    async def manifest(self, name: str) -> Response:
        """The manifest that the name is the root of."""
        root = parse_name(name)
        if root is None:
            return _absent()
        found = self._store.holdings(root)
        if found is None and self._store.served(root):
            async with self._hashing:
                found = await asyncio.to_thread(self._store.holdings, root, hashing=True)
        return _absent() if found is None else Response(found[0].encode(), media_type=BINARY)

    async def have(self, name: str, count: str) -> Response:
        """Bits of the shards that are here, as soon as they are not ``count``, or after a while."""
        root = parse_name(name)
        if root is None or not _INDEX.fullmatch(count):
            return _absent()
        async with self._news.waiting(root) as changed:
            found = self._store.holdings(root)
            if found is not None and found[1].bit_count() == int(count) and int(count) < len(found[0].shards):
                await changed()
                found = self._store.holdings(root)
        if found is None:
            return _absent()
        return Response(found[1].to_bytes(-(-len(found[0].shards) // 8), "little"), media_type=BINARY)

    async def any(self, name: str, indices: str) -> Response:
        """The least given of the named shards that are here; 204 when there is none, or no time to send it now."""
        root = parse_name(name)
        if root is None or not _INDICES.fullmatch(indices):
            return _absent()
        async with self._slots.turn() as slot:
            found = self._store.holdings(root)
            if found is None:
                return _absent()
            here = [i for i in map(int, indices.split(",")) if found[1] >> i & 1]
            headers = {"have": f"{found[1]:x}"} if len(found[0].shards) <= MAX_HAVE else {}
            count = len(found[0].shards)
            giving = self._giving_of(root, count)
            everything = found[1].bit_count() == count
            index = giving.choose(here, everything, time.monotonic(), self._rng) if slot.free else None
            if index is None:
                return Response(status_code=204, headers=headers)
            return await self._loan(root, index, {**headers, "shard": str(index)}, slot.keep())

    async def shard(self, name: str, index: str) -> Response:
        """One shard by number."""
        root = parse_name(name)
        if root is None or not _INDEX.fullmatch(index):
            return _absent()
        async with self._slots.turn() as slot:
            if (giving := self._given.get(root)) is not None:
                giving.given(int(index), time.monotonic())
            return await self._loan(root, int(index), {}, slot.keep())

    async def _loan(
        self, root: bytes, index: int, headers: dict[str, str], done: Callable[[], None]
    ) -> Response:
        try:
            loan: Loan | None = self._store.lend(root, index, hashing=False)
            if loan is None:
                async with self._hashing:
                    loan = await asyncio.to_thread(self._store.lend, root, index)
            assert loan is not None
        except CommonweightError:
            done()
            return _absent()
        except BaseException:
            done()
            raise
        return LoanResponse(loan, self._limits, headers, done)

    def _giving_of(self, root: bytes, shards: int) -> Giving:
        giving = self._given.pop(root, None) or Giving(shards, self._limits.hold_seconds)
        self._given[root] = giving  # as the youngest
        if len(self._given) > self._limits.manifests:
            del self._given[next(iter(self._given))]
        return giving


def _absent() -> Response:
    return Response(status_code=404)


class ArtifactServer:
    """The service in a background thread, on its own socket."""

    def __init__(
        self,
        store: Store,
        host: str,
        port: int,
        info: Callable[[], dict[str, Any]] = dict,
        limits: Limits = LIMITS,
        book: VersionBook | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        """Take the port (0: any free one). ``inbox``: takes in what others send. Raises E1501 without the port."""
        self._inbox = inbox
        self._socket = _bind(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.crowd = Crowd(limits)
        config = uvicorn.Config(
            create_app(store, info, limits, book, inbox),
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
        if self._inbox is not None:
            self._inbox.close()
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
