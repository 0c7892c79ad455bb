"""The complete list of confirmed events, kept true across reorganisations: a node's state is a fold of it."""

from __future__ import annotations

from collections import deque

from ..core.events import Event
from .client import Chain, Head

REMEMBERED = 256  # block hashes kept to find the common ancestor after a reorganisation


class Follower:
    """Follows a chain at ``depth`` blocks behind its head (default: the chain's confirmations) from block
    ``start``.

    ``events`` always is what the confirmed chain said, from the start block to `cursor`.
    """

    def __init__(self, chain: Chain, depth: int | None = None, start: int | None = None) -> None:
        self.events: list[Event] = []
        self.rewound = False
        self._chain = chain
        self._depth = chain.confirmations if depth is None else depth
        self._start = chain.start if start is None else start
        self._marks: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._done = b""

    @property
    def cursor(self) -> tuple[int, bytes] | None:
        """Number and hash of the last block that `events` covers."""
        return self._marks[-1] if self._marks else None

    def poll(self, head: Head | None = None) -> list[Event]:
        """Read what is newly confirmed and return it; never waits for blocks. ``head``: the newest block, if just read.

        After a reorganisation below the cursor, `rewound` is True until the next call: `events` has lost its
        tail, and the caller folds it anew from the start (it already holds what this call returns). Raises
        E1203 or E1206 when the chain does not answer; the next call goes on from the same place, so look at
        `rewound` after an error too.
        """
        self.rewound = False
        head = head or self._chain.head()
        if head.hash == self._done:
            return []
        self._rewind(head.number)
        fresh = self._advance(head.number - self._depth)
        if fresh is None:
            return []
        self._done = head.hash
        return fresh

    def _advance(self, target: int) -> list[Event] | None:
        """Read up to block ``target``; None when the chain moved while it was read and nothing was taken."""
        first = self._marks[-1][0] + 1 if self._marks else self._start
        if target < first:
            return []
        wanted = self._chain.block_hash(target)
        fresh = self._chain.events(first, target)
        # A range is read in several requests. Only when its last block is the same before and after, all of
        # it was.
        if wanted is None or self._chain.block_hash(target) != wanted:
            return None
        self.events += fresh
        for event in fresh:
            if event.block < target and (not self._marks or self._marks[-1][0] < event.block):
                self._marks.append((event.block, event.block_hash))
        self._marks.append((target, wanted))
        return fresh

    def _rewind(self, head: int) -> None:
        """Drop everything above the newest block that we share with the canonical chain.

        A block that is missing proves nothing: behind one RPC address stand several nodes, some of them late.
        Only another hash at the same height does.
        """
        diverged, keep = False, len(self._marks)
        while keep:
            number, seen = self._marks[keep - 1]
            known = self._chain.block_hash(number) if number <= head else None
            if known == seen:
                break
            diverged |= known is not None
            keep -= 1
        if not diverged:
            return
        self.rewound = True
        while len(self._marks) > keep:
            self._marks.pop()
        last = self._marks[-1][0] if self._marks else self._start - 1
        self.events = [event for event in self.events if event.block <= last]
