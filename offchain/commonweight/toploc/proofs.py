"""Activation proofs: the k largest magnitudes of each chunk of hidden states, as one polynomial (arXiv 2501.16007).

Wire format of a proof, as the published `toploc` package has it: modulus, then k coefficients in ascending order,
2 bytes big-endian each. Ties are broken canonically: larger magnitude first, then smaller index. The decoder is
strict and total. Judging is stricter than the package's: signs count, proofs that do not depend on the index are
refused, so are values that are not finite, and a sequence is judged as a whole by thresholds that were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.errors import EncodingError
from ..core.spec import VerificationSpec
from . import fast
from .field import Ints, P, evaluate, interpolate
from .topk import NOT_FINITE, Bits, injective_moduli, select, select_on_device

Floats = npt.NDArray[np.float64]
Wide = npt.NDArray[np.float32]

_NO_BITS, _NO_WIDE = np.empty((0, 0), dtype=np.uint16), np.empty((0, 0), dtype=np.float32)
CONTROL_EVERY = 4
"""One control point for so many top indices: a point where an honest proof has nothing to say."""
CONTROL_LIMIT = 0.5
"""Share of control points that may look like a top value. Honest proofs show about (exponents in use) / 256."""
WORST_MANTISSA = 128.0
"""Mean mantissa error of a chunk without one equal exponent; a measured one is at most 127."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """Polynomials of the chunks of one sequence: ``moduli`` int64 ``(chunks,)``, ``coefficients`` ``(chunks, k)``."""

    moduli: Ints
    coefficients: Ints

    def __len__(self) -> int:
        return len(self.moduli)


@dataclass(frozen=True, slots=True)
class ProofStats:
    """A sequence's proofs against the verifier's own activations; all zero for the very same ones.

    ``exponent_mismatches``, ``mantissa_mean``, ``sign_mismatches``, ``control_hits``: of the worst chunk, each by
    itself. ``score``: mean over chunks of mantissa_mean + 8 * exponent_mismatches / k.
    """

    chunks: int
    exponent_mismatches: int
    mantissa_mean: float
    sign_mismatches: int
    control_hits: int = 0
    score: float = 0.0


def bf16_bits(hidden: Tensor) -> Bits:
    """Bit patterns of the values rounded to bfloat16, same shape."""
    rounded = hidden.detach().to(torch.bfloat16).contiguous().view(torch.int16)
    return rounded.cpu().numpy().view(np.uint16)


def chunk_count(tokens: int, chunk: int) -> int:
    """Proofs of a sequence of ``tokens`` hidden states."""
    return -(-tokens // chunk)


def _require_room(tokens: int, dim: int, topk: int, chunk: int) -> None:
    if tokens == 0 or (tokens % chunk or chunk) * dim < topk:
        raise EncodingError(f"{tokens} hidden states are too few for the top {topk} of each chunk of {chunk}")


def _split(values: Bits, topk: int, chunk: int) -> list[Bits]:
    """Rows of whole chunks, and the short last one as a row of its own. Raises `EncodingError` if too short."""
    tokens, dim = values.shape
    _require_room(tokens, dim, topk, chunk)
    full = tokens // chunk * chunk
    parts = (values[:full].reshape(-1, chunk * dim), values[full:].reshape(1, -1))
    return [part for part in parts if part.size]


def _patterns(hidden: Tensor) -> tuple[Bits, Wide]:
    """For kernels, which round float32 themselves: patterns of bfloat16, or float32 values, and none of the other."""
    if hidden.dtype != torch.float32:
        return bf16_bits(hidden), _NO_WIDE
    # Beside the kernels' work, each further call into a library is felt.
    return _NO_BITS, np.ascontiguousarray((hidden.detach() if hidden.requires_grad else hidden).numpy())


def _top(hidden: Tensor, topk: int, chunk: int) -> tuple[Ints, Ints]:
    """Indices of the top values of each chunk and their bit patterns, ``(chunks, k)`` each. Raises `EncodingError`."""
    if not hidden.is_cpu:
        return _top_on_device(hidden, topk, chunk)
    compiled = fast.kernels(hidden.numel())
    if compiled is not None:
        tokens, dim = hidden.shape
        _require_room(tokens, dim, topk, chunk)
        indices = np.empty((chunk_count(tokens, chunk), topk), dtype=np.int64)
        values = np.empty_like(indices)
        compiled.tops(*_patterns(hidden), chunk, indices, values)
        return indices, _require_finite(values)
    found = [(rows, select(rows, topk)) for rows in _split(bf16_bits(hidden), topk, chunk)]
    indices = np.concatenate([top for _, top in found])
    values = np.concatenate([np.take_along_axis(rows, top, axis=1) for rows, top in found]).astype(np.int64)
    return indices, _require_finite(values)


def _top_on_device(hidden: Tensor, topk: int, chunk: int) -> tuple[Ints, Ints]:
    """`_top` where the activations are; only the chosen ones leave the device."""
    bits = hidden.detach().to(torch.bfloat16).contiguous().view(torch.int16)
    tokens, dim = bits.shape
    full = tokens // chunk * chunk
    _require_room(tokens, dim, topk, chunk)
    parts = [
        part for part in (bits[:full].reshape(-1, chunk * dim), bits[full:].reshape(1, -1)) if part.numel()
    ]
    tops = [select_on_device(part, topk) for part in parts]
    values = torch.cat([part.gather(1, top) for part, top in zip(parts, tops, strict=True)])
    patterns = values.cpu().numpy().view(np.uint16).astype(np.int64)
    return torch.cat(tops).cpu().numpy(), _require_finite(patterns)


def _require_finite(values: Ints) -> Ints:
    """The largest magnitudes show it: no other value can be infinite or NaN when none of them is."""
    if ((values & 0x7FFF) >= NOT_FINITE).any():
        raise EncodingError("activations are not finite")
    return values


def build(hidden: Tensor, topk: int, chunk: int) -> Proofs:
    """Proofs of ``hidden``, shape ``(tokens, dim)``, rounded to bfloat16. Raises `EncodingError`.

    Refused are sequences with too few values for their last chunk, values that are not finite, and chunks whose top
    values are all the same, of which a proof would say nothing.
    """
    top, values = _top(hidden, topk, chunk)
    if topk > 1 and (values == values[:, :1]).all(axis=1).any():
        raise EncodingError("the top values of a chunk are all the same")
    moduli = injective_moduli(top)
    return Proofs(moduli, interpolate(top % moduli[:, None], values))


def encode(proofs: Proofs) -> bytes:
    """Proofs of one sequence of chunks, one after the other."""
    return np.column_stack((proofs.moduli, proofs.coefficients)).astype(">u2").tobytes()


def decode(data: bytes, topk: int, count: int) -> Proofs:
    """Strict inverse of `encode` for exactly ``count`` proofs. Raises `EncodingError`.

    Null and constant proofs are no encodings of anything.
    """
    size = 2 + 2 * topk
    if count < 1 or len(data) != count * size:
        raise EncodingError(f"{count} proofs have {count * size} bytes, not {len(data)}")
    rows = np.frombuffer(data, dtype=">u2").astype(np.int64).reshape(count, 1 + topk)
    if ((rows[:, 0] < topk) | (rows[:, 0] > P)).any() or (rows[:, 1:] >= P).any():
        raise EncodingError("a proof's modulus or coefficient is out of range")
    if topk > 1 and not rows[:, 2:].any(axis=1).all():
        raise EncodingError("a proof is constant: it does not depend on the activations' places")
    return Proofs(rows[:, 0], rows[:, 1:])


def verify(hidden: Tensor, proofs: Proofs, topk: int, chunk: int) -> ProofStats:
    """Compare proofs with the verifier's own hidden states, at the verifier's own top indices.

    Raises `EncodingError` when the number of proofs is not the number of chunks, or as `build` does.
    """
    compiled = fast.kernels(hidden.numel()) if hidden.is_cpu else None
    if compiled is not None:
        return _verify_compiled(compiled, hidden, proofs, topk, chunk)
    top, own = _top(hidden, topk, chunk)
    _require_count(len(top), proofs)
    exponents, mantissas, signs, hits = _statistics(top, own, proofs, topk)
    return ProofStats(
        chunks=len(proofs),
        exponent_mismatches=int(exponents.max()),
        mantissa_mean=float(mantissas.max()),
        sign_mismatches=int(signs.max()),
        control_hits=int(hits.max()),
        score=float((mantissas + 8 * exponents / topk).mean()),
    )


def _verify_compiled(
    compiled: ModuleType, hidden: Tensor, proofs: Proofs, topk: int, chunk: int
) -> ProofStats:
    tokens, dim = hidden.shape
    _require_room(tokens, dim, topk, chunk)
    _require_count(chunk_count(tokens, chunk), proofs)
    bits, wide = _patterns(hidden)
    coefficients = np.ascontiguousarray(proofs.coefficients)
    exponents, mantissa, signs, hits, score, highest = compiled.judge(
        bits, wide, chunk, proofs.moduli, coefficients, CONTROL_EVERY, WORST_MANTISSA
    )
    if highest >= NOT_FINITE:
        raise EncodingError("activations are not finite")
    return ProofStats(len(proofs), exponents, mantissa, signs, hits, score / len(proofs))


def _require_count(chunks: int, proofs: Proofs) -> None:
    if chunks != len(proofs):
        raise EncodingError(f"{chunks} chunks need as many proofs, not {len(proofs)}")


def _statistics(top: Ints, own: Ints, proofs: Proofs, topk: int) -> tuple[Ints, Floats, Ints, Ints]:
    """Per chunk: exponents that differ, mean mantissa error, signs that differ, control points that look filled."""
    moduli = proofs.moduli[:, None]
    residues = top % moduli
    # Half a modulus away from a top index lies nothing in particular, and the prover cannot know where that is.
    control = (residues[:, ::CONTROL_EVERY] + moduli // 2) % moduli
    claimed = evaluate(proofs.coefficients, np.concatenate((residues, control), axis=1))
    exponents, mantissas = compare(own, claimed[:, :topk])
    own_exponents = own >> 7 & 0xFF
    seen = claimed[:, topk:] >> 7 & 0xFF
    low, high = own_exponents.min(axis=1, keepdims=True), own_exponents.max(axis=1, keepdims=True)
    signs = ((own >> 15) != (claimed[:, :topk] >> 15)).sum(axis=1)
    return exponents, mantissas, signs, ((seen >= low) & (seen <= high)).sum(axis=1)


def compare(own: Ints, claimed: Ints) -> tuple[Ints, Floats]:
    """Per chunk: positions whose exponents differ, and the mean mantissa error over the others."""
    differ = own ^ claimed
    exponent = (differ & 0x7F80) != 0
    mismatches = exponent.sum(axis=1)
    errors = np.where(exponent, 0, np.abs((own & 0x7F) - (claimed & 0x7F))).sum(axis=1)
    same = own.shape[1] - mismatches
    return mismatches, np.where(same > 0, errors / np.maximum(same, 1), WORST_MANTISSA)


def fault(stats: ProofStats, topk: int, v: VerificationSpec) -> str:
    """What is wrong with a sequence's proofs under a spec's thresholds; empty when nothing is."""
    controls = len(range(0, topk, CONTROL_EVERY))
    limits = (
        ("exponents differ in a chunk", stats.exponent_mismatches, v.max_exponent_mismatches),
        ("mean mantissa error of a chunk", stats.mantissa_mean, v.max_mantissa_mean),
        ("signs differ in a chunk", stats.sign_mismatches, v.max_sign_mismatches),
        ("score of the sequence", stats.score, v.max_proof_score),
        ("values where there should be none", stats.control_hits, max(2.0, CONTROL_LIMIT * controls)),
    )
    broken = [f"{what}: {found:.4g}, at most {most:.4g}" for what, found, most in limits if found > most]
    return "; ".join(broken)
