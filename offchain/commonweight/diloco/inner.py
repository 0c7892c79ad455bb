"""Inner AdamW steps (arXiv 1711.05101) over one flat vector, in segments that replay bit for bit in one profile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.spec import ModelSpec, TrainingSpec
from ..models import forward


@dataclass(frozen=True, slots=True)
class TrainState:
    """Parameters and both moments, float32, shape ``(n,)`` each."""

    theta: Tensor
    m: Tensor
    v: Tensor

    @staticmethod
    def start(weights: np.ndarray) -> TrainState:
        """State at the start of a lease: given weights, zero moments."""
        theta = torch.from_numpy(np.array(weights, dtype=np.float32))
        return TrainState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def encode(self) -> bytes:
        """theta, m, v as little-endian float32, each zero-padded to whole leaves."""
        count = self.theta.numel()
        padding = bytes(4 * (fixed.padded(count) - count))
        parts = (t.numpy().astype("<f4", copy=False) for t in (self.theta, self.m, self.v))
        return b"".join(piece for part in parts for piece in (part.data, padding))

    @property
    def root(self) -> bytes:
        """Name of the state artifact."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes, count: int) -> TrainState:
        """Strict inverse of `encode`. Raises `EncodingError` on lengths, padding, NaN and infinity."""
        size = 4 * fixed.padded(count)
        if len(data) != 3 * size:
            raise EncodingError(f"a state of {count} parameters has {3 * size} bytes, not {len(data)}")
        parts = np.frombuffer(data, dtype="<f4").reshape(3, -1)
        if not np.isfinite(parts).all():
            raise EncodingError("a state holds values that are not finite")
        if np.frombuffer(data, dtype="<u4").reshape(3, -1)[:, count:].any():
            raise EncodingError("the padding of a state is not zero")
        theta, m, v = (torch.from_numpy(p[:count].astype(np.float32)) for p in parts)
        return TrainState(theta, m, v)


def state_bytes(count: int) -> int:
    """Length of an encoded state of ``count`` parameters."""
    return 12 * fixed.padded(count)


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """State after a segment, mean loss in nats per token, and the first step's hidden states ``(tokens, dim)``."""

    state: TrainState
    loss: float
    hidden: Tensor

    def require_finite(self) -> None:
        """Raise E1604 when the segment diverged: such a work can neither be encoded nor merged."""
        parts = (self.state.theta, self.state.m, self.state.v, self.hidden)
        # One pass each: in float64 a sum of float32 stays finite unless one of them is not.
        if not all(
            math.isfinite(x) for x in (self.loss, *(float(t.sum(dtype=torch.float64)) for t in parts))
        ):
            raise CommonweightError(
                "E1604",
                "training diverged: loss or weights are not finite",
                "the task needs a lower training.lr",
            )


def run_segment(
    model: ModelSpec,
    training: TrainingSpec,
    state: TrainState,
    batches: Sequence[np.ndarray],
    first_step: int,
) -> SegmentResult:
    """Run one inner step per batch. Pure: the same input gives the same bits within one numeric profile.

    ``batches``: uint8 ``(batch, context + 1)`` each; ``first_step``: number of steps done before (0 at lease start).
    A diverging run ends in values that are not finite; see `SegmentResult.require_finite`.
    """
    theta, m, v = state.theta.clone(), state.m.clone(), state.v.clone()
    total, first_hidden = 0.0, torch.empty(0)
    for i, batch in enumerate(batches):
        tokens = torch.from_numpy(batch.astype(np.int64))
        weights = theta.detach().requires_grad_()
        logits, hidden = forward(model, weights, tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, model.vocab), tokens[:, 1:].reshape(-1))
        (gradient,) = torch.autograd.grad(loss, weights)
        total += float(loss.detach())
        if i == 0:
            first_hidden = hidden.detach().reshape(-1, model.dim)
        _adamw(training, theta, m, v, gradient, first_step + i + 1)
    return SegmentResult(TrainState(theta, m, v), total / len(batches), first_hidden)


def _adamw(t: TrainingSpec, theta: Tensor, m: Tensor, v: Tensor, gradient: Tensor, step: int) -> None:
    """One step in place, with the gradient clipped to norm ``t.clip``."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > t.clip:
        gradient = gradient * (t.clip / norm)
    m.mul_(t.beta1).add_(gradient, alpha=1 - t.beta1)
    v.mul_(t.beta2).addcmul_(gradient, gradient, value=1 - t.beta2)
    scale = (v / (1 - t.beta2**step)).sqrt_().add_(t.eps)
    theta.mul_(1 - t.lr * t.weight_decay)
    theta.addcdiv_(m, scale, value=-t.lr / (1 - t.beta1**step))
