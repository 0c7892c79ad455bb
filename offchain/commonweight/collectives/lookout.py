"""Looking for sessions: who is there, what everybody holds, whom to join, when to found one again, when to give way.

A swarm that lost its quorum, or was cut in two, may leave members with different histories. They are never mixed:

* a session is joined only by those who hold no more work than it does; who holds more waits, and says so;
* without a session the member that holds most founds one, when more than half of those who took the last step of that
  history are there;
* a session whose leader finds another one that holds more work gives way to it (equal work: the larger root, then the
  smaller name), and its members join the other.

So of two histories the same one holds, whoever looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..core.errors import EncodingError
from . import messages
from .interface import Standing
from .listener import Metric
from .messages import Position
from .wire import CONTROL_LIMIT, Credentials, LinkError, dial

PURPOSE = "standing"
ASK_S = 2.0
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """A member that answered, and what it said."""

    name: str
    host: str
    port: int
    position: Position

    @property
    def leads(self) -> bool:
        """Whether it leads a session, by its own word."""
        return [m.name for m in self.position.leader] == [self.name]

    def outranks(self, other: Seen) -> bool:
        """Whether its history holds rather than the other's."""
        mine, theirs = (self.position.work, self.position.root), (other.position.work, other.position.root)
        return mine > theirs or (mine == theirs and self.name < other.name)


def ask(me: Credentials, host: str, port: int) -> Seen:
    """One member's position. Raises `LinkError`, `EncodingError`."""
    link = dial(me, host, port, PURPOSE, "", ASK_S)
    try:
        said = messages.decode(link.receive(CONTROL_LIMIT, ASK_S))
    finally:
        link.close()
    if not isinstance(said, Position):
        raise EncodingError(f"{host}:{port} did not say where it stands")
    return Seen(link.peer, host, port, said)


def look(me: Credentials, addresses: Iterable[tuple[str, int]], metric: Metric) -> dict[str, Seen]:
    """Everybody who answers, by name; leaders are asked themselves, whoever names them."""

    def try_to_ask(address: tuple[str, int]) -> Seen | None:
        try:
            return ask(me, *address)
        except (LinkError, EncodingError) as error:
            metric("contact_failed", address=f"{address[0]}:{address[1]}", reason=error.message)
            return None

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
        seen = {s.name: s for s in pool.map(try_to_ask, addresses) if s is not None}
        named = {m.name: (m.host, m.port) for s in seen.values() for m in s.position.leader}
        further = [address for name, address in named.items() if name not in seen and name != me.name]
        seen |= {s.name: s for s in pool.map(try_to_ask, further) if s is not None}
    seen.pop(me.name, None)
    return seen


def session(seen: Mapping[str, Seen]) -> Seen | None:
    """The leader of the session that holds most, if there is any."""
    best: Seen | None = None
    for one in seen.values():
        if one.leads and (best is None or one.outranks(best)):
            best = one
    return best


def hindrance(me: Seen, standing: Standing, founder: bool, seen: Mapping[str, Seen]) -> str:
    """Why this member must not found a session now; empty when it may."""
    engaged = [s.name for s in seen.values() if s.position.engaged and s.position.work >= standing.work]
    if engaged:
        return f"a session of {_names(engaged)} cannot be joined yet"
    waiting = [s for s in seen.values() if not s.position.engaged]
    ahead = [s.name for s in waiting if s.outranks(me) and s.position.work > 0]
    if ahead:
        return f"the history that goes on is held by {_names(ahead)}, waiting too"
    if standing.work == 0:
        return "" if founder else "no session is there to join"
    # Who has not begun yet does not say what it holds.
    there = {me.name, *(s.name for s in waiting if any(s.position.root))} & set(standing.members)
    if 2 * len(there) <= len(standing.members):
        missing = _names(set(standing.members) - there)
        return (
            f"only {len(there)} of the {len(standing.members)} members who took the last step are there; "
            f"waiting for {missing}"
        )
    return ""


def alike(me: Seen, seen: Mapping[str, Seen]) -> int:
    """How many who wait hold the same state, this member included: a session founded now waits for them."""
    return 1 + sum(not s.position.engaged and s.position.root == me.position.root for s in seen.values())


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:8]) + (" and others" if len(names) > 8 else "")
