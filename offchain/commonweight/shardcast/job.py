"""One download: a thread and a connection per source, all decisions under one lock in a `Plan`.

The manifest proves itself against the root, each shard against the manifest; what is verified is written where it
belongs in the file and may be served from that moment on, while the rest is still on its way.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .address import AddressPolicy
from .limits import Limits
from .manifest import SMALLEST, Manifest
from .partial import Partial
from .peer import Answer, Dropped, Fault, Peer, PeerFault
from .plan import Plan, Source
from .store import Store, too_long

_HAVE = re.compile(rb"[0-9a-f]+")


@dataclass(slots=True)
class _Seat:
    """A source's place in this download. ``since``: start of its present request, or of its present wait.

    ``order`` is what its thread is to do next: shards to ask for, () to ask for news, None to wait in ``bell``.
    """

    peer: Peer
    since: float
    bell: threading.Condition
    absent: bool = False
    idle: bool = False
    order: tuple[int, ...] | None = None
    stalled: bool = False
    refusals: int = 0
    polled: float = 0.0


@dataclass(slots=True)
class Traffic:
    """What one download cost: bytes of bodies, shards that were here before, bytes that came twice."""

    received: int = 0
    resumed: int = 0
    repeated: int = 0
    by_source: dict[str, int] = field(default_factory=dict)


class Job:
    """The state of one fetch, shared by its threads."""

    def __init__(
        self,
        root: bytes,
        store: Store,
        limits: Limits,
        policy: AddressPolicy,
        rng: random.Random,
        patience: float = 0.0,
    ) -> None:
        """``patience``: seconds to go on asking when none of the sources has the artifact yet."""
        self.root, self.late, self.traffic = root, False, Traffic()
        self._path = f"/v1/artifacts/{root.hex()}"
        self._store, self._limits, self._policy, self._rng = store, limits, policy, rng
        self._patience = patience
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)  # for the caller's thread
        self._partial: Partial | None = None
        self._plan: Plan | None = None
        self._seats: dict[str, _Seat] = {}
        self._buffers: list[bytearray] = []
        self._left: list[tuple[str, PeerFault]] = []
        self._starving = 0  # refusals, of all sources together, since one of them chose a shard to give
        self._error: CommonweightError | None = None
        self._over = False

    @property
    def complete(self) -> bool:
        """True when every shard is verified and kept."""
        return self._plan is not None and not self._plan.missing

    @property
    def held(self) -> int:
        """Shards verified and kept so far."""
        return self._plan.held.bit_count() if self._plan else 0

    @property
    def shards(self) -> int:
        """Shards of the artifact, 0 while they are not known."""
        return len(self._plan.sizes) if self._plan else 0

    def run(self, sources: Sequence[str]) -> list[tuple[str, PeerFault]]:
        """Fetch until complete, out of sources, or late; returns the sources left on the way.

        Raises E1103 for an artifact that is too long, E1404 for a store without room.
        """
        try:
            if known := self._store.expected(self.root):
                self._adopt(known)
                self.traffic.resumed = self.held
            self._coordinate(list(sources))
            if self._error:
                raise self._error
        finally:
            with self._lock:
                self._over = True
                self._leave_behind()
                if self._partial is not None:
                    self._store.release(self._partial)
        return self._left

    def _leave_behind(self) -> None:
        """End what is still running; whoever was overtaken by another source was too slow."""
        stale = time.monotonic() - self._limits.hedge_seconds
        for name, seat in self._seats.items():
            self._count(seat)
            seat.peer.cancel()
            seat.bell.notify()
            if seat.absent:
                self._left.append((name, PeerFault(Fault.ABSENT, "does not have it")))
            elif seat.since <= stale and self._asking(name):
                self._left.append((name, PeerFault(Fault.SLOW, "was overtaken by another source")))

    # -- the caller's thread -------------------------------------------------------------------------------

    def _coordinate(self, sources: list[str]) -> None:
        begun = time.monotonic()
        deadline, patient = begun + self._limits.fetch_seconds, begun + self._patience
        with self._lock:
            while not (self.complete or self._error):
                while sources and self._wants_another():
                    self._start(sources.pop(0))
                now = time.monotonic()
                self._dispatch()
                self.late = now >= deadline
                hopeless = not sources and all(seat.absent for seat in self._seats.values())
                if self.late or not self._seats or (hopeless and now >= patient):
                    return
                self._change.wait(min(deadline - now, self._limits.poll_pause))

    def _wants_another(self) -> bool:
        stale = time.monotonic() - self._limits.hedge_seconds
        moving = sum(not seat.absent and seat.since > stale for seat in self._seats.values())
        useful = self._plan.missing.bit_count() if self._plan else 1
        return len(self._seats) < self._limits.sources and moving < useful

    def _start(self, source: str) -> None:
        peer = Peer(source, self._policy, self._limits)
        self._seats[source] = _Seat(peer, time.monotonic(), threading.Condition(self._lock))
        if self._plan is not None:
            self._plan.sources.setdefault(source, Source())
        threading.Thread(target=self._work, args=(source, peer), name="fetch", daemon=True).start()

    # -- a source's thread ---------------------------------------------------------------------------------

    def _work(self, name: str, peer: Peer) -> None:
        try:
            while not self._over:
                try:
                    self._serve_from(name, peer)
                    break
                except PeerFault as fault:
                    if fault.kind is not Fault.ABSENT:
                        raise
                    self._absent(name)
        except PeerFault as fault:
            with self._lock:
                if not self._over:
                    self._left.append((name, fault))
        except CommonweightError as error:
            with self._lock:
                self._error = self._error or error
        finally:
            peer.close()
            with self._lock:
                if not self._over:
                    self._count(self._seats.pop(name))
                if self._plan is not None:
                    self._plan.sources.pop(name, None)
                self._dispatch()
                self._change.notify()

    def _serve_from(self, name: str, peer: Peer) -> None:
        """Take from one source what it has until nothing is missing. Raises `PeerFault`."""
        if self._plan is None:
            self._adopt(self._ask_manifest(peer))
        self._ask_have(name, peer, 0)
        while (asked := self._next(name)) is not None:
            if asked:
                self._take(name, peer, asked)
            else:
                self._ask_have(name, peer, self._known(name).bit_count())

    def _ask_manifest(self, peer: Peer) -> Manifest:
        sizes = range(SMALLEST, self._limits.manifest_bytes + 1, 32)
        data = bytes(peer.get(self._path, sizes, self._limits.manifest_seconds).body)
        try:
            return Manifest.decode(data, self.root)
        except EncodingError as error:
            raise PeerFault(Fault.LIED, "sent a manifest that does not match the root") from error

    def _ask_have(self, name: str, peer: Peer, count: int) -> None:
        """Learn what the source has; one that has ``count`` shards answers when it has more, or after a while."""
        size = -(-self.shards // 8)
        seconds = self._limits.poll_seconds + self._limits.read_seconds
        body = peer.get(f"{self._path}/have/{count}", range(size, size + 1), seconds).body
        with self._lock:
            self._learn(name, int.from_bytes(body, "little"))
            if name in self._seats:
                self._seats[name].polled = time.monotonic()

    def _take(self, name: str, peer: Peer, asked: tuple[int, ...]) -> None:
        """One shard out of those asked for, verified and kept. Raises `PeerFault`."""
        assert self._partial is not None
        manifest = self._partial.manifest
        chosen: list[int] = []

        insist = self._starving >= self._limits.direct_after

        def head(answer: Answer) -> None:
            if answer.status == 200:
                chosen[:] = [self._chosen(name, answer, asked[:1] if insist else asked, insist)]

        with self._lock:
            buffer = self._buffers.pop() if self._buffers else bytearray(merkle.SHARD)
        try:
            path = (
                f"{self._path}/shards/{asked[0]}"
                if insist
                else f"{self._path}/any/{','.join(map(str, asked))}"
            )
            sizes = lambda _: range(manifest.size(chosen[0]), manifest.size(chosen[0]) + 1)  # noqa: E731
            answer = peer.get(path, sizes, self._limits.shard_seconds, buffer, on_head=head)
            if answer.status == 204:
                self._refused(name, answer)
                return
            if merkle.shard_hash(answer.body) != manifest.shards[chosen[0]]:
                raise PeerFault(Fault.LIED, f"sent a wrong shard {chosen[0]}")
            self._keep(name, chosen[0], answer)
        except Dropped:
            if self._seats[name].stalled:
                raise PeerFault(Fault.SLOW, "sends nothing, and others have it") from None
            with self._lock:
                if self._plan is not None:
                    self._plan.dropped(name, time.monotonic())
        finally:
            with self._lock:
                self._buffers.append(buffer)

    # -- the shared state ----------------------------------------------------------------------------------

    def _adopt(self, manifest: Manifest) -> None:
        """Take on a manifest that the root has proven; the first one counts, since they are all alike."""
        if manifest.length > self._limits.artifact_bytes:
            raise too_long(self.root, manifest.length, self._limits.artifact_bytes)
        with self._lock:
            if self._plan is None and not self._over:
                self._partial = self._store.begin(manifest)
                held = sum(1 << i for i in self._partial.held)
                sizes = [manifest.size(i) for i in range(len(manifest.shards))]
                self._plan = Plan(sizes, held, self._rng, self._limits, {n: Source() for n in self._seats})
                self._change.notify()

    def _next(self, name: str) -> tuple[int, ...] | None:
        """Shards to ask the source for; () to ask it for news; None when there is nothing left to do."""
        with self._lock:
            assert self._plan is not None
            seat = self._seats[name]
            self._plan.released(name)
            seat.idle, seat.order = True, None
            self._dispatch()
            while seat.order is None and not (self._over or self._error or self.complete):
                seat.bell.wait()
            seat.idle = False
            return seat.order

    def _dispatch(self) -> None:
        """Give idle sources something to do, the best ones first; only those who get something wake up."""
        if self._plan is None or self._over:
            return
        now = time.monotonic()
        for name, seat in self._seats.items():
            if (source := self._plan.sources.get(name)) is not None and source.index is not None:
                self._plan.progress(name, seat.peer.moved, now)
        for name in self._plan.stalled(now):
            if (seat_ := self._seats.get(name)) is not None and not seat_.stalled:
                seat_.stalled = True
                seat_.peer.drop()
        ending = self._error is not None or self.complete
        for name in self._plan.ranked(
            n for n, seat in self._seats.items() if seat.idle and seat.order is None
        ):
            seat = self._seats[name]
            seat.since = now
            if self._plan.useful(name):
                seat.order = self._plan.ask(name, now) or None
            elif now - seat.polled >= self._limits.poll_pause:
                seat.order = ()
            if seat.order is not None or ending:
                seat.bell.notify()
        if ending:
            self._change.notify()

    def _chosen(self, name: str, answer: Answer, asked: tuple[int, ...], insist: bool) -> int:
        text = answer.headers.get(b"shard", b"").decode("ascii", "replace")
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else -1
        if insist:
            index = asked[0]
        with self._lock:
            if index not in asked or self._plan is None or not self._plan.started(name, index):
                raise PeerFault(Fault.LIED, "sends a shard that nobody asked for")
            self._learn_header(name, answer)
            self._seats[name].refusals = 0
            self._starving = self._starving - 2 if insist else 0
            self._dispatch()  # the other shards that were asked for are free again
        return index

    def _refused(self, name: str, answer: Answer) -> None:
        """It has none of what it was asked for: harmless when it says so, but not again and again."""
        with self._lock:
            self._learn_header(name, answer)
            seat = self._seats.get(name)
            if seat is not None and self._plan is not None:
                seat.refusals += 1
                self._starving += 1
                self._plan.refused(name, time.monotonic())
                if seat.refusals > self._limits.refusals:
                    raise PeerFault(Fault.UNREACHABLE, "does not give what it says it has")

    def _keep(self, name: str, index: int, answer: Answer) -> None:
        assert self._partial is not None
        with self._lock:
            if self._over or self._plan is None:
                return
            if index in self._partial.held:
                self.traffic.repeated += len(answer.body)
                self._plan.finished(name, time.monotonic())
                return
        self._partial.add(index, answer.body)
        with self._lock:
            self._plan.finished(name, time.monotonic())
            for other in self._plan.overtaken(index):
                if other in self._seats:
                    self._seats[other].peer.drop()
            if self.complete:
                self._dispatch()
        self._store.changed(self.root)

    def _learn_header(self, name: str, answer: Answer) -> None:
        text = answer.headers.get(b"have")
        if text is not None:
            if not _HAVE.fullmatch(text) or len(text) > self.shards // 4 + 1:
                raise PeerFault(Fault.LIED, "says nonsense about what it has")
            self._learn(name, int(text, 16))

    def _learn(self, name: str, have: int) -> None:
        if self._plan is not None and name in self._seats:
            everything = (1 << len(self._plan.sizes)) - 1
            self._plan.sources.setdefault(name, Source()).have = have & everything
            self._seats[name].absent = False
            self._seats[name].since = time.monotonic()

    def _known(self, name: str) -> int:
        with self._lock:
            return self._plan.sources[name].have if self._plan and name in self._plan.sources else 0

    def _asking(self, name: str) -> bool:
        return self._plan is None or name not in self._plan.sources or self._plan.sources[name].busy

    def _absent(self, name: str) -> None:
        """It does not have the artifact, or no longer: ask again in a while, as long as others are at work."""
        with self._lock:
            if self._over:
                return
            self._seats[name].absent = True
            if self._plan is not None and name in self._plan.sources:
                self._plan.sources[name].have = 0
                self._plan.released(name)
            self._change.notify()
            end = time.monotonic() + self._limits.absent_seconds
            while not self._over and (rest := end - time.monotonic()) > 0:
                self._seats[name].bell.wait(rest)

    def _count(self, seat: _Seat) -> None:
        self.traffic.received += seat.peer.received
        source = seat.peer.source
        self.traffic.by_source[source] = self.traffic.by_source.get(source, 0) + seat.peer.received
