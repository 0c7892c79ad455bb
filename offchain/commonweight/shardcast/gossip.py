"""Who has what, and which version is the newest: signed announcements that spread by pairwise exchange.

Only addresses that the chain knows are believed, endpoints come from the chain alone, and each node talks to a few
random others that it draws anew all the time, so nobody can surround it with invented peers. An exchange is push and
pull (Demers et al., "Epidemic algorithms for replicated database maintenance", 1987): news reaches n nodes in
O(log n) rounds.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..core import codec
from ..core.errors import EncodingError
from .address import AddressPolicy
from .limits import LIMITS, Limits
from .peer import Peer, PeerFault
from .signing import (
    ANNOUNCEMENT_SECONDS,
    SKEW_SECONDS,
    Bundle,
    Domain,
    Key,
    SignedAnnouncement,
    address,
    is_signed,
    sign_announcement,
    sign_request,
)

log = logging.getLogger("commonweight.shardcast.gossip")
PATH = "/v1/gossip"


@dataclass(slots=True)
class Rumours:
    """The newest valid announcement of each registered sender. Thread-safe."""

    domain: Domain
    registered: Callable[[bytes], bool]
    limits: Limits = LIMITS
    clock: Callable[[], float] = time.time
    _latest: dict[bytes, SignedAnnouncement] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def hear(self, item: SignedAnnouncement) -> bool:
        """Believe an announcement if there is reason to; True when it was news."""
        body, now = item.body, self.clock()
        fresh = now - SKEW_SECONDS <= body.expiry and body.issued <= now + SKEW_SECONDS
        bounded = body.issued < body.expiry <= body.issued + ANNOUNCEMENT_SECONDS
        small = len(body.versions) <= self.limits.told_versions and len(body.holds) <= self.limits.told_holds
        if not (fresh and bounded and small and self.registered(body.sender)) or not self._newer(item):
            return False
        if not is_signed(self.domain, item):  # last, since it costs milliseconds
            return False
        with self._lock:
            if not self._newer(item):
                return False
            self._latest[body.sender] = item
            return True

    def _newer(self, item: SignedAnnouncement) -> bool:
        with self._lock:
            known = self._latest.get(item.body.sender)
            return known is None or known.body.issued < item.body.issued

    def current(self) -> list[SignedAnnouncement]:
        """Announcements that have not expired; the others are forgotten."""
        with self._lock:
            now = self.clock()
            for sender in [
                s for s, a in self._latest.items() if a.body.expiry < now or not self.registered(s)
            ]:
                del self._latest[sender]
            return list(self._latest.values())

    def holders(self, root: bytes) -> list[bytes]:
        """Addresses that say they have an artifact."""
        return [a.body.sender for a in self.current() if root in a.body.holds]

    def versions(self) -> list[tuple[bytes, int]]:
        """Versions that nodes call their newest, with how many do, most often named first."""
        named = Counter(root for a in self.current() for root in a.body.versions)
        return named.most_common()

    def sample(self, rng: random.Random, mine: SignedAnnouncement | None = None) -> bytes:
        """A bundle for another node: our own announcement and some others at random."""
        items = self.current()
        rng.shuffle(items)
        chosen = ([mine] if mine else []) + items
        size, kept = 0, []
        for item in chosen[: self.limits.bundle]:
            size += len(codec.encode(item))
            if size + 4 > self.limits.gossip_bytes:
                break
            kept.append(item)
        return codec.encode(Bundle(tuple(kept)))

    def take_in(self, data: bytes) -> int:
        """Hear a bundle; returns how much of it was news. Raises `EncodingError`."""
        if len(data) > self.limits.gossip_bytes:
            raise EncodingError(f"a bundle has at most {self.limits.gossip_bytes} bytes")
        items = codec.decode(Bundle, data).items
        if len(items) > self.limits.bundle:
            raise EncodingError(f"a bundle has at most {self.limits.bundle} announcements")
        return sum(self.hear(item) for item in items)


def degree(nodes: int) -> int:
    """Neighbours per node: random graphs of this degree are connected with overwhelming probability."""
    return max(4, 2 * math.ceil(math.log2(max(nodes, 2))))


class Gossip:
    """This node's part: a view of a few peers, an exchange with one of them per turn."""

    def __init__(
        self,
        key: Key,
        rumours: Rumours,
        endpoints: Callable[[], Mapping[bytes, str]],
        tell: Callable[[], tuple[Sequence[bytes], Sequence[bytes]]],
        policy: AddressPolicy,
        limits: Limits = LIMITS,
        rng: random.Random | None = None,
    ) -> None:
        """``endpoints``: the chain's; ``tell``: newest versions and artifacts to announce."""
        self.key, self.me, self.rumours = key, address(key), rumours
        self.endpoints, self._tell, self._policy, self._limits = endpoints, tell, policy, limits
        self._rng = rng or random.Random()
        self._view: list[bytes] = []
        self._failed: Counter[bytes] = Counter()

    def announcement(self) -> SignedAnnouncement:
        """What this node says about itself now."""
        versions, holds = self._tell()
        limits = self._limits
        now = self.rumours.clock()
        return sign_announcement(
            self.key,
            self.rumours.domain,
            tuple(versions[: limits.told_versions]),
            tuple(holds[: limits.told_holds]),
            now,
        )

    def view(self) -> list[bytes]:
        """The present neighbours: one is replaced by a random other each time, failing ones first."""
        known = {who for who, url in self.endpoints().items() if url and who != self.me}
        view = [who for who in self._view if who in known]
        if view:
            view.remove(max(view, key=lambda who: (self._failed[who], self._rng.random())))
        others = sorted(known - set(view))
        self._rng.shuffle(others)
        self._view = (view + others)[: degree(len(known) + 1)]
        return list(self._view)

    def tick(self) -> int:
        """Exchange with one neighbour; returns how much news came of it. A dead neighbour costs its deadline only."""
        view = self.view()
        if not view:
            return 0
        other = self._rng.choice(view)
        try:
            news = self.exchange(other, self.endpoints()[other])
            self._failed[other] = 0
            return news
        except (PeerFault, EncodingError, KeyError) as error:
            self._failed[other] += 1
            log.debug("gossip with 0x%s failed: %s", other.hex(), error)
            return 0

    def exchange(self, other: bytes, url: str) -> int:
        """Send a bundle to a node and hear its own. Raises `PeerFault`, `EncodingError`."""
        body = self.rumours.sample(self._rng, self.announcement())
        auth = sign_request(self.key, self.rumours.domain, other, "POST", PATH, body, self.rumours.clock())
        peer = Peer(url, self._policy, self._limits)
        try:
            answer = peer.request(
                "POST",
                PATH,
                range(0, self._limits.gossip_bytes + 1),
                self._limits.gossip_seconds,
                headers=[("Authorization", auth)],
                data=body,
            )
            return self.rumours.take_in(bytes(answer.body))
        finally:
            peer.close()

    def sources(self, root: bytes | None = None) -> list[str]:
        """Endpoints to fetch from: those who say that they have ``root``, then everybody else, in random order."""
        endpoints = {who: url for who, url in self.endpoints().items() if url and who != self.me}
        holders = [who for who in self.rumours.holders(root) if who in endpoints] if root else []
        rest = [who for who in endpoints if who not in holders]
        self._rng.shuffle(holders)
        self._rng.shuffle(rest)
        return [endpoints[who] for who in [*holders, *rest]]
