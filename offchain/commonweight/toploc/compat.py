"""The face of the published `toploc` 0.1.6 package: its names, arguments, bytes and result fields, on our code.

Proofs are byte for byte the package's on a CPU (it takes the top values in the order of torch's CPU top-k). What
crashes the package raises `EncodingError` here; fewer proofs than chunks, which it answers with fewer results, too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.errors import EncodingError
from .field import Ints, P, evaluate, interpolate
from .topk import NOT_FINITE, Bits, Ties, injective_moduli, select

Activations = Tensor | Sequence[Tensor]
NONE_EQUAL = 2.0**64


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """Of one chunk; ``mant_err_median`` is the upper one of two middle values."""

    exp_mismatches: int
    mant_err_mean: float
    mant_err_median: float


def build_proofs_bytes(
    activations: Activations, decode_batching_size: int, topk: int, skip_prefill: bool = False
) -> list[bytes]:
    """One proof of ``2 + 2 topk`` bytes for the prefill (unless skipped) and for every chunk of decode steps.

    ``activations``: hidden states, bfloat16 or float16; a tensor ``(tokens, dim)`` whose first row is the prefill, or
    a list of tensors. Raises `EncodingError` where the package would log an error and return null proofs.
    """
    out: list[bytes] = []
    for rows in _rows(activations, decode_batching_size, topk, skip_prefill, (torch.bfloat16, torch.float16)):
        top, values = _top(rows, topk, "torch-cpu")
        moduli = injective_moduli(top)
        coefficients = interpolate(top % moduli[:, None], values)
        raw = np.column_stack((moduli, coefficients)).astype(">u2").tobytes()
        size = 2 + 2 * topk
        out += [raw[i : i + size] for i in range(0, len(raw), size)]
    return out


def build_proofs_base64(
    activations: Activations, decode_batching_size: int, topk: int, skip_prefill: bool = False
) -> list[str]:
    """`build_proofs_bytes` in base64."""
    proofs = build_proofs_bytes(activations, decode_batching_size, topk, skip_prefill)
    return [base64.b64encode(proof).decode() for proof in proofs]


def verify_proofs_bytes(
    activations: Activations,
    proofs: Sequence[bytes],
    decode_batching_size: int,
    topk: int,
    skip_prefill: bool = False,
    ties: Ties = "torch-cpu",
) -> list[VerificationResult]:
    """The package's statistics of every chunk. Raises `EncodingError` for malformed or too few proofs."""
    parts = _rows(activations, decode_batching_size, topk, skip_prefill, (torch.bfloat16,))
    count = sum(len(rows) for rows in parts)
    if len(proofs) != count:
        raise EncodingError(f"{count} chunks need as many proofs, not {len(proofs)}")
    size = 2 + 2 * topk
    if any(not isinstance(proof, bytes) or len(proof) != size for proof in proofs):
        raise EncodingError(f"a proof has {size} bytes")
    table = np.frombuffer(b"".join(proofs), dtype=">u2").astype(np.int64).reshape(count, 1 + topk)
    if ((table[:, 0] < 1) | (table[:, 0] > P)).any() or (table[:, 1:] >= P).any():
        raise EncodingError("a proof's modulus or coefficient is out of range")
    out: list[VerificationResult] = []
    for rows in parts:
        part = table[len(out) : len(out) + len(rows)]
        top, own = _top(rows, topk, ties)
        claimed = evaluate(part[:, 1:], top % part[:, :1])
        out += _results(own, claimed)
    return out


def verify_proofs_base64(
    activations: Activations,
    proofs: Sequence[str],
    decode_batching_size: int,
    topk: int,
    skip_prefill: bool = False,
    ties: Ties = "torch-cpu",
) -> list[VerificationResult]:
    """`verify_proofs_bytes` of canonical base64."""
    try:
        raw = [base64.b64decode(proof, validate=True) for proof in proofs]
    except (binascii.Error, ValueError, TypeError) as error:
        raise EncodingError("a proof is not base64") from error
    if any(base64.b64encode(one).decode() != proof for one, proof in zip(raw, proofs, strict=True)):
        raise EncodingError("a proof is not canonical base64")
    return verify_proofs_bytes(activations, raw, decode_batching_size, topk, skip_prefill, ties)


def _rows(
    activations: Activations, batch: int, topk: int, skip_prefill: bool, dtypes: tuple[torch.dtype, ...]
) -> list[Bits]:
    """Bit patterns in order, one row a chunk: the prefill, the whole chunks together, the short last one."""
    if len(activations) == 0 or batch < 1 or topk < 1:
        raise EncodingError("a proof needs activations, and a positive batch size and topk")
    steps = activations if skip_prefill else activations[1:]
    parts = [] if skip_prefill else [activations[0].reshape(1, -1)]
    if len(steps):
        flat = steps if isinstance(steps, Tensor) else _join(steps)
        full = len(flat) // batch * batch
        parts += [flat[:full].reshape(full // batch, -1)] if full else []
        parts += [flat[full:].reshape(1, -1)] if full < len(flat) else []
    if any(part.dtype not in dtypes for part in parts):
        raise EncodingError(f"activations must be {' or '.join(map(str, dtypes))}")
    if any(part.shape[1] < topk for part in parts):
        raise EncodingError(f"a chunk has fewer than {topk} activations")
    return [p.detach().cpu().contiguous().view(torch.int16).numpy().view(np.uint16) for p in parts]


def _join(steps: Sequence[Tensor]) -> Tensor:
    """Decode steps as one tensor ``(steps, dim)``; each may be of any shape with as many values."""
    if len({step.numel() for step in steps}) != 1 or len({step.dtype for step in steps}) != 1:
        raise EncodingError("decode steps must have the same number of activations of the same type")
    return torch.stack(tuple(step.reshape(-1) for step in steps))


def _top(rows: Bits, topk: int, ties: Ties) -> tuple[Ints, Ints]:
    top = select(rows, topk, ties)
    values = np.take_along_axis(rows, top, axis=1).astype(np.int64)
    if ((values & 0x7FFF) >= NOT_FINITE).any():
        raise EncodingError("activations are not finite")
    return top, values


def _results(own: Ints, claimed: Ints) -> list[VerificationResult]:
    k = own.shape[1]
    exponent = ((own ^ claimed) & 0x7F80) != 0
    mismatches = exponent.sum(axis=1)
    # Those of unequal exponents sort behind all others.
    errors = np.sort(np.where(exponent, 1 << 20, np.abs((own & 0x7F) - (claimed & 0x7F))), axis=1)
    sums = np.where(errors < 1 << 20, errors, 0).sum(axis=1)
    out = []
    for wrong, total, row in zip(mismatches.tolist(), sums.tolist(), errors, strict=True):
        same = k - wrong
        mean = total / same if same else NONE_EQUAL
        out.append(VerificationResult(wrong, mean, float(row[same // 2]) if same else NONE_EQUAL))
    return out
