"""The Llama family as one pure function over one flat vector, with a key-value cache for generation.

Covers the built-in model and Llama, Mistral, Qwen2 and Qwen3 checkpoints: grouped-query attention, biases on the
projections, norms of queries and keys, tied or separate output embedding. For the built-in shape the full pass is
`llama.forward` itself, so that whatever is replayed bit for bit has one implementation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.spec import DecoderSpec, ModelSpec
from . import llama

GROW = 8


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
    return sum(math.prod(shape) for _, shape in shapes(arch))


def unflatten(arch: Architecture, flat: Tensor) -> dict[str, Tensor]:
    """Views of the flat vector by name; differentiable."""
    named = shapes(arch)
    pieces = torch.split(flat, [math.prod(shape) for _, shape in named])
    return {name: piece.view(shape) for (name, shape), piece in zip(named, pieces, strict=True)}


def hidden_states(arch: Architecture, flat: Tensor, tokens: Tensor) -> Tensor:
    """Last hidden states after the final norm, ``(batch, time, dim)``, of ``tokens`` int64 ``(batch, time)``.

    Rows shorter than ``time`` are filled on the right: causality keeps the filler out of every real position.
    """
    if arch.builtin:
        return llama.hidden_states(arch.model, flat, tokens)
    p = unflatten(arch, flat)
    cos, sin = (t[: tokens.shape[1]] for t in rotary(arch, tokens.shape[1]))
    x = F.embedding(tokens, p["embed"])
    for i in range(arch.model.layers):
        q, k, v = _project(arch, p, i, _norm(arch, x, p[f"{i}.norm1"]))
        mixed = F.scaled_dot_product_attention(
            _rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True, enable_gqa=arch.grouped
        )
        x = _finish(arch, p, i, x, mixed)
    return _norm(arch, x, p["norm"])


def output_matrix(arch: Architecture, flat: Tensor) -> Tensor:
    """The matrix that turns hidden states into logits, ``(vocab, dim)``."""
    size = arch.model.vocab * arch.model.dim
    part = flat[:size] if arch.tied else flat[flat.numel() - size :]
    return part.view(arch.model.vocab, arch.model.dim)


def rotary(arch: Architecture, time: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles of at least ``time`` positions, float32 ``(positions, head_dim / 2)``."""
    return _angles(arch.head_dim, arch.rope_base, -(-time // 256) * 256)


@lru_cache(maxsize=64)
def _angles(head_dim: int, base: float, time: int) -> tuple[Tensor, Tensor]:
    # Kept for later calls, which may be training: a tensor made in inference mode could not be learnt through.
    with torch.inference_mode(False):
        half = head_dim // 2
        frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(time, dtype=torch.float64), frequency)
        return angle.cos().float(), angle.sin().float()


def _norm(arch: Architecture, x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, arch.norm_eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _project(arch: Architecture, p: dict[str, Tensor], i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``(batch, heads, time, head_dim)``, keys and values ``(batch, kv_heads, time, head_dim)``."""
    batch, time, _ = x.shape
    qkv = F.linear(x, p[f"{i}.qkv"], p.get(f"{i}.qkv_bias")).view(batch, time, -1, arch.head_dim)
    heads = (arch.model.heads, arch.kv_heads, arch.kv_heads)
    q, k, v = qkv.transpose(1, 2).split(heads, dim=1)
    if arch.qk_norm:
        q, k = _norm(arch, q, p[f"{i}.q_norm"]), _norm(arch, k, p[f"{i}.k_norm"])
    return q, k, v


def _finish(arch: Architecture, p: dict[str, Tensor], i: int, x: Tensor, mixed: Tensor) -> Tensor:
    """Output projection and feed-forward half of a block."""
    batch, time = x.shape[:2]
    x = x + F.linear(mixed.transpose(1, 2).reshape(batch, time, -1), p[f"{i}.out"])
    gate, up = F.linear(_norm(arch, x, p[f"{i}.norm2"]), p[f"{i}.gate_up"]).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, p[f"{i}.down"])


@dataclass(slots=True)
class Cache:
    """Keys and values of rows that advance together: row b's first token stands in column ``start[b]``.

    ``keys``, ``values``: one ``(rows, kv_heads, capacity, head_dim)`` per layer, filled up to column ``length``.
    """

    keys: list[Tensor]
    values: list[Tensor]
    start: Tensor
    length: int
    ragged: bool

    def keep(self, rows: Tensor) -> None:
        """Select rows, repeats allowed; columns that no row uses any more are dropped."""
        self.start = self.start[rows]
        first = int(self.start.min()) if rows.numel() else 0
        self.keys = [k[:, :, first : self.length].index_select(0, rows) for k in self.keys]
        self.values = [v[:, :, first : self.length].index_select(0, rows) for v in self.values]
        self.start, self.length = self.start - first, self.length - first
        self.ragged = bool((self.start != 0).any())

    def reserve(self) -> None:
        """Make room for one more column; growing in blocks keeps rows close together in memory."""
        if self.length < self.keys[0].shape[2]:
            return
        self.keys = [F.pad(k, (0, 0, 0, GROW)) for k in self.keys]
        self.values = [F.pad(v, (0, 0, 0, GROW)) for v in self.values]

    def mask(self) -> Tensor | None:
        """Which columns up to ``length`` each row may attend to, ``(rows, 1, 1, length)``; None for all."""
        if not self.ragged:
            return None
        return (torch.arange(self.length) >= self.start[:, None])[:, None, None]


class Llama:
    """Generation and scoring with the weights of one policy version; holds views of ``flat``, copies nothing."""

    def __init__(self, arch: Architecture, flat: Tensor) -> None:
        self.arch = arch
        self.flat = flat.detach()
        self._p = unflatten(arch, self.flat)
        self._head = output_matrix(arch, self.flat)

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return self.arch.model.vocab

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.arch.model.dim

    @torch.inference_mode()
    def prefill(self, tokens: Tensor, start: Tensor) -> tuple[Cache, Tensor, Tensor]:
        """Cache, next-token logits ``(rows, vocab)`` and the last hidden states ``(rows, dim)``.

        ``tokens`` int64 ``(rows, time)``, row b filled on the left up to column ``start[b]``.
        """
        arch, time = self.arch, tokens.shape[1]
        ragged = bool((start != 0).any())
        position = (torch.arange(time) - start[:, None]).clamp_min(0)
        cos, sin = (t[position][:, None] for t in rotary(arch, time))
        mask = None
        if ragged:
            real = torch.arange(time) >= start[:, None]
            mask = (torch.ones(time, time, dtype=torch.bool).tril() & real[:, None])[:, None]
            # A filler row that may look at nothing would give NaN; what it sees does not matter.
            mask = mask | torch.eye(time, dtype=torch.bool)
        cache = Cache([], [], start, time, ragged)
        x = F.embedding(tokens, self._p["embed"])
        for i in range(arch.model.layers):
            q, k, v = _project(arch, self._p, i, _norm(arch, x, self._p[f"{i}.norm1"]))
            k = _rotate(k, cos, sin)
            cache.keys.append(k)
            cache.values.append(v)
            mixed = F.scaled_dot_product_attention(
                _rotate(q, cos, sin), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=arch.grouped
            )
            x = _finish(arch, self._p, i, x, mixed)
        hidden = _norm(arch, x[:, -1], self._p["norm"])
        return cache, F.linear(hidden, self._head), hidden

    @torch.inference_mode()
    def decode(self, cache: Cache, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(rows, vocab)`` and hidden states ``(rows, dim)`` after one more int64 token per row."""
        arch, p = self.arch, self._p
        cache.reserve()
        at = cache.length
        cache.length = at + 1
        mask = cache.mask()
        cos, sin = rotary(arch, at + 1)
        if cache.ragged:
            position = at - cache.start
            cos, sin = cos[position][:, None, None], sin[position][:, None, None]
        else:
            cos, sin = cos[at], sin[at]
        x = F.embedding(tokens, p["embed"])[:, None]
        for i in range(arch.model.layers):
            q, k, v = _project(arch, p, i, _norm(arch, x, p[f"{i}.norm1"]))
            keys, values = cache.keys[i], cache.values[i]
            keys[:, :, at : at + 1] = _rotate(k, cos, sin)
            values[:, :, at : at + 1] = v
            mixed = F.scaled_dot_product_attention(
                _rotate(q, cos, sin),
                keys[:, :, : at + 1],
                values[:, :, : at + 1],
                attn_mask=mask,
                enable_gqa=arch.grouped,
            )
            x = _finish(arch, p, i, x, mixed)
        hidden = _norm(arch, x[:, 0], p["norm"])
        return F.linear(hidden, self._head), hidden

    def keep(self, cache: Cache, rows: Tensor) -> None:
        """Select rows of a cache, repeats allowed."""
        with torch.inference_mode():
            cache.keep(rows)

    @torch.inference_mode()
    def hidden_states(self, tokens: Tensor) -> Tensor:
        """One teacher-forced pass: hidden states ``(rows, time, dim)`` of right-filled ``tokens``."""
        return hidden_states(self.arch, self.flat, tokens)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of any hidden states."""
        return F.linear(hidden, self._head)


def builtin(model: ModelSpec) -> Architecture:
    """The built-in architecture of a model."""
    return Architecture.of(replace(model), DecoderSpec())
