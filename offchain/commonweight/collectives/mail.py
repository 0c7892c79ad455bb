"""Where data connections and neighbours' messages wait until the training thread takes them. Everything is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from ..core.errors import EncodingError
from .wire import Link, LinkError

MESSAGE_LIMIT = 1 << 28  # bytes of one message; a larger model sends several
PER_SENDER = 4  # messages kept of one neighbour; older ones give way
IDLE_S = 3600.0  # a neighbour may compute this long between two messages


class Mailbox:
    """Filled by connection threads, emptied by the training thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rings: dict[int, Link] = {}
        self._letters: dict[str, dict[int, bytes]] = {}
        self._readers: set[Link] = set()
        self._closed = False

    def arrived(self, view: int, link: Link) -> None:
        """A ring connection for a view; of several, the latest counts."""
        with self._changed:
            if self._closed:
                link.close()
                return
            old = self._rings.get(view)
            self._rings[view] = link
            for stale in sorted(self._rings)[:-8]:
                self._rings.pop(stale).close()
            self._changed.notify_all()
        if old is not None:
            old.close()

    def ring(self, view: int, peer: str, deadline: float, stopped: Callable[[], bool]) -> Link | None:
        """The ring connection of ``view`` from ``peer``; None after ``deadline`` (monotonic seconds) or if stopped."""
        with self._changed:
            while True:
                link = self._rings.get(view)
                if link is not None and link.peer == peer:
                    return self._rings.pop(view)
                if time.monotonic() >= deadline or self._closed or stopped():
                    return None
                self._changed.wait(min(0.05, max(deadline - time.monotonic(), 0.001)))

    def read(self, link: Link) -> None:
        """Keep a neighbour's messages: an 8-byte tag and the message, until the connection ends."""
        with self._changed:
            self._readers.add(link)
        try:
            while True:
                tag = int.from_bytes(link.receive(8, IDLE_S), "big")
                self._keep(link.peer, tag, link.receive(MESSAGE_LIMIT, IDLE_S))
        except (LinkError, EncodingError):
            link.close()
        finally:
            with self._changed:
                self._readers.discard(link)
                self._changed.notify_all()

    def _keep(self, peer: str, tag: int, message: bytes) -> None:
        with self._changed:
            letters = self._letters.setdefault(peer, {})
            letters[tag] = message
            for old in sorted(letters)[:-PER_SENDER]:
                del letters[old]
            self._changed.notify_all()

    def collect(self, tag: int, senders: Collection[str], deadline: float) -> dict[str, bytes]:
        """Messages of ``tag``, waiting for all of ``senders`` until ``deadline``; missing ones are left out."""
        with self._changed:
            while True:
                found = {s: self._letters[s][tag] for s in senders if tag in self._letters.get(s, {})}
                left = deadline - time.monotonic()
                if len(found) == len(senders) or left <= 0 or self._closed:
                    for sender in found:
                        del self._letters[sender][tag]
                    return found
                self._changed.wait(left)

    def latest(self, senders: Collection[str]) -> dict[str, tuple[int, bytes]]:
        """(tag, message) of the newest message of each sender that has one; for asynchronous mixing."""
        with self._changed:
            out = {}
            for sender in senders:
                letters = self._letters.get(sender)
                if letters:
                    tag = max(letters)
                    out[sender] = (tag, letters[tag])
                    letters.clear()
            return out

    def close(self) -> None:
        """Close what waits."""
        with self._changed:
            self._closed = True
            links = [*self._rings.values(), *self._readers]
            self._rings.clear()
            self._changed.notify_all()
        for link in links:
            link.close()
