"""Llama-shaped decoder (RMSNorm, rotary positions, SwiGLU, tied embedding; arXiv 2302.13971) as a pure function.

Parameters are one flat float32 vector in a canonical order, because that is what is hashed, merged and optimised.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.spec import ModelSpec

NORM_EPS = 1e-5
ROPE_BASE = 10_000.0
INIT_STD = 0.02


def shapes(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter, in the canonical order."""
    out: list[tuple[str, tuple[int, ...]]] = [("embed", (spec.vocab, spec.dim))]
    for i in range(spec.layers):
        out += [
            (f"{i}.norm1", (spec.dim,)),
            (f"{i}.qkv", (3 * spec.dim, spec.dim)),
            (f"{i}.out", (spec.dim, spec.dim)),
            (f"{i}.norm2", (spec.dim,)),
            (f"{i}.gate_up", (2 * spec.hidden, spec.dim)),
            (f"{i}.down", (spec.dim, spec.hidden)),
        ]
    return [*out, ("norm", (spec.dim,))]


def parameter_count(spec: ModelSpec) -> int:
    """Length of the flat vector."""
    return sum(math.prod(shape) for _, shape in shapes(spec))


def initial_parameters(spec: ModelSpec) -> Tensor:
    """Initial flat vector, float32, shape ``(n,)``: a function of ``spec.seed`` alone."""
    generator = torch.Generator().manual_seed(spec.seed)
    parts = []
    for name, shape in shapes(spec):
        if "norm" in name:
            parts.append(torch.ones(shape))
            continue
        depth = math.sqrt(2 * spec.layers) if name.endswith((".out", ".down")) else 1.0
        parts.append(torch.randn(shape, generator=generator) * (INIT_STD / depth))
    return torch.cat([p.reshape(-1) for p in parts])


def forward(spec: ModelSpec, flat: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(batch, time, vocab)`` and last hidden states after the final norm ``(batch, time, dim)``.

    ``flat`` float32 ``(n,)``; ``tokens`` int64 ``(batch, time)``.
    """
    p = _split(spec, flat)
    hidden = _hidden(spec, p, tokens)
    return F.linear(hidden, p["embed"]), hidden


def hidden_states(spec: ModelSpec, flat: Tensor, tokens: Tensor) -> Tensor:
    """The second half of `forward` alone: a caller that needs few positions' logits computes only those."""
    return _hidden(spec, _split(spec, flat), tokens)


def _split(spec: ModelSpec, flat: Tensor) -> dict[str, Tensor]:
    named = shapes(spec)
    # One split instead of many slices: its backward pass writes the flat gradient once.
    pieces = torch.split(flat, [math.prod(shape) for _, shape in named])
    return {name: piece.view(shape) for (name, shape), piece in zip(named, pieces, strict=True)}


def _hidden(spec: ModelSpec, p: dict[str, Tensor], tokens: Tensor) -> Tensor:
    cos, sin = _rotary(spec, tokens.shape[1])
    x = F.embedding(tokens, p["embed"])
    for i in range(spec.layers):
        x = x + _attention(spec, _norm(x, p[f"{i}.norm1"]), p[f"{i}.qkv"], p[f"{i}.out"], cos, sin)
        gate, up = F.linear(_norm(x, p[f"{i}.norm2"]), p[f"{i}.gate_up"]).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, p[f"{i}.down"])
    return _norm(x, p["norm"])


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * weight


def _rotary(spec: ModelSpec, time: int) -> tuple[Tensor, Tensor]:
    half = spec.dim // spec.heads // 2
    frequency = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(time, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _attention(spec: ModelSpec, x: Tensor, qkv: Tensor, out: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, time, dim = x.shape
    q, k, v = F.linear(x, qkv).view(batch, time, 3, spec.heads, dim // spec.heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
    return F.linear(mixed.transpose(1, 2).reshape(batch, time, dim), out)
