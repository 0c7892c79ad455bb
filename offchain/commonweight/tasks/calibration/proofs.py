"""Activation proofs of honest machines and of forgers who did not run the model: what thresholds must tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ... import toploc
from ...core.errors import EncodingError
from ...core.spec import ModelSpec, VerificationSpec
from ...models import computing, forward, initial_parameters, shapes
from ...toploc.field import P
from .runs import quantise, without_onednn


@dataclass(frozen=True, slots=True)
class Scene:
    """What verifier and forger know: the model's weights, an older version of them, and the tokens.

    ``hidden`` are the verifier's own states ``(batch, time, dim)`` of ``tokens`` ``(batch, time)``; ``table`` is what a
    forger measured before: the mean state of every token id ``(vocab, dim)``.
    """

    model: ModelSpec
    arithmetic: str
    theta: Tensor
    older: Tensor
    tokens: Tensor
    hidden: Tensor
    table: Tensor


Forged = Tensor | list[toploc.Proofs]


def observe(model: ModelSpec, theta: Tensor, tokens: Tensor, arithmetic: str) -> Tensor:
    """Last hidden states ``(batch, time, dim)``, float32."""
    with torch.no_grad(), computing(arithmetic):
        return forward(model, theta, tokens)[1].float()


def make_scene(
    model: ModelSpec, arithmetic: str, theta: Tensor, older: Tensor, tokens: Tensor, seen: Tensor
) -> Scene:
    """A scene for ``tokens``; the forger's table comes from the tokens ``seen``."""
    states = observe(model, theta, seen, arithmetic).reshape(-1, model.dim)
    counts = torch.bincount(seen.reshape(-1), minlength=model.vocab)
    table = torch.zeros((model.vocab, model.dim)).index_add_(0, seen.reshape(-1), states)
    table = torch.where(counts[:, None] > 0, table / counts.clamp_min(1)[:, None], states.mean(dim=0))
    return Scene(model, arithmetic, theta, older, tokens, observe(model, theta, tokens, arithmetic), table)


# -- honest, but not bit for bit ---------------------------------------------------------------------------------


def _in_parts(size: int) -> Callable[[Scene], Tensor]:
    def run(s: Scene) -> Tensor:
        return torch.cat([observe(s.model, s.theta, part, s.arithmetic) for part in s.tokens.split(size)])

    return run


def _math(s: Scene) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return observe(s.model, s.theta, s.tokens, s.arithmetic)


def _plain(s: Scene) -> Tensor:
    with without_onednn():
        return observe(s.model, s.theta, s.tokens, s.arithmetic)


def _threads(s: Scene) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return observe(s.model, s.theta, s.tokens, s.arithmetic)
    finally:
        torch.set_num_threads(before)


HONEST: dict[str, Callable[[Scene], Tensor]] = {
    "two threads": _threads,
    "one sequence at a time": _in_parts(1),
    "three sequences at a time": _in_parts(3),
    "math attention": _math,
    "without oneDNN": _plain,
}


# -- forgers -----------------------------------------------------------------------------------------------------


def _everywhere(s: Scene, pattern: int, degree: int) -> list[toploc.Proofs]:
    """Polynomials made without activations: ``pattern`` plus ``x**degree``; with degree 0 exactly constant."""
    chunks = toploc.chunk_count(s.tokens.shape[1], CHUNK)
    coefficients = np.zeros((chunks, TOPK), dtype=np.int64)
    coefficients[:, degree] = 1 if degree else 0
    coefficients[:, 0] = pattern % P
    return [toploc.Proofs(np.full(chunks, P), coefficients) for _ in s.tokens]


def _typical(s: Scene) -> int:
    """The bit pattern of a typical top value."""
    top = s.hidden.abs().flatten().topk(TOPK).values.median()
    return int(top.to(torch.bfloat16).view(torch.int16))


def _null(s: Scene) -> list[toploc.Proofs]:
    chunks = toploc.chunk_count(s.tokens.shape[1], CHUNK)
    return [
        toploc.Proofs(np.zeros(chunks, dtype=np.int64), np.zeros((chunks, TOPK), dtype=np.int64))
        for _ in s.tokens
    ]


def _not_a_number(s: Scene) -> list[toploc.Proofs]:
    """The right places, every value a NaN."""
    out = []
    for states in s.hidden:
        honest = toploc.build(states, TOPK, CHUNK)
        coefficients = honest.coefficients.copy()
        coefficients[:, 0] = (coefficients[:, 0] + 0x7F81) % P
        out.append(toploc.Proofs(honest.moduli, coefficients))
    return out


def _skipped(s: Scene) -> Tensor:
    """The last layer left out: its outputs are nothing."""
    last, at, theta = f"{s.model.layers - 1}.", 0, s.theta.clone()
    for name, shape in shapes(s.model):
        size = int(np.prod(shape))
        if name in (f"{last}out", f"{last}down"):
            theta[at : at + size] = 0
        at += size
    return observe(s.model, theta, s.tokens, s.arithmetic)


def _weights(change: Callable[[Scene], Tensor]) -> Callable[[Scene], Forged]:
    return lambda s: observe(s.model, change(s), s.tokens, s.arithmetic)


def _shuffled(s: Scene) -> Tensor:
    order = torch.randperm(s.tokens.shape[1], generator=torch.Generator().manual_seed(3))
    return s.hidden[:, order]


FORGERS: dict[str, Callable[[Scene], Forged]] = {
    "constant": lambda s: _everywhere(s, _typical(s), 0),
    "nearly constant": lambda s: _everywhere(s, _typical(s), 1),
    "channel mean": lambda s: s.table.mean(dim=0).expand_as(s.hidden),
    "shuffled": _shuffled,
    "lookup table": lambda s: s.table[s.tokens],
    "other model": _weights(lambda s: initial_parameters(replace(s.model, seed=s.model.seed + 1))),
    "previous version": _weights(lambda s: s.older),
    "int8 weights": _weights(lambda s: quantise(s.model, s.theta, 8)),
    "int4 weights": _weights(lambda s: quantise(s.model, s.theta, 4)),
    "skipped layer": _skipped,
    "wrong prompt": lambda s: s.hidden.roll(1, dims=0),
    "negated": lambda s: -s.hidden,
    "null": _null,
    "NaN": _not_a_number,
}
TOPK, CHUNK = 128, 32


def stats_of(s: Scene, forged: Forged) -> list[toploc.ProofStats | None]:
    """What a verifier sees of each sequence's proofs; None where there is no well-formed proof to look at."""
    out: list[toploc.ProofStats | None] = []
    for own, one in zip(s.hidden, forged, strict=True):
        try:
            proofs = toploc.build(one, TOPK, CHUNK) if isinstance(one, Tensor) else one
            raw = toploc.encode(proofs)
            out.append(toploc.verify(own, toploc.decode(raw, TOPK, len(proofs)), TOPK, CHUNK))
        except EncodingError:
            out.append(None)
    return out


def accepted(found: toploc.ProofStats | None, v: VerificationSpec) -> bool:
    """True for a proof that passes a spec's thresholds."""
    return found is not None and not toploc.fault(found, TOPK, v)


def thresholds(honest: list[toploc.ProofStats], v: VerificationSpec) -> VerificationSpec:
    """Thresholds of a spec from what honest machines show: their worst, with room for machines not measured."""
    return replace(
        v,
        max_exponent_mismatches=2 * max(s.exponent_mismatches for s in honest) + 2,
        max_mantissa_mean=round(2 * max(s.mantissa_mean for s in honest) + 0.02, 4),
        max_sign_mismatches=2 * max(s.sign_mismatches for s in honest) + 2,
        max_proof_score=round(2 * max(s.score for s in honest) + 0.02, 4),
    )
