"""What a model's arithmetic depends on, the layout of its flat vector, and its rotary angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..core.spec import DecoderSpec, ModelSpec

Scaling = tuple[float, float, float, int]
"""Of rotary frequencies: factor, low and high share of the original context, original context."""
PLAIN: Scaling = (1.0, 0.0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything that the arithmetic depends on; sizes in elements."""

    model: ModelSpec
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_base: float
    qkv_bias: bool
    qk_norm: bool
    tied: bool
    rope_scaling: Scaling = PLAIN
    window: int = 0
    library: str = ""
    parameters: int = 0

    @staticmethod
    def of(model: ModelSpec, extra: DecoderSpec) -> Architecture:
        """The architecture that a spec describes; zeros mean the built-in choice."""
        return Architecture(
            model=model,
            kv_heads=extra.kv_heads or model.heads,
            head_dim=extra.head_dim or model.dim // model.heads,
            norm_eps=extra.norm_eps,
            rope_base=extra.rope_base,
            qkv_bias=extra.qkv_bias,
            qk_norm=extra.qk_norm,
            tied=extra.tied,
            rope_scaling=(extra.rope_factor, extra.rope_low, extra.rope_high, extra.rope_original),
            window=extra.window,
            library=extra.library,
            parameters=extra.parameters,
        )

    def spec(self) -> DecoderSpec:
        """Inverse of `of`, beside the model's sizes."""
        factor, low, high, original = self.rope_scaling
        return DecoderSpec(
            kv_heads=self.kv_heads if self.grouped else 0,
            head_dim=self.head_dim if self.head_dim != self.model.dim // self.model.heads else 0,
            norm_eps=self.norm_eps,
            rope_base=self.rope_base,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            tied=self.tied,
            rope_factor=factor,
            rope_low=low,
            rope_high=high,
            rope_original=original,
            window=self.window,
            library=self.library,
            parameters=self.parameters,
        )

    @property
    def builtin(self) -> bool:
        """True for the shape that `llama.forward` computes."""
        return self == Architecture.of(self.model, DecoderSpec())

    @property
    def grouped(self) -> bool:
        """True when several query heads share one key."""
        return self.kv_heads != self.model.heads


def shapes(arch: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter in the canonical order; for the built-in shape those of `llama.shapes`."""
    if arch.library:
        from . import library

        return library.shapes(arch)
    m, wide = arch.model, arch.model.heads * arch.head_dim
    rows = wide + 2 * arch.kv_heads * arch.head_dim
    out: list[tuple[str, tuple[int, ...]]] = [("embed", (m.vocab, m.dim))]
    for i in range(m.layers):
        out += [(f"{i}.norm1", (m.dim,)), (f"{i}.qkv", (rows, m.dim))]
        out += [(f"{i}.qkv_bias", (rows,))] if arch.qkv_bias else []
        out += [(f"{i}.q_norm", (arch.head_dim,)), (f"{i}.k_norm", (arch.head_dim,))] if arch.qk_norm else []
        out += [
            (f"{i}.out", (m.dim, wide)),
            (f"{i}.norm2", (m.dim,)),
            (f"{i}.gate_up", (2 * m.hidden, m.dim)),
            (f"{i}.down", (m.dim, m.hidden)),
        ]
    out.append(("norm", (m.dim,)))
    return out if arch.tied else [*out, ("head", (m.vocab, m.dim))]


@lru_cache(maxsize=32)
def parameter_count(arch: Architecture) -> int:
    """Length of the flat vector."""
    if arch.library:
        return arch.parameters
    return sum(math.prod(shape) for _, shape in shapes(arch))


def unflatten(arch: Architecture, flat: Tensor) -> dict[str, Tensor]:
    """Views of the flat vector by name; differentiable."""
    named = shapes(arch)
    pieces = torch.split(flat, [math.prod(shape) for _, shape in named])
    return {name: piece.view(shape) for (name, shape), piece in zip(named, pieces, strict=True)}


def rotary(arch: Architecture, time: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles of at least ``time`` positions, float32 ``(positions, head_dim / 2)``."""
    return _angles(arch.head_dim, arch.rope_base, arch.rope_scaling, -(-time // 256) * 256)


@lru_cache(maxsize=64)
def _angles(head_dim: int, base: float, scaling: Scaling, time: int) -> tuple[Tensor, Tensor]:
    # Kept for later calls, which may be training: a tensor made in inference mode could not be learnt through.
    with torch.inference_mode(False):
        half = head_dim // 2
        frequency = scaled(base ** (-torch.arange(half, dtype=torch.float64) / half), scaling)
        angle = torch.outer(torch.arange(time, dtype=torch.float64), frequency)
        return angle.cos().float(), angle.sin().float()


def scaled(frequency: Tensor, scaling: Scaling) -> Tensor:
    """Rotary frequencies for longer contexts: all divided by the factor, or only the slow ones (Llama 3).

    Between ``original / high`` and ``original / low`` positions per wave the two are blended.
    """
    factor, low, high, original = scaling
    if not high:
        return frequency / factor
    waves = original * frequency / (2 * math.pi)
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return frequency * (kept + (1 - kept) / factor)
