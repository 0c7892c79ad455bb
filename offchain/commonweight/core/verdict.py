"""What a check of a work can say, and how it is written as a vote. Not checked is not passed: only `VALID` counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from . import codec
from .codec import B20, B32, U8, U16, U32, U64
from .errors import EncodingError
from .works import WITHHELD

MAX_REASON = 1000


class Outcome(StrEnum):
    """VALID with a full evidence count; INVALID names a leaf; WITHHELD: data not served; ERROR: our own failure."""

    VALID = "valid"
    INVALID = "invalid"
    WITHHELD = "withheld"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of checking one work.

    ``evidence`` counts what was really checked, ``measures`` holds the largest distances that were found, by name.
    """

    outcome: Outcome
    reason: str
    tree: int = 0
    leaf: int = 0
    evidence: tuple[tuple[str, int], ...] = ()
    measures: tuple[tuple[str, float], ...] = ()

    def vote(self, item: int) -> int | None:
        """The vote word, or None when there is nothing to vote (our own error is no verdict)."""
        if self.outcome is Outcome.ERROR:
            return None
        value = {Outcome.VALID: 0, Outcome.INVALID: self.leaf + 1, Outcome.WITHHELD: WITHHELD}[self.outcome]
        return vote_word(item, 0 if self.outcome is not Outcome.INVALID else self.tree, value)


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was looked at."""

    name: str
    value: U64


@dataclass(frozen=True, slots=True)
class Measure:
    """The largest distance of one sort that was found."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """A verdict with everything that repeating it takes: all else are artifacts, by their roots.

    ``mix``: in a sparse task the leaf of the mixing step before this work, in hexadecimal.
    ``rollout`` and ``sources``: as of the lease.
    """

    chain_id: U64
    tasks: B20
    task: U64
    round: U32
    slot: U16
    trainer: B20
    base: B32
    seed: B32
    spec: B32
    work: B32
    segments: tuple[U32, ...]
    outcome: str
    reason: str
    tree: U8
    leaf: U32
    counts: tuple[Count, ...]
    measures: tuple[Measure, ...]
    rollout: bool = False
    sources: tuple[B32, ...] = ()
    previous: B32 = bytes(32)
    mix: str = ""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return codec.encode(self)

    @staticmethod
    def decode(data: bytes) -> Evidence:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        found = codec.decode(Evidence, data)
        _outcome(found.outcome)
        return found

    @property
    def verdict(self) -> Verdict:
        """The verdict it is the evidence of."""
        counts = tuple((c.name, c.value) for c in self.counts)
        measures = tuple((m.name, m.value) for m in self.measures)
        return Verdict(_outcome(self.outcome), self.reason, self.tree, self.leaf, counts, measures)


def _outcome(name: str) -> Outcome:
    try:
        return Outcome(name)
    except ValueError as error:
        raise EncodingError(f"`{name[:20]}` is no outcome") from error


def vote_word(item: int, tree: int, value: int) -> int:
    """``item << 40 | tree << 32 | value`` (contracts: ``Panel``)."""
    return item << 40 | tree << 32 | value


def read_vote(vote: int) -> tuple[int, int, int]:
    """(item, tree, value) of a vote word."""
    return vote >> 40, vote >> 32 & 0xFF, vote & 0xFFFFFFFF
