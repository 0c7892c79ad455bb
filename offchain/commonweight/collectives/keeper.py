"""The thread that keeps a member in its session: listener, control connections, beats, leading, taking the lead over.

One thread owns all session state and reads one queue; every connection has a small reader thread that fills it.
The training thread only posts messages (`post`) and waits for answers (`answers`), so it may be busy for minutes.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..core.errors import CommonweightError, EncodingError
from . import messages
from .listener import Listener, Metric, spawn
from .lookout import PURPOSE as STANDING
from .mail import Mailbox
from .messages import (
    Beat,
    Changed,
    Done,
    Fault,
    Join,
    Leave,
    Member,
    Message,
    Position,
    Ready,
    Recover,
    Refuse,
    Report,
    Result,
    Start,
    View,
)
from .recovery import PURPOSE as STATE
from .recovery import Snapshots, serve
from .session import Rules, Session
from .wire import CONTROL_LIMIT, Credentials, Link, LinkError, dial

CONTROL, RING, MESH = "control", "ring", "mesh"
Answer = Start | Result | Recover | Refuse


@dataclass(frozen=True, slots=True)
class Event:
    """What happened on a connection; ``message`` None: it was lost. From the training thread: ``link`` None."""

    link: Link | None
    message: Message | None = None
    action: Callable[[], None] | None = None


class Keeper:
    """See the module. `start` it, then `lead` or `follow`."""

    def __init__(
        self,
        me: Credentials,
        rules: Rules,
        listen: tuple[str, int],
        advertise: tuple[str, int] | None,
        metric: Metric,
    ) -> None:
        self.me, self.rules, self.metric = me, rules, metric
        self._listener = Listener(me, listen, self._dispatch, metric)
        self.address = self._listener.address
        self.member = Member(me.name, *(advertise or self.address))
        self.snapshots, self.mail = Snapshots(), Mailbox()
        self.answers: queue.Queue[Answer] = queue.Queue()
        self._answering = threading.Lock()
        self.view = View(0, ())
        self._abort_in, self.abort = socket.socketpair()
        self.abort.setblocking(False)
        self._abort_in.setblocking(False)
        self._events: queue.Queue[Event] = queue.Queue(maxsize=4096)
        self._links: dict[str, Link] = {}
        self._leader: Link | None = None
        self._leader_seen = 0.0
        self._session: Session | None = None
        self._completed = 0
        self._last: Result | None = None
        self._waiting: Ready | None = None
        self._done: tuple[int, tuple[str, ...]] = (0, ())
        self._start: Start | None = None
        self._lost: set[str] = set()
        self._reports: dict[str, tuple[Link, Report, float]] = {}
        self._electing_until = 0.0
        self._held = (0, bytes(32))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="keeper", daemon=True)

    # For the training thread

    def start(self) -> None:
        """Begin to listen."""
        self._listener.start()
        self._thread.start()

    def post(self, message: Message) -> None:
        """Tell the session something."""
        self._events.put(Event(None, message))

    def hold(self, root: bytes, work: int) -> None:
        """What this member says of its state when asked."""
        self._held = (work, root)

    @property
    def position(self) -> Position:
        """What this member holds and whom it follows; may be read by any thread."""
        work, root = self._held
        leader = self._leader
        engaged = self._session is not None or leader is not None or self._electing_until > 0
        head = self.member if self._session is not None else leader and self.view.member(leader.peer)
        return Position(work, root, engaged, (head,) if head else ())

    def lead(self, root: bytes, expect: int = 1) -> None:
        """Found a session whose first agreed state is ``root``; it waits for ``expect`` members to begin with."""
        self._events.put(Event(None, action=lambda: self._found(root, expect)))

    def give_way(self, reason: str) -> None:
        """End the session that this member leads; its members look for another."""

        def act() -> None:
            if self._session is not None:
                self._session.end(reason)
                self._flush()

        self._events.put(Event(None, action=act))

    def follow(self, link: Link) -> None:
        """Take part in the session that the other side of ``link`` leads."""
        self._events.put(Event(None, action=lambda: self._adopt(link)))

    def forget(self) -> None:
        """Be outside any session again, e.g. after having been dropped; earlier answers are void."""
        over = threading.Event()

        def act() -> None:
            self._resign("")
            while not self.answers.empty():
                self.answers.get_nowait()
            over.set()

        self._events.put(Event(None, action=act))
        over.wait(timeout=10)

    def _found(self, root: bytes, expect: int) -> None:
        self.view = View(1, (self.member,))
        rules = replace(self.rules, expect=max(expect, self.rules.expect))
        self._session = Session(rules, self.me.name, self.view, root, time.monotonic())
        self.metric("founded", name=self.me.name)

    def _adopt(self, link: Link) -> None:
        self._leader, self._leader_seen = link, time.monotonic()
        spawn(self._read, link)

    def close(self) -> None:
        """Stop everything, after what was posted before: a farewell must still reach the others."""
        with contextlib.suppress(queue.Full):
            self._events.put(Event(None, action=self._stopping.set), timeout=5)
        self._listener.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        self._stopping.set()
        self._resign("")
        self.mail.close()
        self._abort_in.close()
        self.abort.close()

    def is_current(self) -> bool:
        """Whether no further answer waits; then `abort` becomes readable only when one comes."""
        with self._answering:
            with contextlib.suppress(BlockingIOError):
                while self.abort.recv(64):
                    pass
            return self.answers.empty()

    # Connections

    def _dispatch(self, link: Link) -> None:
        """What to do with a connection, in a thread of its own, by what it was opened for."""
        kind, _, detail = link.purpose.partition("/")
        if kind == CONTROL:
            self._read(link)
        elif kind == STATE:
            try:
                serve(link, self.snapshots, self.rules.silence)
            except (LinkError, EncodingError) as error:
                self.metric("serving_ended", name=link.peer, reason=error.message)
            finally:
                link.close()
        elif kind == RING and detail.isdecimal() and len(detail) < 20:
            self.mail.arrived(int(detail), link)
        elif kind == MESH:
            self.mail.read(link)
        elif kind == STANDING:
            self._send(link, self.position)
            link.close()
        else:
            link.close()

    def _read(self, link: Link) -> None:
        """Feed the queue with a control connection's messages until it ends."""
        try:
            while True:
                data = link.receive(CONTROL_LIMIT, self.rules.silence)
                self._events.put(Event(link, messages.decode(data)))
        except (LinkError, EncodingError) as error:
            if not self._stopping.is_set():
                self.metric("control_ended", name=link.peer, reason=error.message)
        link.close()
        self._events.put(Event(link, None))

    def _send(self, link: Link, message: Message) -> None:
        try:
            link.send(messages.encode(message), 2.0)
        except LinkError:
            link.close()  # its reader reports the loss

    # The loop

    def _loop(self) -> None:
        pause = min(self.rules.silence / 5, 1.0)
        beat = last = time.monotonic()
        while not self._stopping.is_set():
            try:
                event = self._events.get(timeout=pause / 2)
            except queue.Empty:
                event = None
            now = time.monotonic()
            inside = self._session is not None or self._leader is not None
            if now - last > self.rules.silence and inside:
                self._resign(f"this process stood still for {now - last:.1f} s")
            last = now
            if event is not None:
                self._handle(now, event)
            if now - beat > pause:
                beat = now
                self._beat()
            self._tick(now)

    def _beat(self) -> None:
        for link in [*self._links.values(), *([self._leader] if self._leader else [])]:
            self._send(link, Beat(self._completed))

    def _tick(self, now: float) -> None:
        if self._session is not None:
            self._session.tick(now)
            self._flush()
        elif self._electing_until:
            self._try_to_lead(now)
        elif self._leader is not None and now - self._leader_seen > self.rules.silence:
            self._leader.close()  # its reader reports the loss
        for name, (link, _, since) in list(self._reports.items()):
            if not self._electing_until and now - since > self.rules.silence + 1:
                self._send(link, Refuse("the session went on without you"))
                del self._reports[name]

    def _handle(self, now: float, event: Event) -> None:
        link, message = event.link, event.message
        if event.action is not None:
            event.action()
        elif link is None:
            if message is not None:
                self._mine(now, message)
        elif message is None:
            self._lose(now, link)
        elif link is self._leader:
            self._from_leader(now, message)
        else:
            self._from_member(now, link, message)

    def _mine(self, now: float, message: Message) -> None:
        """The training thread's own step; kept so that a new leader can be told."""
        if isinstance(message, Ready):
            self._waiting, self._done = message, (0, ())
        elif isinstance(message, Done) and self._start is not None:
            self._done = (message.view, self._start.view.names)
        if self._session is not None:
            self._session_input(now, self.me.name, message)
        elif self._leader is not None:
            self._send(self._leader, message)

    def _session_input(self, now: float, name: str, message: Message) -> None:
        session = self._session
        assert session is not None
        session.heard(now, name)
        if isinstance(message, Ready):
            session.ready(now, name, message)
        elif isinstance(message, Done):
            session.done(now, name, message)
        elif isinstance(message, Fault):
            session.fault(now, name, message)
        elif isinstance(message, Leave):
            session.leave(now, name)
        self._flush()
        if isinstance(message, Leave) and name == self.me.name:
            self._resign("")

    def _from_member(self, now: float, link: Link, message: Message) -> None:
        if isinstance(message, Join):
            self._join(now, link, message)
        elif isinstance(message, Report):
            if message.member.name == link.peer:
                self._reports[link.peer] = (link, message, now)
                self._links.setdefault(link.peer, link)
        elif self._links.get(link.peer) is not link:
            pass  # not, or no longer, a member's connection
        elif self._session is not None:
            self._session_input(now, link.peer, message)
        elif isinstance(message, Ready) and link.peer in self._reports:
            # It reached its next operation between its report and our taking the lead.
            _, report, since = self._reports[link.peer]
            self._reports[link.peer] = (link, replace(report, waiting=(message,)), since)

    def _join(self, now: float, link: Link, message: Join) -> None:
        if message.member.name != link.peer or link.peer == self.me.name or len(message.member.host) > 255:
            link.close()
        elif self._session is not None and not self._session.failed:
            old = self._links.get(link.peer)
            self._links[link.peer] = link
            if old is not None and old is not link:
                old.close()
            self._send(link, Beat(self._completed))
            self._session.join(now, message.member, message.root)
            self._flush()
        else:
            self._send(link, Refuse("this member leads no session"))

    def _from_leader(self, now: float, message: Message) -> None:
        self._leader_seen = now
        if isinstance(message, Refuse):
            self._resign(message.reason)
        elif isinstance(message, Changed):
            self.view = message.view if message.view.number > self.view.number else self.view
        elif isinstance(message, Start | Result | Recover):
            self._deliver(message)

    def _deliver(self, message: Start | Result | Recover) -> None:
        """An answer for the training thread."""
        if isinstance(message, Start | Result) and message.view.number >= self.view.number:
            self.view = message.view
        if isinstance(message, Start):
            self._start = message
        elif isinstance(message, Result):
            self._completed, self._last, self._waiting, self._done = message.operation, message, None, (0, ())
            self._lost.clear()
        self._answer(message)

    def _answer(self, message: Answer) -> None:
        """Wake the training thread, in the middle of a reduction if need be."""
        with self._answering:
            self.answers.put(message)
            with contextlib.suppress(BlockingIOError):  # so many calls are waiting that one more says nothing
                self._abort_in.send(b"x")

    def _flush(self) -> None:
        """Deliver what the session decided."""
        session = self._session
        if session is None:
            return
        out, session.out = session.out, []
        for name, fields in session.events:
            self.metric(name, **fields)
        session.events = []
        for send in out:
            if send.to == self.me.name:
                if isinstance(send.message, Start | Result | Recover):
                    self._deliver(send.message)
                else:
                    self.view = session.view
            elif (link := self._links.get(send.to)) is not None:
                self._send(link, send.message)
                if isinstance(send.message, Refuse):
                    link.close()
        for name in [n for n in self._links if n not in session.view.names and n not in session.joiners]:
            self._links.pop(name).close()
        if session.failed:
            self._resign(session.failed)

    # Losing and taking the lead

    def _lose(self, now: float, link: Link) -> None:
        if link is self._leader:
            self._leader = None
            self.metric("leader_lost", name=link.peer)
            if self._completed or self._waiting:
                self._lost.add(link.peer)
                self._elect(now)
            else:
                self._resign("the leader was lost before this member was let in")
        elif self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._reports.pop(link.peer, None)
            if self._electing_until:
                self._lost.add(link.peer)
            if self._session is not None:
                self._session.drop(now, link.peer, "its connection was lost")
                self._flush()

    def _report(self) -> Report:
        return Report(
            self.member,
            self.view,
            self._completed,
            (self._last,) if self._last else (),
            (self._waiting,) if self._waiting else (),
            *self._done,
        )

    def _elect(self, now: float) -> None:
        """Follow the first member of the view that is not known to be lost; lead if that is this one."""
        while self._leader is None:
            candidates = [m for m in self.view.members if m.name not in self._lost]
            if not candidates or self.me.name not in self.view.names:
                self._resign("no member of the session can be reached")
                return
            if candidates[0].name == self.me.name:
                self._electing_until = now + min(self.rules.gather, 2 * self.rules.silence)
                return
            try:
                link = dial(self.me, candidates[0].host, candidates[0].port, CONTROL, candidates[0].name, 2.0)
            except (LinkError, EncodingError):
                self._lost.add(candidates[0].name)
                continue
            self._send(link, self._report())
            self._adopt(link)

    def _try_to_lead(self, now: float) -> None:
        """Resume the session when all others have reported, or enough time has passed."""
        others = {m.name for m in self.view.members} - self._lost - {self.me.name}
        if not others <= set(self._reports) and now < self._electing_until:
            return
        reports = {n: r for n, (_, r, _) in self._reports.items() if n in others}
        reports[self.me.name] = self._report()
        self._electing_until, self._reports, self._lost = 0.0, {}, set()
        self._session = Session.resume(self.rules, self.me.name, reports, now)
        self._flush()

    def _resign(self, reason: str) -> None:
        """Be in no session; the training thread learns the reason."""
        links = [*self._links.values(), *([self._leader] if self._leader else [])]
        self._session, self._leader, self._links, self._reports = None, None, {}, {}
        self._electing_until, self._waiting, self._completed, self._last = 0.0, None, 0, None
        self._done, self._start, self.view = (0, ()), None, View(0, ())
        self._lost.clear()
        for link in links:
            link.close()
        if reason:
            self.metric("outside", reason=reason)
            self._answer(Refuse(reason))


def require_answer(answers: queue.Queue[Answer], seconds: float) -> Answer:
    """The next answer; E1514 when there is none in time."""
    try:
        return answers.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise CommonweightError(
            "E1514", f"the session gave no answer for {seconds:.0f} s", "is the leader reachable?"
        ) from None
