"""The leader's half of a session as a state machine without clock or socket: membership, rounds, faults, agreement.

The first member of the view leads. Every operation is a barrier: all members say `Ready`, small operations are
answered with `Result` at once, a reduction is started in a view and ends when all of that view say `Done`. Whoever
dies, goes silent, lags or keeps breaking the ring leaves the view; the operation is started again with the others.
A reduction counts only by its `Result`, so the survivors of any sequence of failures hold the same sum. When the
leader dies the next member resumes the session from the survivors' `Report`s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .blame import Blame
from .messages import (
    BEGIN,
    GATHER,
    REDUCE,
    SETTLE,
    Changed,
    Done,
    Fault,
    Member,
    Message,
    Part,
    Ready,
    Recover,
    Refuse,
    Report,
    Result,
    Start,
    View,
)

NO_ROOT = bytes(32)
COMMON, OWN = "common", "own"  # one shared state, or each member its own replica
MOST_MEMBERS = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """When a member is given up, in seconds; the same for all members of a session."""

    silence: float = 10.0  # without a beat: dead, hung or cut off
    lag: float = 600.0  # after the first member was ready: too slow
    grace: float = 1.0  # after a broken ring: time for better evidence
    quorum: float = 0.5  # least share of an operation's members that may go on without the rest
    expect: int = 1  # members to wait for before the first round
    patience: float = 30.0  # how long a round waits for joiners that are fetching the state
    gather: float = 30.0  # how long to wait for them, and for the others after a leader's loss


@dataclass(frozen=True, slots=True)
class Send:
    """A message to one member."""

    to: str
    message: Message


class Session:
    """See the module. Handlers take the time in seconds and append to ``out``; `events` are for metrics."""

    def __init__(self, rules: Rules, me: str, view: View, root: bytes, now: float) -> None:
        self.rules, self.me, self.view, self.root = rules, me, view, root
        self.roots = {root}
        self.completed = 0
        self.last: Result | None = None
        self.failed = ""
        self.out: list[Send] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.joiners: dict[str, tuple[Member, bytes]] = {}
        self._began = now
        self._base = len(view.members)
        self._seen = dict.fromkeys(view.names, now)
        self._ready: dict[str, Ready] = {}
        self._first_ready: float | None = None
        self._running: View | None = None
        self._done: set[str] = set()
        self._faults: dict[str, Fault] = {}
        self._fault_at: float | None = None
        self._blame = Blame()
        self._providers: tuple[Member, ...] = ()
        self._offered: tuple[bytes, ...] = ()
        self._fetching: set[str] = set()

    @staticmethod
    def resume(rules: Rules, me: str, reports: Mapping[str, Report], now: float) -> Session:
        """Continue after the leader's loss with those members of the old view that reported."""
        old = max((r.view for r in reports.values()), key=lambda v: v.number)
        members = tuple(m for m in old.members if m.name in reports)
        view = View(old.number + 1, members)
        ahead = max((reports[m.name] for m in members), key=lambda r: r.completed)
        session = Session(rules, me, view, ahead.last[0].root if ahead.last else NO_ROOT, now)
        session.completed, session.last = ahead.completed, ahead.last[0] if ahead.last else None
        session._base = len(old.members)
        session._event("leader", old=old.names[0], survivors=len(members), operation=session.completed + 1)
        if not session._has_quorum():
            return session
        current = [reports[m.name] for m in members]
        for report in current:
            if report.completed < session.completed and session.last is not None:
                session._say(report.member.name, session.last)
        waiting = [r for r in current if r.completed == session.completed and r.waiting]
        runs = {(r.done_in, r.done_ran) for r in waiting}
        if len(waiting) == len(current) and len(runs) == 1 and waiting[0].done_in:
            session._ready = {r.member.name: r.waiting[0] for r in waiting}
            session._finish(ran=waiting[0].done_ran)
            return session
        for report in waiting:
            session.ready(now, report.member.name, report.waiting[0])
        return session

    # What members say

    def heard(self, now: float, name: str) -> None:
        """Any message of a member shows that it lives."""
        if name in self._seen:
            self._seen[name] = now

    def join(self, now: float, member: Member, root: bytes) -> None:
        """Somebody wants in; it enters at the next `BEGIN` at which it holds an agreed root."""
        if member.name in self.view.names and member.name != self.me:
            self.drop(now, member.name, "came back as a new process")
        if len(self.joiners) + len(self.view.members) >= MOST_MEMBERS and member.name not in self.joiners:
            self._say(member.name, Refuse("the session is full"))
            return
        self.joiners[member.name] = (member, root)
        self._event("joining", name=member.name, holds_root=root in self.roots)
        if root not in self.roots and self._providers:
            self._offer(member.name)
        self._advance(now)

    def ready(self, now: float, name: str, message: Ready) -> None:
        """A member reached an operation."""
        if self.failed or name not in self.view.names:
            return
        if message.operation == self.completed and self.last is not None:
            self._say(name, self.last)
            return
        first = next(iter(self._ready.values()), message)
        if message.operation != self.completed + 1 or (message.kind, message.signature) != (
            first.kind,
            first.signature,
        ):
            self.drop(now, name, f"is at {message.signature}, not at {first.signature}", tell=True)
            return
        if message.kind == BEGIN and self._is_foreign(message):
            self.drop(now, name, "holds a state that was not agreed upon", tell=True)
            return
        self._ready[name] = message
        if self._first_ready is None:
            self._first_ready = now
        self._advance(now)

    def done(self, now: float, name: str, message: Done) -> None:
        """A member holds the result of a reduction."""
        if self._running is None or (message.view, message.operation) != (
            self._running.number,
            self.completed + 1,
        ):
            return
        self._done.add(name)
        if self._done >= set(self._running.names):
            self._finish(ran=self._running.names)

    def fault(self, now: float, name: str, message: Fault) -> None:
        """The ring broke somewhere."""
        if self._running is None or message.view != self._running.number or name not in self.view.names:
            return
        self._faults[name] = message
        if self._fault_at is None:
            self._fault_at = now

    def leave(self, now: float, name: str) -> None:
        """A member goes of its own will, which costs no quorum; if it leads, the next one takes over."""
        self._base -= name in self.view.names
        if name != self.me:
            self.drop(now, name, "left")
            return
        self.view = View(self.view.number + 1, tuple(m for m in self.view.members if m.name != name))
        for other in self.view.names:
            self._say(other, Changed(self.view))

    def drop(self, now: float, name: str, reason: str, tell: bool = False) -> None:
        """Go on without a member or joiner."""
        self.joiners.pop(name, None)
        if name not in self.view.names or self.failed:
            return
        if tell:
            self._say(name, Refuse(reason))
        self.view = View(self.view.number + 1, tuple(m for m in self.view.members if m.name != name))
        self._event(
            "dropped", name=name, reason=reason, operation=self.completed + 1, left=len(self.view.members)
        )
        self._seen.pop(name, None)
        self._ready.pop(name, None)
        if not self._has_quorum():
            return
        if self._running is not None:
            self._start()
        else:
            for other in self.view.names:
                self._say(other, Changed(self.view))
            self._advance(now)

    def end(self, reason: str) -> None:
        """The session is over for everybody."""
        self.failed = reason
        for name in self.view.names:
            self._say(name, Refuse(reason))

    def tick(self, now: float) -> None:
        """Let time pass: silence, lag, and the end of a grace after a broken ring."""
        for name in [n for n, seen in self._seen.items() if n != self.me and now - seen > self.rules.silence]:
            self.drop(now, name, f"was silent for {self.rules.silence:g} s", tell=True)
        if self.failed:
            return
        if (
            self._running is None
            and self._first_ready is not None
            and now - self._first_ready > self.rules.lag
        ):
            for name in [n for n in self.view.names if n not in self._ready]:
                self.drop(now, name, f"was {self.rules.lag:g} s later than the first", tell=True)
        if self._fault_at is not None and now - self._fault_at > self.rules.grace:
            self._judge(now)
        self._advance(now)

    # What follows from it

    def _advance(self, now: float) -> None:
        if (
            self.failed
            or self._running is not None
            or not self._ready
            or not set(self.view.names) <= set(self._ready)
        ):
            return
        kind = next(iter(self._ready.values())).kind
        if kind == REDUCE:
            self._start()
        elif kind == GATHER:
            self._finish()
        elif kind == SETTLE:
            self._settle()
        elif kind == BEGIN and self._may_begin(now):
            self._begin(now)

    def _may_begin(self, now: float) -> bool:
        early = self.completed == 0 and now - self._began < self.rules.gather
        coming = sum(root in self._open_roots() for _, root in self.joiners.values())
        if early and len(self.view.members) + coming < self.rules.expect:
            return False
        fetching = self._fetching & set(self.joiners)
        late = now - (self._first_ready or now) > self.rules.patience
        return late or all(self.joiners[name][1] in self.roots for name in fetching)

    def _is_foreign(self, message: Ready) -> bool:
        common = message.signature.endswith(COMMON)
        return common and self.roots != {NO_ROOT} and bytes.fromhex(message.body) not in self.roots

    def _open_roots(self) -> set[bytes]:
        """Roots with which a joiner may come in."""
        if self.roots == {NO_ROOT}:
            return {bytes.fromhex(r.body) for r in self._ready.values()}
        return self.roots

    def _begin(self, now: float) -> None:
        """Let in the joiners that hold an agreed root."""
        roots = self._open_roots()
        entering = [m for m, root in self.joiners.values() if root in roots]
        if self.roots == {NO_ROOT}:
            self.roots = roots
            self.root = bytes.fromhex(self._ready[self.view.names[0]].body)
        self._fetching.clear()
        if entering:
            self.view = View(self.view.number + 1, (*self.view.members, *entering))
            for member in entering:
                del self.joiners[member.name]
                self._seen[member.name] = now
                self._event(
                    "joined", name=member.name, operation=self.completed + 1, members=len(self.view.members)
                )
        self._finish()

    def _settle(self) -> None:
        """Agree on the root of the shared state, or note every replica's; tell the others where to get it."""
        bodies = {name: bytes.fromhex(r.body) for name, r in self._ready.items()}
        if self._ready[self.view.names[0]].signature.endswith(OWN):
            self.root, self.roots = bodies[self.view.names[0]], set(bodies.values())
            strays: list[str] = []
        else:
            votes = Counter(
                bodies[name] for name in self.view.names
            )  # of equally many, the first in ring order
            self.root = votes.most_common(1)[0][0]
            self.roots = {self.root}
            strays = [name for name in self.view.names if bodies[name] != self.root]
        self._providers = tuple(m for m in self.view.members if m.name not in strays)
        self._offered = tuple(bodies[m.name] for m in self._providers)
        waiting = [name for name, (_, root) in self.joiners.items() if root not in self.roots]
        if strays:
            self._event("strays", names=strays, root=self.root.hex(), operation=self.completed + 1)
        self._finish(wanted=bool(strays or waiting))
        if not (strays or waiting):
            self._providers = ()  # nobody keeps a snapshot: a joiner waits for the next settlement
        for name in waiting:
            self._offer(name)

    def _offer(self, name: str) -> None:
        """Tell a joiner what to fetch and from whom: its ring neighbour first."""
        self._fetching.add(name)
        at = sum(name.encode())
        first = at % len(self._providers)
        root = self._offered[first] if len(self.roots) > 1 else self.root
        holders = [
            m
            for m, held in zip(self._providers, self._offered, strict=True)
            if held == root and m.name in self.view.names
        ]
        turn = at % len(holders) if holders else 0
        self._say(name, Recover(root, tuple(holders[turn:] + holders[:turn])))

    def _start(self) -> None:
        self._running, self._done, self._faults, self._fault_at = self.view, set(), {}, None
        for name in self.view.names:
            self._say(name, Start(self.completed + 1, self.view))

    def _finish(self, ran: tuple[str, ...] = (), wanted: bool = False) -> None:
        """The operation is over."""
        parts = tuple(Part(n, self._ready[n].body) for n in self.view.names if n in self._ready)
        self.completed += 1
        self.last = Result(self.completed, self.view, ran, self.root, wanted, parts)
        self._ready, self._first_ready, self._running = {}, None, None
        self._done, self._faults, self._fault_at = set(), {}, None
        self._blame.forgive()
        self._base = len(self.view.members)
        for name in self.view.names:
            self._say(name, self.last)

    def _judge(self, now: float) -> None:
        """A grace has passed since the ring broke and nobody is known to be dead: run another one."""
        edges, order, gone = self._blame.decide(self.me, self.view.members, self._faults)
        for sender, receiver in edges:
            self._event("fault", sender=sender, receiver=receiver)
        if gone == self.me:
            self.failed = "this member's own links keep breaking the ring"
        elif gone:
            self.drop(now, gone, "its links keep breaking the ring", tell=True)
        else:
            self.view = View(self.view.number + 1, order)
            self._start()

    def _has_quorum(self) -> bool:
        if len(self.view.members) >= self.rules.quorum * self._base and self.me in self.view.names:
            return True
        self.end(f"only {len(self.view.members)} of {self._base} members are left")
        return False

    def _say(self, to: str, message: Message) -> None:
        self.out.append(Send(to, message))

    def _event(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))
