"""The integer merge of a round, coordinate-wise over whole arrays in numpy int64: the twin of `Exact.right`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[np.int64]
LIMIT = 2**15 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """The arithmetic part of `MergeRule`."""

    shift: int = 8
    trim: int = 0
    lr_num: int = 7
    lr_den: int = 10
    momentum_num: int = 9
    momentum_den: int = 10


def gradient(updates: Sequence[Lanes], late: Sequence[bool], rule: Rule) -> Lanes:
    """Clamped, shifted right when late, trimmed, averaged with floor; shape of one update."""
    stack = np.stack(
        [np.clip(u, -LIMIT, LIMIT) >> int(is_late) for u, is_late in zip(updates, late, strict=True)]
    )
    cut = len(stack) * rule.trim // 100
    kept = np.sort(stack, axis=0)[cut : len(stack) - cut]
    mean: Lanes = (kept.sum(axis=0) << rule.shift) // len(kept)
    return mean


def merge(
    weights: Lanes, momentum: Lanes, updates: Sequence[Lanes], late: Sequence[bool], rule: Rule
) -> tuple[Lanes, Lanes]:
    """New weights and momentum, saturated to int32. At least one update."""
    g = gradient(updates, late, rule)
    new = rule.momentum_num * momentum // rule.momentum_den + g
    step = rule.lr_num * (g + rule.momentum_num * new // rule.momentum_den) // rule.lr_den
    low, high = -(2**31), 2**31 - 1
    return np.clip(weights - step, low, high), np.clip(new, low, high)
