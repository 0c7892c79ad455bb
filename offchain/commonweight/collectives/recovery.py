"""A joiner gets the agreed state from a neighbour: shard by shard, each checked against the root it was promised.

The same Merkle tree as artifacts: the neighbour first sends length and shard hashes, which must give the root; then
every 4 MiB shard is checked on arrival. A neighbour that lies or falls silent is named, and the next one continues
where it stopped, so nothing is fetched twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .messages import Member
from .wire import Credentials, Link, LinkError, dial

PURPOSE = "state"
MOST_BYTES = 1 << 36
_HEAD_LIMIT = 8 + 32 * (1 << 14)


@dataclass(slots=True)
class Snapshots:
    """The state a member serves: the latest one only."""

    _root: bytes = b""
    _data: bytes = b""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def publish(self, root: bytes, data: bytes) -> None:
        """Serve ``data``, whose Merkle root is ``root``."""
        with self._changed:
            self._root, self._data = root, data
            self._changed.notify_all()

    def find(self, root: bytes, seconds: float) -> bytes | None:
        """The snapshot of that root, waiting for it: a joiner may ask before the member has stored it."""
        with self._changed:
            self._changed.wait_for(lambda: self._root == root, timeout=seconds)
            return self._data if self._root == root else None


def serve(link: Link, snapshots: Snapshots, seconds: float) -> None:
    """Answer one joiner on a connection of its own: root, then shard numbers, until it closes."""
    root = link.receive(32, seconds)
    data = snapshots.find(root, seconds)
    if data is None:
        link.send(b"", seconds)
        return
    shards = [data[i : i + merkle.SHARD] for i in range(0, len(data), merkle.SHARD)]
    hashes = b"".join(merkle.shard_hash(s) for s in shards)
    link.send(len(data).to_bytes(8, "big") + hashes, seconds)
    while True:
        number = int.from_bytes(link.receive(4, seconds), "big")
        if number >= len(shards):
            return
        link.send(shards[number], seconds)


@dataclass(slots=True)
class Fetch:
    """A state on its way, kept across providers."""

    root: bytes
    length: int = 0
    hashes: tuple[bytes, ...] = ()
    shards: list[bytes] = field(default_factory=list)

    def take_head(self, head: bytes) -> None:
        """Length and shard hashes, which must give the root. Raises `EncodingError`."""
        length, hashes = int.from_bytes(head[:8], "big"), head[8:]
        if not head or len(hashes) % 32 or not 0 < length <= MOST_BYTES:
            raise EncodingError("the state is not there, or its description is malformed")
        parts = tuple(hashes[i : i + 32] for i in range(0, len(hashes), 32))
        if merkle.root_of_shards(length, parts) != self.root:
            raise EncodingError("the shard hashes do not belong to the agreed root")
        self.length, self.hashes = length, parts

    def take_shard(self, shard: bytes) -> None:
        """The next shard. Raises `EncodingError`."""
        if not shard or merkle.shard_hash(shard) != self.hashes[len(self.shards)]:
            raise EncodingError(f"shard {len(self.shards)} is not the one its hash names")
        self.shards.append(shard)

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return bool(self.hashes) and len(self.shards) == len(self.hashes)

    def data(self) -> bytes:
        """The state; its root is checked once more, length included."""
        data = b"".join(self.shards)
        merkle.require_root(data, self.root, "the recovered state")
        return data


def fetch(
    me: Credentials,
    root: bytes,
    providers: Sequence[Member],
    seconds: float,
    stall: float,
    event: Callable[..., None],
) -> bytes:
    """Get the state named ``root``. Raises E1513 when no provider has it within ``seconds``."""
    job, deadline, began = Fetch(root), time.monotonic() + seconds, time.monotonic()
    for provider in providers:
        if job.complete or time.monotonic() >= deadline:
            break
        try:
            _fetch_from(me, job, provider, deadline, stall)
        except (LinkError, EncodingError) as error:
            event("provider_failed", name=provider.name, reason=error.message, shards=len(job.shards))
    if not job.complete:
        raise CommonweightError(
            "E1513",
            f"no member could give the state {root.hex()[:16]}",
            "it is tried again at the next round",
        )
    data = job.data()
    event("recovered", root=root.hex(), bytes=len(data), seconds=round(time.monotonic() - began, 4))
    return data


def _fetch_from(me: Credentials, job: Fetch, provider: Member, deadline: float, stall: float) -> None:
    def left() -> float:
        return min(stall, deadline - time.monotonic())

    link = dial(me, provider.host, provider.port, PURPOSE, provider.name)
    try:
        link.send(job.root, left())
        job.take_head(link.receive(_HEAD_LIMIT, left()))
        while not job.complete:
            link.send(len(job.shards).to_bytes(4, "big"), left())
            job.take_shard(link.receive(merkle.SHARD, left()))
    finally:
        link.close()
