"""One member's part of a reduction: connect the ring of a view, run it, report how it went."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..core.errors import EncodingError
from . import ring
from .blame import CLOSED, CORRUPT, STALLED, UNREACHABLE
from .codecs import Codec
from .interface import Values
from .keeper import RING, Keeper
from .messages import Done, Fault, Member, Start, View
from .wire import Credentials, Link, LinkError, dial

KINDS = {"left": CLOSED, "right": CLOSED, "deadline": STALLED, "abort": CLOSED}


class Reduction:
    """A reduction across its attempts; the input stays as it is until the session has the result."""

    def __init__(self, values: Values, through: Codec, out: Values) -> None:
        self.values, self.through, self.out = values, through, out
        self.ring: ring.Ring | None = None
        self.attempts, self.sent_bytes, self.broken_at = 0, 0, 0.0


class Runner:
    """Keeps a view's ring connections between reductions. ``stall``: seconds in which something must move."""

    def __init__(self, me: Credentials, keeper: Keeper, stall: float, metric: Callable[..., None]) -> None:
        self._me, self._keeper, self._stall, self._metric = me, keeper, stall, metric
        self._ring: tuple[int, Link, Link] | None = None

    def attempt(self, start: Start, job: Reduction, deadline: float) -> None:
        """Run the ring once in the view given; tell the session how it went.

        Raises `EncodingError` when this member's own values are not finite.
        """
        if not self._keeper.is_current():
            return  # it was called off already
        job.attempts += 1
        job.ring = None
        try:
            self._reduce(start, job, deadline)
        except ring.Broken as error:
            self._broken(start, job, error.side, KINDS[error.side], error.reason)
        except LinkError as error:
            self._broken(start, job, "right", UNREACHABLE, error.message)
        except EncodingError as error:
            if not np.isfinite(job.values).all():  # looked at only now, since it costs a pass over memory
                raise EncodingError("own values are not finite", "the training diverged") from error
            self._broken(start, job, "left", CORRUPT, error.message)
        else:
            self._keeper.post(Done(start.view.number, start.operation))

    def _reduce(self, start: Start, job: Reduction, deadline: float) -> None:
        names = start.view.names
        rank, size = names.index(self._me.name), len(names)
        if size == 1:
            job.out[:] = ring.all_reduce_alone(job.values, job.through)
            return
        left, right = self._ring_links(start.view, rank)
        plan = ring.Plan(
            rank, size, job.values.size, ring.default_tile(job.values.size, size, job.through.name)
        )
        job.ring = ring.Ring(plan, job.through, job.values, job.out, right.seal(start.operation, left))
        try:
            ring.run(
                job.ring,
                left.sock,
                right.sock,
                lambda: min(self._stall, deadline - time.monotonic()),
                self._keeper.abort,
            )
        finally:
            job.sent_bytes += job.ring.sent_bytes

    def _broken(self, start: Start, job: Reduction, side: str, kind: str, reason: str) -> None:
        """Report a failed attempt, unless it was called off."""
        job.broken_at = job.broken_at or time.monotonic()
        self.drop()
        self._metric("ring_broken", operation=start.operation, side=side, reason=reason)
        if side == "abort":
            return
        names = start.view.names
        rank = names.index(self._me.name)
        progress = job.ring.received if job.ring is not None else 0
        step = 1 if side == "right" else -1
        suspect = names[(rank + step) % len(names)]
        self._keeper.post(
            Fault(start.view.number, start.operation, suspect, f"{kind}: {reason}"[:500], progress)
        )

    def _ring_links(self, view: View, rank: int) -> tuple[Link, Link]:
        """Connections from the left and to the right neighbour in this view; made once per view."""
        if self._ring is not None and self._ring[0] == view.number:
            return self._ring[1], self._ring[2]
        self.drop()
        size = len(view.members)
        to, source = view.members[(rank + 1) % size], view.members[(rank - 1) % size]
        seconds = min(self._stall, max(self._keeper.rules.silence, 5.0))
        purpose = f"{RING}/{view.number}"
        deadline = time.monotonic() + seconds
        right = self._dial_right(to, purpose, deadline)
        left = self._keeper.mail.ring(
            view.number, source.name, deadline, lambda: not self._keeper.answers.empty()
        )
        if left is None:
            right.close()
            side = "abort" if not self._keeper.answers.empty() else "left"
            raise ring.Broken(side, "the left neighbour did not connect")
        left.for_bulk()
        right.for_bulk()
        self._ring = (view.number, left, right)
        return left, right

    def _dial_right(self, to: Member, purpose: str, deadline: float) -> Link:
        """Connect to the right neighbour, which may be busy with strangers for a moment."""
        while True:
            try:
                return dial(self._me, to.host, to.port, purpose, to.name, deadline - time.monotonic())
            except LinkError as error:
                if not self._keeper.answers.empty():
                    raise ring.Broken("abort", "told to stop") from error
                if time.monotonic() + 0.1 > deadline:
                    raise
                time.sleep(0.1)

    def drop(self) -> None:
        """Close the ring's connections."""
        if self._ring is not None:
            self._ring[1].close()
            self._ring[2].close()
            self._ring = None
