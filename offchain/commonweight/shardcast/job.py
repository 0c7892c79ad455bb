"""One download: which shards are missing, who is fetching which, and who has been left.

Threads and sources are few; all decisions are taken here under one lock. A request that lasts suspiciously
long is made a second time elsewhere, and the first verified answer wins.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Sequence

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .address import AddressPolicy
from .limits import Limits
from .manifest import SMALLEST, Manifest
from .partial import Partial
from .peer import Fault, Peer, PeerFault
from .store import Store, too_long


class Job:
    """The state of one fetch, shared by its threads."""

    def __init__(
        self, root: bytes, store: Store, limits: Limits, policy: AddressPolicy, rng: random.Random
    ) -> None:
        self.root, self.received, self.resumed, self.late = root, 0, 0, False
        self._store, self._limits, self._policy, self._rng = store, limits, policy, rng
        self._change = threading.Condition()
        self._partial: Partial | None = None
        self._pending: list[int] = []
        self._flying: dict[int, list[Peer]] = {}
        self._busy: dict[Peer, float] = {}
        self._left: list[tuple[str, PeerFault]] = []
        self._error: CommonweightError | None = None
        self._over = False

    @property
    def complete(self) -> bool:
        """True when every shard is verified and kept."""
        return self._partial is not None and not self._partial.missing

    @property
    def held(self) -> int:
        """Shards verified and kept so far."""
        return len(self._partial.held) if self._partial else 0

    def run(self, sources: Sequence[str]) -> list[tuple[str, PeerFault]]:
        """Fetch until complete, out of sources, or late; returns the sources left on the way.

        Raises E1103 for an artifact that is too long, E1404 for a store without room.
        """
        try:
            if known := self._store.expected(self.root):
                self._plan(known)
                self.resumed = self.held
            self._coordinate(list(sources))
            if self._error:
                raise self._error
        finally:
            with self._change:
                self._over = True
                self._change.notify_all()
                self._leave_behind()
                if self._partial is not None:
                    self._store.release(self._partial)
        return self._left

    def _leave_behind(self) -> None:
        """End what is still running; whoever was overtaken by another source was too slow."""
        stale = time.monotonic() - self._limits.hedge_seconds
        for peer, since in self._busy.items():
            peer.cancel()
            if since <= stale:
                self._left.append((peer.source, PeerFault(Fault.SLOW, "was overtaken by another source")))

    # -- the caller's thread -------------------------------------------------------------------------------

    def _coordinate(self, sources: list[str]) -> None:
        deadline = time.monotonic() + self._limits.fetch_seconds
        with self._change:
            while not (self.complete or self._error):
                while sources and self._wants_another():
                    self._start(sources.pop(0))
                rest = deadline - time.monotonic()
                self.late = rest <= 0
                if self.late or not self._busy:
                    return
                self._change.wait(min(rest, self._limits.hedge_seconds / 2))

    def _wants_another(self) -> bool:
        stale = time.monotonic() - self._limits.hedge_seconds
        moving = sum(since > stale for since in self._busy.values())
        useful = len(self._partial.missing) if self._partial else 1
        return len(self._busy) < self._limits.in_flight and moving < min(useful, self._limits.in_flight)

    def _start(self, source: str) -> None:
        peer = Peer(source, self._policy, self._limits, self._count)
        self._busy[peer] = time.monotonic()
        threading.Thread(target=self._work, args=(peer,), name="fetch", daemon=True).start()

    # -- a source's thread ---------------------------------------------------------------------------------

    def _work(self, peer: Peer) -> None:
        try:
            if self._partial is None:
                self._plan(self._ask_manifest(peer))
            while (index := self._take(peer)) is not None:
                self._keep(index, self._ask_shard(peer, index))
        except PeerFault as fault:
            with self._change:
                if not self._over:
                    self._left.append((peer.source, fault))
        except CommonweightError as error:
            with self._change:
                self._error = self._error or error
        finally:
            peer.close()
            with self._change:
                del self._busy[peer]
                self._give_back(peer)
                self._change.notify_all()

    def _ask_manifest(self, peer: Peer) -> Manifest:
        sizes = range(SMALLEST, self._limits.manifest_bytes + 1, 32)
        data = peer.get(f"/v1/artifacts/{self.root.hex()}", sizes, self._limits.manifest_seconds)
        try:
            return Manifest.decode(data, self.root)
        except EncodingError as error:
            raise PeerFault(Fault.LIED, "sent a manifest that does not match the root") from error

    def _ask_shard(self, peer: Peer, index: int) -> bytes:
        assert self._partial is not None
        manifest = self._partial.manifest
        size = manifest.size(index)
        path = f"/v1/artifacts/{self.root.hex()}/shards/{index}"
        data = peer.get(path, range(size, size + 1), self._limits.shard_seconds)
        if merkle.shard_hash(data) != manifest.shards[index]:
            raise PeerFault(Fault.LIED, f"sent a wrong shard {index}")
        return data

    # -- the shared state ----------------------------------------------------------------------------------

    def _plan(self, manifest: Manifest) -> None:
        """Take on a manifest that the root has proven; the first one counts, since they are all alike."""
        if manifest.length > self._limits.artifact_bytes:
            raise too_long(self.root, manifest.length, self._limits.artifact_bytes)
        with self._change:
            if self._partial is None and not self._over:
                self._partial = self._store.begin(manifest)
                self._pending = self._partial.missing
                self._rng.shuffle(self._pending)
                self._change.notify_all()

    def _take(self, peer: Peer) -> int | None:
        """The next shard for ``peer`` to fetch, or None when there is nothing left for it to do."""
        with self._change:
            self._give_back(peer)
            while not (self._over or self._error or self.complete):
                if self._pending:
                    index = self._pending.pop()
                elif (late := self._late_shard(peer)) is not None:
                    index = late
                else:
                    self._busy[peer] = time.monotonic()
                    self._change.wait(self._limits.hedge_seconds / 2)
                    continue
                self._flying.setdefault(index, []).append(peer)
                self._busy[peer] = time.monotonic()
                return index
            return None

    def _late_shard(self, peer: Peer) -> int | None:
        """A shard that one other source has been fetching for too long."""
        stale = time.monotonic() - self._limits.hedge_seconds
        for index, peers in self._flying.items():
            if len(peers) == 1 and peers[0] is not peer and self._busy[peers[0]] <= stale:
                return index
        return None

    def _keep(self, index: int, data: bytes) -> None:
        with self._change:
            if self._partial is not None and not self._over and index not in self._partial.held:
                self._partial.add(index, data)
                self._change.notify_all()

    def _give_back(self, peer: Peer) -> None:
        """Whatever ``peer`` was fetching and nobody has delivered is to be fetched by someone."""
        for index in [i for i, peers in self._flying.items() if peer in peers]:
            with contextlib.suppress(ValueError):
                self._flying[index].remove(peer)
            if not self._flying[index]:
                del self._flying[index]
                if self._partial is not None and index not in self._partial.held:
                    self._pending.append(index)

    def _count(self, received: int) -> None:
        with self._change:
            self.received += received
