"""Fetch an artifact by its root from whoever has it, believing nobody.

The manifest proves itself against the root, each shard against the manifest. Every source in use has a
thread and a connection of its own; a source that lies, stalls, redirects or compresses is left and named,
the others go on. What was verified survives a kill and is not fetched again.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.errors import CommonweightError
from .address import AddressPolicy
from .job import Job
from .limits import LIMITS, Limits
from .peer import Fault, Peer
from .store import Store, too_long


@dataclass(frozen=True, slots=True)
class Blame:
    """Why a source was left during a fetch."""

    source: str
    kind: Fault
    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """An artifact now in ``store`` and how it came. ``left``: all sources left on the way, also those without it."""

    root: bytes
    store: Store
    left: tuple[Blame, ...] = ()
    bytes_received: int = 0
    resumed_shards: int = 0
    bytes_repeated: int = 0
    bytes_by_source: Mapping[str, int] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The artifact's bytes, read from the store and hashed again."""
        return self.store.get(self.root)

    @property
    def blamed(self) -> tuple[Blame, ...]:
        """Sources that misbehaved or failed."""
        return tuple(blame for blame in self.left if blame.kind is not Fault.ABSENT)


class Unavailable(CommonweightError):
    """E1502: the sources together did not give the artifact; `blames` says why each one was left."""

    def __init__(self, message: str, blames: tuple[Blame, ...]) -> None:
        super().__init__("E1502", message, "try again when more nodes have it")
        self.blames = blames


def fetch(
    root: bytes,
    sources: Sequence[str],
    store: Store,
    limits: Limits = LIMITS,
    policy: AddressPolicy = AddressPolicy(),  # noqa: B008 - frozen
    *,
    rng: random.Random | None = None,
    patience: float = 0.0,
    holders: Sequence[str] = (),
) -> Fetched:
    """Fetch an artifact of at most ``limits.artifact_bytes`` into the store, where it is served while it comes.

    At most ``limits.in_flight`` shards are in memory. Sources are asked in random order (``rng`` makes it repeatable),
    those among ``holders``, which are said to have it, before the others; when none has the artifact yet, they are
    asked again for ``patience`` seconds. Raises E1103 when the artifact is longer, E1404 when the store has no room,
    E1502 when the sources together do not give it, with each one's reason.
    """
    order = list(dict.fromkeys(sources))
    rng = rng or random.Random()
    rng.shuffle(order)
    order.sort(key=lambda source: source not in holders)
    job = Job(root, store, limits, policy, rng, patience)
    left = job.run(order)
    blames = tuple(Blame(source, fault.kind, fault.reason) for source, fault in left)
    if not job.complete:
        raise _unavailable(root, blames, job)
    t = job.traffic
    return Fetched(root, store, blames, t.received, t.resumed, t.repeated, t.by_source)


def _unavailable(root: bytes, blames: tuple[Blame, ...], job: Job) -> Unavailable:
    reasons = "; ".join(f"{blame.source[:100]}: {blame.reason}" for blame in blames) or "nobody to ask"
    kept = f", {job.held} of its shards are kept" if job.held else ""
    late = " in time" if job.late else ""
    return Unavailable(f"nobody serves artifact {root.hex()}{late}{kept} ({reasons})", blames)


class Library:
    """What a node reads artifacts from: its own store first, then everybody it knows. Thread-safe."""

    def __init__(
        self,
        store: Store,
        sources: Callable[[], Sequence[str]],
        limits: Limits = LIMITS,
        *,
        allow_private: bool = False,
        on_blame: Callable[[Blame], None] = lambda blame: None,
        holders: Callable[[bytes], Sequence[str]] = lambda root: (),
    ) -> None:
        """``sources``: base URLs known now; ``holders``: those said to have an artifact, asked first; ``on_blame``
        hears of every source that misbehaved or failed."""
        self.store = store
        self._sources, self._limits, self._on_blame = sources, limits, on_blame
        self._holders = holders
        self._policy = AddressPolicy(allow_private)
        self._strikes: Counter[str] = Counter()
        self._turns: dict[bytes, tuple[threading.Lock, int]] = {}
        self._lock = threading.Lock()

    def get(self, root: bytes, limit: int | None = None) -> bytes:
        """Verified bytes of an artifact of at most ``limit`` bytes. Raises as `fetch`."""
        with self._turn(root):  # two threads that want the same artifact fetch it once
            if self.store.has(root):
                try:
                    return self.store.get(root, limit)
                except CommonweightError as error:
                    if error.code not in ("E1403", "E1408"):
                        raise
            return self._fetch(root, limit).data

    def ensure(self, root: bytes, limit: int | None = None) -> Fetched | None:
        """Have an artifact of at most ``limit`` bytes in the store, without reading it; None when it was there.

        Raises as `fetch`.
        """
        with self._turn(root):
            if self.store.has(root):
                if limit is not None and (length := self.store.length(root)) > limit:
                    raise too_long(root, length, limit)
                return None
            return self._fetch(root, limit)

    def peers(self) -> list[Peer]:
        """A connection, not yet made, to each source that is still asked, in random order. Close them."""
        honest = self._honest()
        random.shuffle(honest)
        return [Peer(source, self._policy, self._limits) for source in honest[: self._limits.sources]]

    @property
    def record_sizes(self) -> range:
        """Acceptable bytes of a version's record."""
        return range(1, self._limits.record_bytes + 1)

    def _honest(self) -> list[str]:
        return [s for s in self._sources() if self._strikes[s] < self._limits.strikes]

    def _fetch(self, root: bytes, limit: int | None) -> Fetched:
        limits = self._limits if limit is None else self._limits.at_most(limit)
        try:
            holders = self._holders(root)
            found = fetch(root, self._honest(), self.store, limits, self._policy, holders=holders)
        except Unavailable as error:
            self._note(error.blames)
            raise
        self._note(found.blamed)
        return found

    def _note(self, blames: Sequence[Blame]) -> None:
        for blame in blames:
            with self._lock:
                self._strikes[blame.source] += blame.kind is Fault.LIED
            self._on_blame(blame)

    @contextlib.contextmanager
    def _turn(self, root: bytes) -> Iterator[None]:
        with self._lock:
            lock, waiting = self._turns.get(root, (threading.Lock(), 0))
            self._turns[root] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                waiting = self._turns[root][1] - 1
                self._turns[root] = (lock, waiting)
                if not waiting:
                    del self._turns[root]


class Shelf(Library):
    """A library that asks no node: its own store first, then ``read``, which gives verified bytes or raises."""

    def __init__(self, store: Store, read: Callable[[bytes, int], bytes], limits: Limits = LIMITS) -> None:
        super().__init__(store, list, limits)
        self._read = read

    def _fetch(self, root: bytes, limit: int | None) -> Fetched:
        data = self._read(root, self._limits.artifact_bytes if limit is None else limit)
        return Fetched(self.store.put(data, published=False), self.store)
