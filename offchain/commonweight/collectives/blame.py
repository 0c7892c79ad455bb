"""Which link broke a ring, and which ring or member to try next; from what members report, without clock or socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

from .messages import Fault, Member

CORRUPT, UNREACHABLE, STALLED, CLOSED = (
    "corrupt",
    "unreachable",
    "stalled",
    "closed",
)  # how a fault's reason begins
STRIKES = 3  # failures of one link in one operation, where no other ring is possible, that cost its sender the place
TRIES = 64
Edge = tuple[str, str]  # sender, receiver


class Blame:
    """Bad links of a session, and strikes of the current operation."""

    def __init__(self) -> None:
        self._bad: set[Edge] = set()
        self._strikes: Counter[Edge] = Counter()

    def forgive(self) -> None:
        """An operation went well. Links known to be bad stay avoided."""
        self._strikes.clear()

    def decide(
        self, me: str, members: Sequence[Member], faults: Mapping[str, Fault]
    ) -> tuple[list[Edge], tuple[Member, ...], str]:
        """(links suspected now, members in the order to try next with ``me`` first, who must go or '').

        A bad link is gone around; a member with two of them, or the sender of one that cannot be avoided, goes.
        """
        names = [m.name for m in members]
        edges = self._suspected(names, faults)
        self._strikes.update(edges)
        self._bad = {e for e in self._bad if set(e) <= set(names)}
        ends = Counter(name for edge in self._bad for name in edge)
        worst, times = ends.most_common(1)[0] if ends else ("", 0)
        order = self._around(me, members)
        spent = [e for e in edges if self._strikes[e] >= STRIKES]
        gone = ""
        if times >= 2 and list(ends.values()).count(times) == 1:
            gone = worst
        elif order is None and spent:
            gone = spent[0][0]
        return edges, order or tuple(members), gone

    def _suspected(self, names: list[str], faults: Mapping[str, Fault]) -> list[Edge]:
        """Links that failed; what merely closed may be the echo of another failure."""
        by_kind: dict[str, list[tuple[str, Fault]]] = {}
        for name, fault in faults.items():
            by_kind.setdefault(fault.reason.partition(":")[0], []).append((name, fault))
        sure = by_kind.get(CORRUPT, []) + by_kind.get(UNREACHABLE, [])
        if not sure and STALLED in by_kind:
            sure = [min(by_kind[STALLED], key=lambda item: item[1].progress)]
        edges = []
        for name, fault in sure or by_kind.get(CLOSED, []):
            left = names[names.index(name) - 1]
            edges.append((fault.suspect, name) if fault.suspect == left else (name, fault.suspect))
        if sure:
            self._bad |= set(edges)
        return edges

    def _around(self, me: str, members: Sequence[Member]) -> tuple[Member, ...] | None:
        """A ring without bad links; None where there is none."""
        order, shuffle = list(members), Random(len(self._bad))
        for attempt in range(TRIES):
            if attempt == 1:
                order.reverse()
            elif attempt > 1:
                shuffle.shuffle(order)
            names = [m.name for m in order]
            if not any(e in self._bad for e in zip(names, names[1:] + names[:1], strict=True)):
                first = names.index(me)
                return tuple(order[first:] + order[:first])
        return None
