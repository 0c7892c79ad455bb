"""Compiled twins of what `topk`, `field`, `proofs` and `sampling` do in numpy; equal results, a few times sooner."""

from .proofs import evaluate, interpolate, inverse_table, judge, top, tops
from .race import race

__all__ = ["evaluate", "interpolate", "inverse_table", "judge", "race", "top", "tops"]
