"""What others may send here, signed and metered: announcements, and artifacts pushed by nodes nobody can reach.

A push is a manifest, which proves itself against the root in the path, then shards, each compared with the manifest;
the answer to the manifest says which shards are here already, so a push resumes like a fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .access import Denied, Doorkeeper, Leave
from .files import parse_name
from .gossip import PATH, Rumours
from .limits import LIMITS, Limits
from .manifest import Manifest
from .partial import Partial
from .signing import SignedAnnouncement
from .store import Store

BINARY = "application/octet-stream"
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)


@dataclass(slots=True)
class _Push:
    partial: Partial
    owner: bytes
    at: float


class Inbox:
    """Takes in what registered identities send."""

    def __init__(
        self,
        store: Store,
        keeper: Doorkeeper,
        rumours: Rumours,
        mine: Callable[[], SignedAnnouncement | None] = lambda: None,
        limits: Limits = LIMITS,
    ) -> None:
        """``mine``: this node's own announcement, for answers."""
        self._store, self._keeper, self._rumours, self._mine, self._limits = (
            store,
            keeper,
            rumours,
            mine,
            limits,
        )
        self._pushes: dict[bytes, _Push] = {}
        self._lock = threading.Lock()
        self._rng = random.Random()

    def add_routes(self, app: FastAPI) -> None:
        """POST announcements, PUT manifests and shards."""

        async def gossip(request: Request) -> Response:
            return await self._answer(request, self._limits.gossip_bytes, self._gossip)

        async def manifest(request: Request) -> Response:
            root = parse_name(request.path_params["name"])
            return await self._answer(
                request, self._limits.manifest_bytes, lambda leave, body: self._begin(root, leave, body)
            )

        async def shard(request: Request) -> Response:
            root, index = parse_name(request.path_params["name"]), request.path_params["index"]
            number = int(index) if _INDEX.fullmatch(index) else -1
            return await self._answer(
                request, merkle.SHARD, lambda leave, body: self._add(root, number, leave, body)
            )

        app.add_route(PATH, gossip, methods=["POST"])
        app.add_route("/v1/artifacts/{name}", manifest, methods=["PUT"])
        app.add_route("/v1/artifacts/{name}/shards/{index}", shard, methods=["PUT"])

    def close(self) -> None:
        """Set all pushes aside; they resume when their owner asks."""
        with self._lock:
            pushes, self._pushes = list(self._pushes.values()), {}
        for push in pushes:
            with contextlib.suppress(CommonweightError):
                self._store.release(push.partial)

    # -- one request ---------------------------------------------------------------------------------------

    async def _answer(
        self, request: Request, limit: int, act: Callable[[Leave, bytes], Response]
    ) -> Response:
        """Who asks is decided before a byte of the body is read; what they ask runs beside the loop."""
        try:
            length = int(request.headers.get("content-length", "0"))
            if length > limit:
                raise Denied(413, f"at most {limit} bytes")
            host = request.client.host if request.client else "?"
            path = request.scope["raw_path"].decode("ascii", "replace")
            leave = await asyncio.to_thread(
                self._keeper.admit,
                request.headers.get("authorization", ""),
                host,
                request.method,
                path,
                length,
            )
            body = bytearray()
            async for piece in request.stream():
                body += piece
            leave.require(body)
            return await asyncio.to_thread(act, leave, bytes(body))
        except Denied as denied:
            return Response(str(denied), denied.status, headers={"connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except EncodingError as error:
            return Response(error.message[:200], 400)
        except CommonweightError as error:
            return Response(error.message[:200], 507 if error.code == "E1404" else 409)

    def _gossip(self, leave: Leave, body: bytes) -> Response:
        self._rumours.take_in(body)
        return Response(self._rumours.sample(self._rng, self._mine()), media_type=BINARY)

    def _begin(self, root: bytes | None, leave: Leave, body: bytes) -> Response:
        if root is None:
            raise Denied(404, "no such name")
        manifest = Manifest.decode(body, root)
        if manifest.length > self._limits.artifact_bytes:
            raise Denied(413, f"at most {self._limits.artifact_bytes} bytes")
        self._sweep()
        with self._lock:
            push = self._pushes.get(root)
            if push is None and not self._store.has(root):
                if len(self._pushes) >= self._limits.pushes:
                    raise Denied(429, "too many pushes at the moment")
                push = self._pushes[root] = _Push(self._store.begin(manifest), leave.sender, time.monotonic())
        count = len(manifest.shards)
        held = range(count) if push is None else list(push.partial.held)
        bits = sum(1 << index for index in held)
        return Response(bits.to_bytes(-(-count // 8), "little"), media_type=BINARY)

    def _add(self, root: bytes | None, index: int, leave: Leave, body: bytes) -> Response:
        with self._lock:
            push = self._pushes.get(root) if root is not None else None
        if root is None or push is None or not 0 <= index < len(push.partial.manifest.shards):
            raise Denied(404, "nothing of that name is being pushed")
        if not body or merkle.shard_hash(body) != push.partial.manifest.shards[index]:
            raise Denied(400, f"not shard {index} of that artifact")
        push.partial.add(index, body)
        push.at = time.monotonic()
        if not push.partial.missing:
            with self._lock:
                done = self._pushes.pop(root, None)
            if done is not None:
                self._store.release(done.partial)
        self._store.changed(root)
        return Response(status_code=204)

    def _sweep(self) -> None:
        """Set pushes aside that bring nothing any more."""
        old = time.monotonic() - self._limits.push_seconds
        with self._lock:
            idle = [root for root, push in self._pushes.items() if push.at < old]
            pushes = [self._pushes.pop(root) for root in idle]
        for push in pushes:
            self._store.release(push.partial)
