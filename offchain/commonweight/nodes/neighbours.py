"""A node's place in the gossip: what it believes, what it takes in from others, and a thread that exchanges news."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from eth_account.signers.local import LocalAccount

from ..core.state import State
from ..shardcast.access import Doorkeeper
from ..shardcast.address import AddressPolicy
from ..shardcast.gossip import Gossip, Rumours
from ..shardcast.limits import LIMITS
from ..shardcast.signing import Domain, address
from ..shardcast.store import Store
from ..shardcast.writing import Inbox

log = logging.getLogger("commonweight.node")
TURN_SECONDS = 3.0


class Neighbours:
    """Gossip of one node, registered where the chain's ``Endpoint`` events say so."""

    def __init__(
        self, account: LocalAccount, domain: Domain, state: State, store: Store, policy: AddressPolicy
    ) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        registered: Callable[[bytes], bool] = lambda who: who in state.endpoints  # noqa: E731
        self.rumours = Rumours(domain, registered)
        self.gossip = Gossip(
            account,
            self.rumours,
            lambda: dict(state.endpoints),
            lambda: (_newest(state), store.recent(LIMITS.told_holds)),
            policy,
        )
        keeper = Doorkeeper(domain, address(account), registered, LIMITS)
        self.inbox = Inbox(store, keeper, self.rumours, self.gossip.announcement)

    def holders(self, root: bytes) -> list[str]:
        """Where an artifact is said to be."""
        endpoints = self.gossip.endpoints()
        return [endpoints[who] for who in self.rumours.holders(root) if endpoints.get(who)]

    def start(self) -> None:
        """Exchange news from now on."""
        self._thread.start()

    def stop(self) -> None:
        """No more of it. Harmless when never started."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LIMITS.gossip_seconds)

    def _run(self) -> None:
        while not self._stop.wait(TURN_SECONDS):
            self.gossip.tick()


def _newest(state: State) -> list[bytes]:
    """The newest version of each task, youngest task first."""
    return [task.latest for _, task in sorted(state.tasks.items(), reverse=True)]
