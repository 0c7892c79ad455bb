"""What a check of a work can say, and how it is written as a vote. Not checked is not passed: only `VALID` counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .works import WITHHELD


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


def vote_word(item: int, tree: int, value: int) -> int:
    """``item << 40 | tree << 32 | value`` (contracts: ``Panel``)."""
    return item << 40 | tree << 32 | value


def read_vote(vote: int) -> tuple[int, int, int]:
    """(item, tree, value) of a vote word."""
    return vote >> 40, vote >> 32 & 0xFF, vote & 0xFFFFFFFF
