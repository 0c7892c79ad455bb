"""A cell: machines of one operator that do the jobs of one trainer. The trainer leads, the others assist.

The leader connects to every assistant that it was told of, hands out one job at a time and works on some itself. A job
is opaque here: bytes, and the artifacts that they name by root, of which an assistant keeps the latest and asks for
those it lacks. What comes back are the job's pieces, in order. An assistant that dies, falls silent or refuses costs
its job a restart somewhere else; the leader alone would finish them all. Links are those of `wire`: both sides know the
operator's token.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..core import codec, merkle
from ..core.codec import B32, U32
from ..core.errors import CommonweightError, EncodingError
from .listener import Listener, Metric, spawn
from .wire import CONTROL_LIMIT, Credentials, Link, LinkError, dial

PURPOSE = "cell"
BEAT_S, SILENCE_S, DIAL_S = 2.0, 15.0, 5.0
IDLE_S = 24 * 3600.0  # between two leases
TRANSFER_S = 600.0  # one artifact or piece
PIECE_LIMIT = 1 << 31
KEPT = 8  # artifacts that an assistant remembers
MOST_ASSISTANTS = 63
_BEAT, _PIECE, _DONE, _REFUSED = b"b", b"p", b"d", b"r"

Work = Callable[[bytes, Mapping[bytes, bytes]], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Job:
    """What one machine computes at a time; ``needs`` are roots of artifacts."""

    body: bytes
    needs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Needs:
    body: U32
    roots: tuple[B32, ...]


class Assistant:
    """Serves leaders, one job after the other, until closed. ``work`` yields a job's pieces, or raises
    `CommonweightError` to refuse it."""

    def __init__(self, me: Credentials, listen: tuple[str, int], work: Work, metric: Metric) -> None:
        self._work, self._metric = work, metric
        self._listener = Listener(me, listen, self._serve, metric)
        self._busy = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self.address = self._listener.address

    def start(self) -> None:
        """Begin to listen."""
        self._listener.start()

    def close(self) -> None:
        """Take no more jobs."""
        self._listener.close()

    def _serve(self, link: Link) -> None:
        try:
            while link.purpose == PURPOSE:
                head = codec.decode(_Needs, link.receive(CONTROL_LIMIT, IDLE_S))
                job = Job(link.receive(head.body, TRANSFER_S), head.roots)
                with self._busy:  # a leader that comes back may find its former connection still at work
                    artifacts = self._complete(link, job.needs)
                    self._answer(link, job, artifacts)
        except (LinkError, EncodingError) as error:
            self._metric("leader_gone", name=link.peer, reason=error.message)
        finally:
            link.close()

    def _complete(self, link: Link, needs: Sequence[bytes]) -> dict[bytes, bytes]:
        """The artifacts of a job; asks for those that are not here."""
        if len(needs) > KEPT:
            raise EncodingError(f"a job of {len(needs)} artifacts names more than {KEPT}")
        missing = tuple(root for root in needs if root not in self._kept)
        link.send(codec.encode(_Needs(0, missing)), TRANSFER_S)
        for root in missing:
            data = link.receive(PIECE_LIMIT, TRANSFER_S)
            merkle.require_root(data, root, "an artifact of a job")
            self._kept[root] = data
        for root in needs:
            self._kept.move_to_end(root)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {root: self._kept[root] for root in needs}

    def _answer(self, link: Link, job: Job, artifacts: Mapping[bytes, bytes]) -> None:
        """Send the job's pieces as they are made, and beats in between."""
        sending, over = threading.Lock(), threading.Event()

        def say(kind: bytes, payload: bytes = b"") -> None:
            with sending:
                link.send(kind + payload, TRANSFER_S)

        def beat() -> None:
            while not over.wait(BEAT_S):
                try:
                    say(_BEAT)
                except LinkError:
                    return

        spawn(beat)
        try:
            for piece in self._work(job.body, artifacts):
                say(_PIECE, piece)
        except (LinkError, EncodingError):
            raise
        except CommonweightError as error:
            self._metric("refused", reason=str(error))
            say(_REFUSED, str(error).encode()[:1000])
        else:
            say(_DONE)
        finally:
            over.set()


@dataclass(slots=True)
class Cell:
    """The leader's side: the addresses of its assistants, and what it tells of them."""

    me: Credentials
    assistants: tuple[tuple[str, int], ...]
    metric: Metric
    patience: float = 3600.0  # seconds for one job of an assistant that goes on beating
    _links: dict[tuple[str, int], Link] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Machines, the leader included."""
        return 1 + len(self.assistants)

    def run(self, jobs: Sequence[Job], artifacts: Mapping[bytes, bytes], work: Work) -> list[list[bytes]]:
        """The pieces of every job, in order. Raises what ``work`` raises for a job that the leader does itself."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(jobs)):
            waiting.put(number)
        found: dict[int, list[bytes]] = {}
        threads = [
            threading.Thread(target=self._use, args=(a, jobs, artifacts, waiting, found), daemon=True)
            for a in self.assistants[: len(jobs)]
        ]
        for thread in threads:
            thread.start()
        while len(found) < len(jobs):
            try:
                # An assistant's job comes back here when it fails; none is silent for longer than SILENCE_S.
                number = waiting.get(timeout=0.1)
            except queue.Empty:
                if not any(t.is_alive() for t in threads) and waiting.empty() and len(found) < len(jobs):
                    raise AssertionError("a job of the cell was lost") from None
                continue
            found[number] = list(work(jobs[number].body, {r: artifacts[r] for r in jobs[number].needs}))
        return [found[number] for number in range(len(jobs))]

    def close(self) -> None:
        """Let the assistants go."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _use(
        self,
        address: tuple[str, int],
        jobs: Sequence[Job],
        artifacts: Mapping[bytes, bytes],
        waiting: queue.SimpleQueue[int],
        found: dict[int, list[bytes]],
    ) -> None:
        """Keep one assistant busy while jobs wait; the first failure ends its part in this lease."""
        host, port = address
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                link = self._links.get(address) or dial(self.me, host, port, PURPOSE, "", DIAL_S)
                self._links[address] = link
                found[number] = _ask(link, jobs[number], artifacts, self.patience)
                self.metric("assisted", address=f"{host}:{port}", job=number, pieces=len(found[number]))
            except (LinkError, EncodingError, Refused) as error:
                waiting.put(number)
                self.metric("assistant_failed", address=f"{host}:{port}", job=number, reason=error.message)
                stale = self._links.pop(address, None)
                if stale is not None:
                    stale.close()
                return


class Refused(CommonweightError):
    """An assistant will not do a job: E1523."""

    def __init__(self, reason: str) -> None:
        super().__init__("E1523", f"an assistant refused a job: {reason}")


def _ask(link: Link, job: Job, artifacts: Mapping[bytes, bytes], seconds: float) -> list[bytes]:
    """Have one job done within ``seconds``. Raises `LinkError`, `EncodingError`, `Refused`."""
    link.send(codec.encode(_Needs(len(job.body), job.needs)), DIAL_S)
    link.send(job.body, TRANSFER_S)
    # An assistant may first have to finish what a lost connection asked for; then the wait is for nothing.
    for root in codec.decode(_Needs, link.receive(CONTROL_LIMIT, SILENCE_S)).roots:
        if root not in job.needs:
            raise EncodingError("an assistant asked for an artifact that its job does not name")
        link.send(artifacts[root], TRANSFER_S)
    pieces: list[bytes] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = link.receive(PIECE_LIMIT, SILENCE_S)
        kind, payload = answer[:1], answer[1:]
        if kind == _PIECE:
            pieces.append(payload)
        elif kind == _DONE:
            return pieces
        elif kind == _REFUSED:
            raise Refused(payload.decode(errors="replace"))
        elif kind != _BEAT:
            raise EncodingError("an assistant said something that is no answer to a job")
    raise LinkError(f"an assistant was not done after {seconds:g} s")
