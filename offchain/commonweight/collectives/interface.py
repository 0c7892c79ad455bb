"""The one interface of a collective, whatever carries it: our TCP peers, torch.distributed, or PCCL.

A round of a swarm with one common state::

    begun = collective.begin(root)                    # who takes part; a joiner gets the state here
    delta = train(begun.recovered or state)
    total = collective.all_reduce(delta, codec("int8"))
    state = outer_step(state, total.values / len(total.members))
    settled = collective.settle(root_of(state), lambda: state.encode())

Every member holds the same bits after `all_reduce`; `settle` proves it by root and lets joiners fetch the state.
With replicas of their own (neighbour-only mixing) members use `exchange` between `begin` and `settle` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..core.errors import CommonweightError
from .codecs import Codec

Values = npt.NDArray[np.float32] | npt.NDArray[np.int32]


class Dropped(CommonweightError):
    """The session goes on without this member (E1511): `begin` again joins anew and recovers the state."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "E1511", f"outside the session: {reason}", "begin again to rejoin with the current state"
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a member's state has come, for when a swarm has fallen apart.

    Of two histories the one with more ``work`` holds (what is counted is the caller's choice, as long as it grows with
    every step and with those who took it). ``members`` took the last step: more than half of them must be there to go
    on from it without a session.
    """

    work: int = 0
    members: tuple[str, ...] = ()


UNKNOWN = Standing()


@dataclass(frozen=True, slots=True)
class Begun:
    """Who takes part in the round, in ring order; the state, if this member had to fetch it."""

    members: tuple[str, ...]
    recovered: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """A reduction: the sum of the values of ``members`` (whoever died is not in it), and what it took."""

    values: Values
    members: tuple[str, ...]
    attempts: int
    seconds: float
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The agreed root; each member's own; the state, if this member strayed and had to fetch it."""

    root: bytes
    roots: dict[str, bytes]
    recovered: bytes | None = None

    @property
    def agreed(self) -> bool:
        """Whether all members held the same root."""
        return set(self.roots.values()) == {self.root}


class Collective(Protocol):
    """See the module. All calls block, have deadlines and must come in the same order from every member."""

    @property
    def name(self) -> str:
        """This member's name."""

    @property
    def members(self) -> tuple[str, ...]:
        """Names in ring order, as of the last operation."""

    def begin(self, root: bytes, standing: Standing = UNKNOWN) -> Begun:
        """Start a round with everybody who holds an agreed state.

        Raises `Dropped`, E1514 (no answer) and E1515 (no session that this member may join or found).
        """

    def all_reduce(self, values: Values, through: Codec, out: Values | None = None) -> Sum:
        """Sum over the members, the same bits for all. ``out``: where to put it (saves allocating).

        Int32 values are summed exactly and need codec ``none``. Raises `Dropped`; `EncodingError` for own values
        that are not finite.
        """

    def gather(self, blob: bytes) -> dict[str, bytes]:
        """Every member's blob of at most 512 bytes: weights, losses, signatures."""

    def exchange(
        self, tag: int, outgoing: Mapping[str, bytes], senders: Collection[str], seconds: float
    ) -> dict[str, bytes]:
        """Send messages to neighbours and take theirs of the same ``tag``; who is late or gone is left out."""

    def settle(self, root: bytes, snapshot: Callable[[], bytes], standing: Standing = UNKNOWN) -> Settled:
        """End a round: compare roots; ``snapshot`` is called if somebody needs the state. Raises `Dropped`."""

    def close(self) -> None:
        """Leave."""
