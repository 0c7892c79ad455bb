"""Muon for the matrices of the built-in model: momentum, orthogonalised by Newton-Schulz, scaled to AdamW's step size.

Method: K. Jordan et al., "Muon", 2024 (Nesterov momentum, quintic Newton-Schulz); scale ``0.2 sqrt(max(rows, cols))``
and decoupled weight decay from Liu et al., arXiv 2502.16982, so one learning rate serves both optimisers. As the inner
optimiser of DiLoCo: arXiv 2505.23725.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod, sqrt

import torch
from torch import Tensor

from ..core.spec import ModelSpec
from ..models import shapes

QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPS = 1e-7
# Fused projections are several matrices; orthogonalising each on its own is what the method asks for.
FUSED = {"qkv": 3, "gate_up": 2}


@dataclass(frozen=True, slots=True)
class Block:
    """One matrix inside the flat vector: ``flat[start : start + rows * cols]``."""

    start: int
    rows: int
    cols: int


@lru_cache(maxsize=16)
def matrices(model: ModelSpec) -> tuple[Block, ...]:
    """The matrices that Muon moves: every weight of two dimensions but the embedding, fused ones cut apart."""
    out, start = [], 0
    for name, shape in shapes(model):
        parts = FUSED.get(name.rpartition(".")[2], 1)
        if len(shape) == 2 and name != "embed":
            rows = shape[0] // parts
            out += [Block(start + i * rows * shape[1], rows, shape[1]) for i in range(parts)]
        start += prod(shape)
    return tuple(out)


@lru_cache(maxsize=16)
def others(model: ModelSpec, count: int) -> tuple[tuple[int, int], ...]:
    """The stretches ``[begin, end)`` of the flat vector that no matrix covers: AdamW's."""
    out, at = [], 0
    for b in (*matrices(model), Block(count, 0, 0)):
        if b.start > at:
            out.append((at, b.start))
        at = b.start + b.rows * b.cols
    return tuple(out)


def orthogonalise(stack: Tensor) -> Tensor:
    """Approximate ``U V^T`` of each matrix's singular value decomposition; ``stack`` float32 ``(k, rows, cols)``.

    ``rows >= cols`` keeps the inner products small. Singular values of the result lie in about 0.7 to 1.2.
    """
    a, b, c = QUINTIC
    x = stack / (stack.norm(dim=(1, 2), keepdim=True) + EPS)
    for _ in range(ITERATIONS):
        gram = x.transpose(1, 2) @ x
        x = torch.baddbmm(x, x, b * gram + c * (gram @ gram), beta=a)
    return x


def step(
    model: ModelSpec, theta: Tensor, m: Tensor, gradient: Tensor, lr: float, momentum: float, decay: float
) -> None:
    """One step in place on the matrices of ``theta``; ``m`` is the momentum. All float32, shape ``(n,)``."""
    groups: dict[tuple[int, int], list[Block]] = {}
    for block in matrices(model):
        shape = (max(block.rows, block.cols), min(block.rows, block.cols))
        groups.setdefault(shape, []).append(block)
    for shape, blocks in groups.items():
        updates = []
        for b in blocks:
            g, buffer = (t[b.start : b.start + b.rows * b.cols] for t in (gradient, m))
            buffer.mul_(momentum).add_(g)
            update = (g + momentum * buffer).view(b.rows, b.cols)
            updates.append(update if b.rows >= b.cols else update.T)
        moved = orthogonalise(torch.stack(updates))
        scale = lr * 0.2 * sqrt(shape[0])
        for b, update in zip(blocks, moved, strict=True):
            weights = theta[b.start : b.start + b.rows * b.cols].view(b.rows, b.cols)
            weights.mul_(1 - lr * decay).sub_(update if b.rows >= b.cols else update.T, alpha=scale)
