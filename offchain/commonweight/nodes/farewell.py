"""When a node that is done may leave: not while others who answer still lack what it may be the last to have.

Every node recomputes the final model version from the accepted updates and serves it; so whoever serves it needs
nothing more from us.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..shardcast.address import AddressPolicy
from ..shardcast.limits import LIMITS, Limits
from ..shardcast.manifest import HEADER, SMALLEST
from ..shardcast.peer import Fault, Peer, PeerFault

ASK_SECONDS = 3.0
PAUSE_SECONDS = 1.0
LONGEST_SECONDS = 60.0


class Farewell:
    """Patience of a node with the others, ``longest`` seconds in all from the first question."""

    def __init__(self, policy: AddressPolicy, longest: float = LONGEST_SECONDS) -> None:
        self._policy = policy
        self._longest = longest
        self._since: float | None = None
        self._asked = float("-inf")

    def over(self) -> bool:
        """Nobody need be asked any more: patience has ended."""
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since >= self._longest

    def due(self) -> bool:
        """It is time to ask again."""
        if time.monotonic() - self._asked < PAUSE_SECONDS:
            return False
        self._asked = time.monotonic()
        return True

    def lacking(self, root: bytes, urls: Sequence[str]) -> list[str]:
        """Those of ``urls`` that answer and do not have the artifact ``root``."""
        return [url for url in urls if _lacks(url, root, self._policy, LIMITS)]


def _lacks(url: str, root: bytes, policy: AddressPolicy, limits: Limits) -> bool:
    """A node that is still fetching has the manifest and not all shards."""
    peer = Peer(url, policy, limits)
    path = f"/v1/artifacts/{root.hex()}"
    try:
        manifest = peer.get(path, range(SMALLEST, limits.manifest_bytes + 1), ASK_SECONDS).body
        count = (len(manifest) - HEADER) // 32
        have = peer.get(f"{path}/have/0", range(-(-count // 8), -(-count // 8) + 1), ASK_SECONDS).body
        return int.from_bytes(have, "little").bit_count() < count
    except PeerFault as fault:
        return fault.kind is Fault.ABSENT
    finally:
        peer.close()
