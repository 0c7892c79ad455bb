"""Seeded sampling that a validator can replay token by token from one teacher-forced pass (Gumbel-max trick).

The token of a row is ``argmax_t (float64(logit_t) / temperature + g_t)`` over the nucleus, the lowest id among equals,
with the noise ``g`` of `noise`; at temperature 0 it is the largest logit. The nucleus of ``top_p`` holds the tokens
before which, in the order of logit (downwards) and id, less than ``top_p`` of the probability lies.

A verifier's logits are never quite the sampler's. So `replay` reports per token by how much the claimed one falls
short of the verifier's own choice: its margin, 0 for the same token. Logits that differ by at most d keep honest
margins within 2 d / temperature; a token that was chosen in another way has a margin of the order of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..core.errors import CommonweightError
from . import fast
from .noise import Floats, Keys, gumbel, gumbel_tensor, mix, row_keys, token_steps

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

BLOCK = 1 << 15
"""Entries of logits that are looked at together: their temporaries fit a second-level cache."""

_LN2 = float(np.log(2.0))
# -log(v) <= ln 2 * (127 + 52 - b / 2**23) with b the bits of v * 2**52 as a float32: chords lie below a logarithm.
_SCALE, _OFFSET = -_LN2 / 2**23, _LN2 * (127 + 52)
SLACK = 1e-3
MAX_MARGIN = 1e3


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; part of a spec, so that nobody chooses it alone."""

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not 0.01 <= self.temperature <= 100:
            raise CommonweightError("E1004", f"temperature must be 0 or 0.01..100, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise CommonweightError("E1004", f"top_p must be above 0 and at most 1, not {self.top_p}")


@dataclass(frozen=True, slots=True)
class Replay:
    """How far each token of one sequence falls short of the verifier's choice.

    ``margins``: float64 ``(n,)``, 0 for the verifier's own choice, `MAX_MARGIN` for a token outside the nucleus;
    ``mismatches``: tokens whose margin exceeds the tolerance; ``worst``: the largest margin; ``first``: index of the
    first mismatch, or -1.
    """

    margins: Floats
    mismatches: int
    worst: float
    first: int

    @property
    def honest(self) -> bool:
        """No token beyond the tolerance."""
        return self.mismatches == 0


def sample(logits: Logits | Tensor, keys: Keys, positions: npt.NDArray[np.int64], rule: Sampling) -> Tokens:
    """Next token of each row, int64 ``(rows,)``.

    ``logits`` float32 ``(rows, vocab)`` (minus infinity forbids a token); ``keys`` of `noise.sequence_keys` and
    ``positions``, the number of tokens sampled before in the row's sequence, ``(rows,)`` each. Raises E1604 when a
    row has NaN or infinite logits, or none that is finite.
    """
    if isinstance(logits, Tensor) and logits.device.type != "cpu":
        return _sample_on_device(logits, row_keys(keys, positions), rule)
    return choose(_array(logits), row_keys(keys, positions), rule)[0]


def replay(
    logits: Logits | Tensor,
    tokens: Tokens,
    seed_key: int,
    rule: Sampling,
    *,
    first_position: int = 0,
    tolerance: float = 1e-3,
    nucleus_tolerance: float = 1e-3,
) -> Replay:
    """Replay the tokens of one sequence: ``logits[i]`` is what the verifier would have sampled ``tokens[i]`` from.

    ``logits`` float32 ``(n, vocab)``, ``tokens`` int ``(n,)``. ``tolerance`` is for margins, ``nucleus_tolerance`` for
    the probability at the edge of the nucleus. A token outside the vocabulary is a mismatch. Raises E1604 as `sample`.
    """
    ours = _array(logits)
    claimed = np.asarray(tokens, dtype=np.int64)
    if claimed.shape != ours.shape[:1]:
        raise ValueError(f"{ours.shape[0]} rows of logits for {claimed.shape} tokens")
    if not claimed.size:
        return Replay(np.zeros(0), 0, 0.0, -1)
    positions = np.arange(first_position, first_position + claimed.size)
    rows = row_keys(np.array([seed_key], dtype=np.uint64), positions)
    inside = (claimed >= 0) & (claimed < ours.shape[1])
    safe = np.where(inside, claimed, 0)
    # Both edges of the nucleus lean towards the claimed token.
    own = Sampling(rule.temperature, max(rule.top_p - nucleus_tolerance, 1e-9) if rule.top_p < 1 else 1.0)
    chosen, best = choose(ours, rows, own)
    picked = np.take_along_axis(ours, safe[:, None], axis=1)[:, 0]
    margins = np.maximum(best - _scores(picked, rows, safe, rule.temperature), 0.0)
    # Two logarithms of two libraries may differ in the last place; the same token is the same token.
    margins[chosen == safe] = 0.0
    if rule.top_p < 1 and rule.temperature > 0:
        before = _mass_before(ours, safe, rule.temperature)
        inside &= before < rule.top_p + nucleus_tolerance
    margins = np.where(inside, np.minimum(margins, MAX_MARGIN), MAX_MARGIN)
    wrong = margins > tolerance
    return Replay(margins, int(wrong.sum()), float(margins.max()), int(wrong.argmax()) if wrong.any() else -1)


def choose(logits: Logits, rows: Keys, rule: Sampling) -> tuple[Tokens, Floats]:
    """Chosen token and its score of each row; ``rows`` are the keys of `noise.row_keys`."""
    if rule.temperature == 0:
        tokens = _greedy(logits)
        return tokens, np.take_along_axis(logits, tokens[:, None], axis=1)[:, 0].astype(np.float64)
    tokens, scores = _race(logits, rows, rule.temperature)
    if rule.top_p < 1:
        _confine(logits, rows, rule, tokens, scores)
    return tokens, scores


def _array(logits: Logits | Tensor) -> Logits:
    out = logits.detach().float().cpu().numpy() if isinstance(logits, Tensor) else logits
    return np.ascontiguousarray(out, dtype=np.float32)


def _greedy(logits: Logits) -> Tokens:
    tokens = logits.argmax(axis=1)
    _require_finite(np.take_along_axis(logits, tokens[:, None], axis=1))
    return tokens


def _require_finite(top: npt.NDArray[np.floating]) -> None:
    """A row's largest value shows NaN (which every maximum keeps), plus infinity, and rows without a choice."""
    if not np.isfinite(top).all():
        raise CommonweightError("E1604", "logits are not finite, so no token can be chosen from them")


def _scores(logits: Logits, rows: Keys, tokens: Tokens, temperature: float) -> Floats:
    """Exact score of given tokens; all arguments ``(n,)``."""
    if temperature == 0:
        return logits.astype(np.float64)
    return logits.astype(np.float64) / temperature + gumbel(rows, tokens)


def _race(logits: Logits, rows: Keys, temperature: float) -> tuple[Tokens, Floats]:
    """Gumbel-max over the whole vocabulary. An upper bound in float32 first; only what can win is computed exactly."""
    compiled = fast.kernels(logits.size)
    if compiled is not None:
        tokens, scores = compiled.race(logits, rows, temperature)
        _require_finite(scores)
        return tokens, scores
    count, vocab = logits.shape
    tokens, scores = np.empty(count, dtype=np.int64), np.empty(count)
    steps = token_steps(vocab)
    height = max(1, BLOCK // vocab)
    for at in range(0, count, height):
        part = slice(at, at + height)
        _race_block(logits[part], rows[part], temperature, steps, tokens[part], scores[part])
    return tokens, scores


def _race_block(
    logits: Logits, rows: Keys, temperature: float, steps: Keys, tokens: Tokens, scores: Floats
) -> None:
    bound = _bound(logits, rows, temperature, steps)
    lead = bound.argmax(axis=1)
    at = np.arange(len(rows))
    _require_finite(bound[at, lead])
    reached = _scores(logits[at, lead], rows, lead, temperature)
    # Whatever can reach the score of the leader by the bound; the float32 slack grows with the logits.
    edge = reached - SLACK * np.maximum(1.0, np.abs(reached) / 64)
    row, token = np.nonzero(bound >= edge[:, None])
    exact = _scores(logits[row, token], rows[row], token, temperature)
    order = np.lexsort((token, -exact, row))
    first = order[np.searchsorted(row[order], at)]
    tokens[:], scores[:] = token[first], exact[first]


def _bound(logits: Logits, rows: Keys, temperature: float, steps: Keys) -> Logits:
    """Score of every token or a little more: the noise bounded by -log(v), that by the bits of v as a float32."""
    with np.errstate(over="ignore"):
        x = mix(rows[:, None] + steps)
    x >>= np.uint64(12)
    bound = x.astype(np.float32).view(np.int32).astype(np.float32)
    bound *= np.float32(_SCALE)
    bound += np.float32(_OFFSET)
    bound += logits * np.float32(1 / temperature)
    return bound


def _confine(logits: Logits, rows: Keys, rule: Sampling, tokens: Tokens, scores: Floats) -> None:
    """Replace choices outside the nucleus in place: whatever ranks behind such a token is outside as well."""
    todo = np.arange(len(rows))
    masked = logits
    while todo.size:
        outside = _mass_before(logits[todo], tokens[todo], rule.temperature) >= rule.top_p
        masked, todo = masked[outside], todo[outside]
        if todo.size:
            masked = np.where(_before(masked, tokens[todo]), masked, np.float32(-np.inf))
            tokens[todo], scores[todo] = _race(masked, rows[todo], rule.temperature)


def _before(logits: Logits, tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Which tokens rank before the given one in each row: larger logit, or the same and a smaller id."""
    own = np.take_along_axis(logits, tokens[:, None], axis=1)
    ids = np.arange(logits.shape[1])
    before: npt.NDArray[np.bool_] = (logits > own) | ((logits == own) & (ids < tokens[:, None]))
    return before


def _mass_before(logits: Logits, tokens: Tokens, temperature: float) -> Floats:
    """Probability of the tokens that rank before the given one in each row."""
    weights = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    weights = np.exp(weights / temperature)
    mass: Floats = (weights * _before(logits, tokens)).sum(axis=1) / weights.sum(axis=1)
    return mass


def _sample_on_device(logits: Tensor, rows: Keys, rule: Sampling) -> Tokens:
    """The same definition where the logits are: only token ids leave the device."""
    ours = logits.detach().double()
    if rule.temperature == 0:
        return ours.argmax(dim=1).cpu().numpy()
    scores = ours / rule.temperature + gumbel_tensor(rows, ours.shape[1], ours.device)
    if rule.top_p < 1:
        order = ours.argsort(dim=1, descending=True, stable=True)
        mass = (ours / rule.temperature).softmax(dim=1).gather(1, order)
        outside = mass.cumsum(dim=1) - mass >= rule.top_p
        scores = scores.scatter(1, order, scores.gather(1, order).masked_fill(outside, -float("inf")))
    best, tokens = scores.max(dim=1)
    _require_finite(best.cpu().numpy())
    return tokens.cpu().numpy()


def ended_properly(tokens: Tokens, stop: int, limit: int) -> bool:
    """True when a completion ends with its only stop token, or without one at exactly ``limit`` tokens."""
    stops = np.flatnonzero(np.asarray(tokens) == stop)
    if stops.size:
        return bool(stops[0] == len(tokens) - 1) and len(tokens) <= limit
    return len(tokens) == limit
