"""The learner: token-level policy gradients from trajectories of known age, as pure functions over one flat vector.

GRPO (arXiv 2402.03300) without its two biases (Dr. GRPO, arXiv 2503.20783) or in its first form, or RLOO (arXiv
2402.14740); importance ratios clipped on both sides (arXiv 2505.07291) and tokens masked whose probability has moved
too far since they were sampled. The same input gives the same bits within one numeric profile, so anybody can replay
a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.spec import RlSpec, TrainingSpec
from ..diloco.inner import TrainState
from ..diloco.inner import _adamw as adamw
from ..models.architecture import Architecture
from ..models.decoder import hidden_states, output_matrix
from .adapters import Trainable
from .environments import UNIT
from .trajectories import Trajectory


def advantages(rewards: Sequence[int], group: int, algorithm: str) -> npt.NDArray[np.float64]:
    """Advantage of each trajectory within its group of ``group`` consecutive ones; one correctly rounded division.

    ``rewards`` in units of 1 / `UNIT`. Zero for every member of a group whose rewards are all equal.
    """
    r = np.array(rewards, dtype=np.int64).reshape(-1, group)
    above = r * group - r.sum(axis=1, keepdims=True)
    if algorithm == "rloo":
        return (above / float((group - 1) * UNIT)).reshape(-1)
    if algorithm == "grpo":
        spread = np.sqrt((above.astype(np.float64) ** 2).sum(axis=1, keepdims=True) / group)
        return (above / np.maximum(spread, 1.0)).reshape(-1)
    return (above / float(group * UNIT)).reshape(-1)


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Rows that have something to teach, filled on the right.

    ``tokens`` int64 ``(rows, time)``; ``row``, ``column`` int64 ``(n,)``: the sampled tokens' places; ``old`` float32
    and ``advantage`` float32 ``(n,)``; ``total``: sampled tokens of the whole minibatch, those without advantage too.
    """

    tokens: Tensor
    row: Tensor
    column: Tensor
    old: Tensor
    advantage: Tensor
    total: int


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step saw; shares of sampled tokens."""

    loss: float
    reward: float
    ratio_mean: float
    ratio_max: float
    kl: float
    masked: float
    clipped: float
    used: int


@dataclass(frozen=True, slots=True)
class Learned:
    """State after a segment, its mean loss, and the statistics of its steps."""

    state: TrainState
    loss: float
    steps: tuple[StepStats, ...]

    @property
    def finite(self) -> bool:
        """False when the segment diverged."""
        parts = (self.state.theta, self.state.m, self.state.v)
        return math.isfinite(self.loss) and all(bool(torch.isfinite(t).all()) for t in parts)


def minibatch(rows: Sequence[Trajectory], group: int, algorithm: str) -> Minibatch:
    """Lay out whole groups for one step; trajectories without advantage only count."""
    value = advantages([r.reward for r in rows], group, algorithm)
    used = [i for i in range(len(rows)) if value[i] != 0]
    longest = max((rows[i].prompt.size + rows[i].tokens.size for i in used), default=1)
    tokens = np.zeros((len(used), longest), dtype=np.int64)
    row, column, old, advantage = [], [], [], []
    for at, i in enumerate(used):
        r, begin = rows[i], rows[i].prompt.size
        tokens[at, :begin] = r.prompt
        tokens[at, begin : begin + r.tokens.size] = r.tokens
        sampled = np.flatnonzero(r.mask)
        row.append(np.full(sampled.size, at))
        column.append(begin + sampled)
        old.append(r.logprobs[sampled])
        advantage.append(np.full(sampled.size, value[i]))

    def flat(parts: Sequence[npt.NDArray[Any]], dtype: type) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype=dtype))

    return Minibatch(
        torch.from_numpy(tokens),
        flat(row, np.int64),
        flat(column, np.int64),
        flat(old, np.float32),
        flat(advantage, np.float32),
        max(1, sum(int(r.mask.sum()) for r in rows)),
    )


def chosen(rl: RlSpec, rows: Sequence[Trajectory], count: int) -> list[Sequence[Trajectory]]:
    """The first ``count`` groups that are neither too hard nor too easy, in their order: exact, by integer sums."""
    groups = [rows[at : at + rl.group] for at in range(0, len(rows), rl.group)]
    low, high = (round(share * UNIT) * rl.group for share in (rl.min_solved, rl.max_solved))
    return [g for g in groups if low <= sum(r.reward for r in g) <= high][:count]


def minibatches(
    training: TrainingSpec, rl: RlSpec, parts: Sequence[Sequence[Trajectory]]
) -> list[list[Trajectory]]:
    """Trajectories of a segment as the minibatches of its steps: whole groups, an equal share of every part."""
    steps = training.segment
    kept = [chosen(rl, part, steps * training.batch // rl.group) for part in parts]
    return [
        [
            row
            for groups in kept
            for g in groups[len(groups) * i // steps : len(groups) * (i + 1) // steps]
            for row in g
        ]
        for i in range(steps)
    ]


def logprobs(arch: Architecture, flat: Tensor, batch: Minibatch, temperature: float) -> Tensor:
    """Log-probabilities of the sampled tokens, float32 ``(n,)``: one teacher-forced pass."""
    hidden = hidden_states(arch, flat, batch.tokens[:, :-1])[batch.row, batch.column - 1]
    logits = F.linear(hidden, output_matrix(arch, flat)) / temperature
    target = batch.tokens[batch.row, batch.column]
    return logits.gather(1, target[:, None])[:, 0] - torch.logsumexp(logits, dim=1)


def objective(rl: RlSpec, new: Tensor, batch: Minibatch) -> tuple[Tensor, Tensor]:
    """Loss per token ``(n,)`` and which tokens are masked."""
    ratio = torch.exp(new - batch.old)
    moved = torch.exp(new.detach()) - torch.exp(batch.old)
    masked = moved.abs() > rl.mask
    capped = ratio.clamp_max(rl.ratio_cap)
    gain = capped * batch.advantage
    if rl.loss == "clip":
        gain = torch.minimum(gain, capped.clamp(1 - rl.clip_low, 1 + rl.clip_high) * batch.advantage)
    elif rl.loss == "dppo":
        # Divergence instead of ratio: what has already moved far in the wanted direction is left alone.
        masked = masked | ((moved * batch.advantage > 0) & (moved.abs() > rl.clip_high))
    return torch.where(masked, torch.zeros_like(gain), -gain), masked


def learn(
    arch: Architecture,
    trainable: Trainable,
    training: TrainingSpec,
    rl: RlSpec,
    state: TrainState,
    batches: Sequence[Sequence[Trajectory]],
    first_step: int,
) -> Learned:
    """One AdamW step per batch of whole groups. Pure; ``first_step``: number of steps done before."""
    theta, m, v = state.theta.clone(), state.m.clone(), state.v.clone()
    steps = []
    for i, rows in enumerate(batches):
        batch = minibatch(rows, rl.group, rl.algorithm)
        weights = theta.detach().requires_grad_()
        if batch.row.numel():
            new = logprobs(arch, trainable.full(weights), batch, rl.temperature)
            per_token, masked = objective(rl, new, batch)
            loss = per_token.sum() / batch.total
            (gradient,) = torch.autograd.grad(loss, weights)
            steps.append(_stats(rl, rows, batch, float(loss.detach()), new.detach(), masked))
        else:
            gradient = torch.zeros_like(theta)
            steps.append(_idle(rows))
        adamw(training, theta, m, v, gradient, first_step + i + 1)
    mean = sum(s.loss for s in steps) / len(steps)
    return Learned(TrainState(theta, m, v), mean, tuple(steps))


def _stats(
    rl: RlSpec, rows: Sequence[Trajectory], batch: Minibatch, loss: float, new: Tensor, masked: Tensor
) -> StepStats:
    ratio = torch.exp(new - batch.old)
    outside = (ratio < 1 - rl.clip_low) | (ratio > 1 + rl.clip_high)
    return StepStats(
        loss,
        sum(r.reward for r in rows) / len(rows) / UNIT,
        float(ratio.mean()),
        float(ratio.max()),
        float((batch.old - new).mean()),
        float(masked.float().mean()),
        float(outside.float().mean()),
        batch.tokens.shape[0],
    )


def _idle(rows: Sequence[Trajectory]) -> StepStats:
    """Nothing to learn: every group agrees, or none was kept."""
    return StepStats(0.0, sum(r.reward for r in rows) / max(1, len(rows)) / UNIT, 1.0, 1.0, 0.0, 0.0, 0.0, 0)
