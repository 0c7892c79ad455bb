"""The Llama family as one pure function over one flat vector, with a key-value cache for generation.

Covers the built-in model and Llama, Mistral, Qwen2 and Qwen3 checkpoints: grouped-query attention, biases on the
projections, norms of queries and keys, attention windows, tied or separate output embedding. For the built-in shape the
full pass is `llama.forward` itself, so that whatever is replayed bit for bit has one implementation. Architectures of
other families are handed on to `library`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.spec import DecoderSpec, ModelSpec
from . import llama
from .architecture import Architecture, rotary, unflatten

if TYPE_CHECKING:
    from .transformers_policy import TransformersPolicy

GROW = 8


def hidden_states(arch: Architecture, flat: Tensor, tokens: Tensor) -> Tensor:
    """Last hidden states after the final norm, ``(batch, time, dim)``, of ``tokens`` int64 ``(batch, time)``.

    Rows shorter than ``time`` are filled on the right: causality keeps the filler out of every real position.
    """
    if arch.library:
        from . import library

        return library.hidden_states(arch, flat, tokens)
    if arch.builtin:
        return llama.hidden_states(arch.model, flat, tokens)
    p = unflatten(arch, flat)
    time = tokens.shape[1]
    cos, sin = (t[:time] for t in rotary(arch, time))
    mask = _causal(arch, time) if 0 < arch.window < time else None
    x = F.embedding(tokens, p["embed"])
    for i in range(arch.model.layers):
        q, k, v = _project(arch, p, i, _norm(arch, x, p[f"{i}.norm1"]))
        mixed = F.scaled_dot_product_attention(
            _rotate(q, cos, sin),
            _rotate(k, cos, sin),
            v,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=arch.grouped,
        )
        x = _finish(arch, p, i, x, mixed)
    return _norm(arch, x, p["norm"])


def output_matrix(arch: Architecture, flat: Tensor) -> Tensor:
    """The matrix that turns hidden states into logits, ``(vocab, dim)``."""
    if arch.library:
        from . import library

        return library.output_matrix(arch, flat)
    size = arch.model.vocab * arch.model.dim
    part = flat[:size] if arch.tied else flat[flat.numel() - size :]
    return part.view(arch.model.vocab, arch.model.dim)


def _causal(arch: Architecture, time: int) -> Tensor:
    """Which columns each column attends to: those before it within the window, and itself; ``(time, time)``."""
    mask = torch.ones(time, time, dtype=torch.bool).tril()
    return mask.triu(1 - arch.window) if arch.window else mask


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

    def mask(self, window: int) -> Tensor | None:
        """Which columns up to ``length`` each row may attend to, ``(rows, 1, 1, length)``; None for all."""
        first = self.length - window if 0 < window < self.length else 0
        if not self.ragged and not first:
            return None
        return (torch.arange(self.length) >= self.start.clamp_min(first)[:, None])[:, None, None]


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
        mask = _causal(arch, time)[None, None] if 0 < arch.window < time else None
        if ragged:
            real = torch.arange(time) >= start[:, None]
            mask = (_causal(arch, time) & real[:, None])[:, None]
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
        mask = cache.mask(arch.window)
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


def policy(arch: Architecture, flat: Tensor) -> Llama | TransformersPolicy:
    """What generates with these weights. Raises E1008 when it needs a library that is not installed."""
    if arch.library:
        from .library import policy_of

        return policy_of(arch, flat)
    return Llama(arch, flat)


def builtin(model: ModelSpec) -> Architecture:
    """The built-in architecture of a model."""
    return Architecture.of(replace(model), DecoderSpec())
