"""The collective over TCP: peers find each other, reduce in a ring, survive each other's deaths, and let joiners in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import CommonweightError, EncodingError
from . import lookout, messages, recovery
from .codecs import Codec
from .interface import UNKNOWN, Begun, Dropped, Settled, Standing, Sum, Values
from .keeper import CONTROL, MESH, Keeper, require_answer
from .messages import (
    BEGIN,
    BLOB_LIMIT,
    GATHER,
    REDUCE,
    SETTLE,
    Beat,
    Join,
    Leave,
    Ready,
    Recover,
    Refuse,
    Result,
    Start,
    View,
)
from .reduction import Reduction, Runner
from .session import COMMON, OWN, Rules
from .wire import Credentials, Link, LinkError, dial

MOST_NEIGHBOURS = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a member listens, whom it asks first, and its deadlines in seconds.

    ``advertise``: the address at which others reach this member, where it differs (port forwarding).
    ``contacts``: addresses of any members; the same list may be given to all. ``founder``: found the session when no
    contact is in one and nobody holds a history; exactly one member should. ``replicas``: each member keeps its own
    state (`exchange`).
    """

    host: str = "127.0.0.1"
    port: int = 0
    advertise: tuple[str, int] | None = None
    contacts: tuple[tuple[str, int], ...] = ()
    founder: bool = False
    replicas: bool = False
    rules: Rules = field(default_factory=Rules)
    stall: float = 30.0  # a ring in which nothing moves
    operation: float = 900.0  # an operation, retries included
    recover: float = 600.0  # fetching the state
    enter: float = 60.0  # finding a session


def no_metric(event: str, **fields: object) -> None:
    """Measure nothing."""


class TcpCollective:
    """`interface.Collective` over TCP; see docs/collectives.md for the protocol and what it protects."""

    def __init__(self, me: Credentials, settings: Settings, metric: Callable[..., None] = no_metric) -> None:
        self._me, self._settings, self._metric = me, settings, metric
        listen = (settings.host, settings.port)
        self._keeper = Keeper(me, settings.rules, listen, settings.advertise, metric)
        self._mode = OWN if settings.replicas else COMMON
        self._operation = 0
        self._view = View(0, ())
        self._known: tuple[tuple[str, int], ...] = ()
        self._runner = Runner(me, self._keeper, settings.stall, metric)
        self._mesh: dict[str, Link] = {}
        self._standing = UNKNOWN
        self._pool = ThreadPoolExecutor(MOST_NEIGHBOURS, thread_name_prefix="mesh")
        self._closed = threading.Event()
        self._keeper.start()
        if settings.contacts:
            threading.Thread(target=self._watch, name="lookout", daemon=True).start()

    # What callers use

    @property
    def name(self) -> str:
        """This member's name."""
        return self._me.name

    @property
    def members(self) -> tuple[str, ...]:
        """Names in ring order, as of the last operation."""
        return self._view.names

    @property
    def address(self) -> tuple[str, int]:
        """Where this member listens."""
        return self._keeper.address

    def begin(self, root: bytes, standing: Standing = UNKNOWN) -> Begun:
        """See `interface.Collective.begin`. The first call finds the session, or founds it."""
        self._hold(root, standing)
        if self._me.name in self._view.names:
            self._call(BEGIN, "begin", root.hex())
            return Begun(self._view.names)
        return self._enter(root)

    def all_reduce(self, values: Values, through: Codec, out: Values | None = None) -> Sum:
        """See `interface.Collective.all_reduce`."""
        _require_values(values, through, out)
        result = np.empty_like(values) if out is None else out
        began = time.monotonic()
        job = Reduction(values, through, result)
        done = self._call(REDUCE, f"reduce {values.size} {values.dtype} {through.name}", "", job)
        seconds = time.monotonic() - began
        self._metric(
            "reduced",
            operation=self._operation,
            members=len(done.ran),
            attempts=job.attempts,
            seconds=round(seconds, 4),
            recovery=round(time.monotonic() - job.broken_at, 4) if job.broken_at else 0.0,
            sent_bytes=job.sent_bytes,
            codec=through.name,
        )
        return Sum(result, done.ran, job.attempts, seconds, job.sent_bytes)

    def gather(self, blob: bytes) -> dict[str, bytes]:
        """See `interface.Collective.gather`."""
        if len(blob) > BLOB_LIMIT:
            raise EncodingError(f"a gathered blob has at most {BLOB_LIMIT} bytes, not {len(blob)}")
        return _parts(self._call(GATHER, "gather", blob.hex()))

    def exchange(
        self, tag: int, outgoing: Mapping[str, bytes], senders: Collection[str], seconds: float
    ) -> dict[str, bytes]:
        """See `interface.Collective.exchange`. ``tag``, e.g. the round, must grow."""
        deadline = time.monotonic() + seconds
        if len(outgoing) > MOST_NEIGHBOURS:
            raise CommonweightError(
                "E1520",
                f"{len(outgoing)} neighbours are more than {MOST_NEIGHBOURS}",
                "use a sparser topology",
            )
        jobs = [self._pool.submit(self._send_to, n, tag, m, deadline) for n, m in outgoing.items()]
        found = self._keeper.mail.collect(tag, senders, deadline)
        for job in jobs:
            job.result()
        self._metric(
            "exchanged",
            tag=tag,
            sent_bytes=sum(map(len, outgoing.values())),
            missing=len(senders) - len(found),
        )
        return found

    def latest(self, senders: Collection[str]) -> dict[str, tuple[int, bytes]]:
        """(tag, message) of the newest unread message of each sender: mixing without waiting for anybody."""
        return self._keeper.mail.latest(senders)

    def settle(self, root: bytes, snapshot: Callable[[], bytes], standing: Standing = UNKNOWN) -> Settled:
        """See `interface.Collective.settle`."""
        self._hold(root, standing)
        done = self._call(SETTLE, "settle", root.hex())
        roots = _parts(done)
        self._metric("settled", operation=done.operation, root=done.root.hex(), members=len(roots))
        agreed = root if self._mode == OWN else done.root
        if done.wanted and root == agreed:
            self._keeper.snapshots.publish(root, snapshot())
        if root == agreed:
            return Settled(agreed, roots)
        self._metric("strayed", own=root.hex(), agreed=agreed.hex())
        holders = tuple(m for m in done.view.members if roots.get(m.name) == agreed)
        return Settled(agreed, roots, self._fetch(Recover(agreed, holders)))

    def close(self) -> None:
        """Leave the session and stop."""
        self._closed.set()
        self._keeper.post(Leave(self._me.name))
        self._runner.drop()
        for link in self._mesh.values():
            link.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._keeper.close()

    # Entering

    def _enter(self, root: bytes) -> Begun:
        """Find a session and wait until it lets this member in, fetching the state when told to."""
        held, recovered = root, None
        self._find(held)
        deadline = time.monotonic() + self._settings.enter + self._settings.operation
        while True:
            answer = require_answer(self._keeper.answers, deadline - time.monotonic())
            if isinstance(answer, Recover):
                try:
                    held, recovered = answer.root, self._fetch(answer)
                except CommonweightError as error:
                    self._metric("recovery_failed", reason=error.message)
                    continue
                self._keeper.post(Join(self._keeper.member, held))
            elif isinstance(answer, Result) and self._me.name in answer.view.names:
                self._operation, self._view = answer.operation, answer.view
                return Begun(self._view.names, recovered)
            elif isinstance(answer, Refuse):
                self._find(held)

    def _hold(self, root: bytes, standing: Standing) -> None:
        self._standing = standing
        self._keeper.hold(root, standing.work)

    def _me_seen(self) -> lookout.Seen:
        """This member as the others see it."""
        return lookout.Seen(self._me.name, *self.address, self._keeper.position)

    def _addresses(self) -> list[tuple[str, int]]:
        """Where others may be, this member left out."""
        mine = (self.address, self._settings.advertise)
        return [a for a in dict.fromkeys((*self._settings.contacts, *self._known)) if a not in mine]

    def _find(self, root: bytes) -> None:
        """Look for the session until its leader lets this member queue, or found it if that is this one's part."""
        self._forget()
        deadline, told = time.monotonic() + self._settings.enter, ""
        while time.monotonic() < deadline:
            me, seen = self._me_seen(), lookout.look(self._me, self._addresses(), self._metric)
            leader = lookout.session(seen)
            if leader is not None and leader.position.work >= self._standing.work:
                why = f"{leader.name} leads a session that does not let this member in"
                if self._ask(leader, root):
                    return
            else:
                # Without a history to go on from, never beside a session that it has been in.
                founder = self._settings.founder and not self._known
                why = lookout.hindrance(me, self._standing, founder, seen)
                if not why:
                    self._keeper.lead(root, lookout.alike(me, seen) if self._standing.work else 1)
                    self._keeper.post(Ready(1, BEGIN, f"begin {self._mode}", root.hex()))
                    return
            if why != told:
                self._metric("waiting", reason=why, work=self._standing.work, root=root.hex())
                told = why
            self._closed.wait(0.2)
        raise CommonweightError(
            "E1515",
            f"none of {len(self._addresses())} contacts has a session for this member: {told}",
            "start the founder or the members waited for, or check addresses and the token",
        )

    def _ask(self, leader: lookout.Seen, root: bytes) -> bool:
        """Whether a leader lets this member queue."""
        link = None
        try:
            link = dial(self._me, leader.host, leader.port, CONTROL, leader.name, 2.0)
            link.send(messages.encode(Join(self._keeper.member, root)), 2.0)
            if isinstance(messages.decode(link.receive(1 << 16, 5.0)), Beat):
                self._keeper.follow(link)
                return True
            link.close()
        except (LinkError, EncodingError) as error:
            self._metric("contact_failed", address=f"{leader.host}:{leader.port}", reason=error.message)
            if link is not None:
                link.close()
        return False

    def _watch(self) -> None:
        """While this member leads, look for another session; give way to one that outranks it and is there twice."""
        rival = ""
        while not self._closed.wait(self._settings.rules.silence):
            me = self._me_seen()
            if not me.leads:
                continue
            inside = {(m.host, m.port) for m in self._keeper.view.members}
            outside = [a for a in self._addresses() if a not in inside]
            other = lookout.session(lookout.look(self._me, outside, no_metric)) if outside else None
            known = {m.name for m in self._keeper.view.members}
            if other is None or other.name in known or not other.outranks(self._me_seen()):
                rival = ""
            elif rival != other.name:
                rival = other.name
            else:
                self._metric("gave_way", to=rival, work=other.position.work, root=other.position.root.hex())
                self._keeper.give_way(f"{rival} leads a session whose history holds more work")

    def _fetch(self, offer: Recover) -> bytes:
        s = self._settings
        return recovery.fetch(self._me, offer.root, offer.providers, s.recover, s.stall, self._metric)

    def _forget(self) -> None:
        self._runner.drop()
        self._known = tuple((m.host, m.port) for m in self._view.members) or self._known
        self._view, self._operation = View(0, ()), 0
        self._keeper.forget()

    # Operations

    def _call(self, kind: int, what: str, body: str, job: Reduction | None = None) -> Result:
        """One operation from `Ready` to `Result`."""
        number = self._operation + 1
        deadline = time.monotonic() + self._settings.operation
        if not self._view.members:
            raise Dropped("this member has not begun a round")
        self._keeper.post(Ready(number, kind, f"{what} {self._mode}", body))
        while True:
            answer = require_answer(self._keeper.answers, deadline - time.monotonic())
            if isinstance(answer, Refuse):
                self._forget()
                self._metric("dropped_self", reason=answer.reason)
                raise Dropped(answer.reason)
            if isinstance(answer, Result) and answer.operation == number:
                self._operation, self._view = number, answer.view
                return answer
            if isinstance(answer, Start) and job is not None and answer.operation == number:
                self._attempt(answer, job, deadline)

    def _attempt(self, start: Start, job: Reduction, deadline: float) -> None:
        """Run the ring once; values of its own that are not finite end this member's part."""
        try:
            self._runner.attempt(start, job, deadline)
        except EncodingError:
            self._keeper.post(Leave(self._me.name))
            self._forget()
            raise

    def _send_to(self, name: str, tag: int, message: bytes, deadline: float) -> None:
        """Send one neighbour its message, with one new connection if the old one broke."""
        for _ in range(2):
            link = self._mesh.get(name)
            try:
                if link is None:
                    member = self._view.member(name)
                    if member is None:
                        return
                    seconds = min(5.0, deadline - time.monotonic())
                    link = self._mesh[name] = dial(self._me, member.host, member.port, MESH, name, seconds)
                link.send(tag.to_bytes(8, "big"), deadline - time.monotonic())
                link.send(message, deadline - time.monotonic())
                return
            except (LinkError, EncodingError) as error:
                self._metric("neighbour_failed", name=name, reason=error.message)
                stale = self._mesh.pop(name, None)
                if stale is not None:
                    stale.close()


def _parts(result: Result) -> dict[str, bytes]:
    try:
        return {part.name: bytes.fromhex(part.body) for part in result.parts}
    except ValueError as error:
        raise EncodingError("a member's part is not hexadecimal") from error


def _require_values(values: Values, through: Codec, out: Values | None) -> None:
    """What a reduction can take; E1101 otherwise."""
    lanes = values.dtype == np.int32
    if values.ndim != 1 or not values.flags.c_contiguous or not (lanes or values.dtype == np.float32):
        raise EncodingError("a reduction takes one contiguous vector of float32 or int32")
    if lanes and through.name != "none":
        raise EncodingError("int32 values are summed exactly, with codec none")
    if through.name.startswith("topk"):
        raise EncodingError("a sum of top-k vectors is not one", "exchange top-k messages instead")
    if out is not None and (
        out.dtype != values.dtype or out.shape != values.shape or np.shares_memory(out, values)
    ):
        raise EncodingError("the output has the input's shape and dtype, and memory of its own")
