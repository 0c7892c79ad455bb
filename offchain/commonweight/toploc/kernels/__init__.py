"""Compiled twins of what `topk`, `field`, `proofs` and `sampling` do in numpy; equal results, a few times sooner."""

from .field import evaluate, interpolate, inverse_table
from .judge import judge
from .race import race
from .select import top

__all__ = ["evaluate", "interpolate", "inverse_table", "judge", "race", "top"]
