"""What a round of a swarm is made of: plan, messages, report.

A round is a generator without I/O: it yields the messages of one exchange, addressed by member, and is sent what
arrived. The simulator steps many of them in one process (`swarm`); a real process drives one over its collective
(`peer`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Messages = Mapping[int, bytes]
# A test double's way in: what a worker means to send, before it is encoded. The honest one changes nothing.
Tamper = Callable[[Int64], Int64]
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """One round as everybody knows it: members ascending, this worker's inner steps, its stretch of the schedule, and
    which members were away in the round before."""

    round: int
    members: tuple[int, ...]
    steps: int
    progress: tuple[float, float] = (0.0, 1.0)
    returning: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a round was for one worker: tokens, mean training loss, root of its version, neighbours left out."""

    tokens: int
    loss: float
    root: bytes
    dropped: tuple[int, ...] = ()


Round = Generator[Messages, Messages, Report]


def honest(lanes: Int64) -> Int64:
    """The tamper of a worker that does not tamper."""
    return lanes
