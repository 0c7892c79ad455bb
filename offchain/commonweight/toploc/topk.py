"""The k largest magnitudes of each chunk, and the modulus under which their indices stay apart.

Values come as bit patterns of a 16-bit float; as these are ordered by ``bits & 0x7fff``, integers do all the work.
Two orders among equals: canonical (the smaller index first), and ``torch-cpu``, what torch's top-k leaves on a CPU,
which the published `toploc` package depends on: a partial sort by a heap while ``64 k <= n``, else a quickselect.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.errors import EncodingError
from . import fast
from .field import Ints, P

Bits = npt.NDArray[np.uint16]
Ties = Literal["canonical", "torch-cpu"]

NOT_FINITE = 0x7F80
"""Magnitudes of bfloat16 from here on are infinite or NaN."""
_GROUP = 64
_BLOCK = 1 << 20


def select(rows: Bits, k: int, ties: Ties = "canonical") -> Ints:
    """Ascending indices of each row's k largest magnitudes, shape ``(chunks, k)``, of ``rows`` ``(chunks, n)``."""
    compiled = fast.kernels(rows.size)
    if ties == "torch-cpu" and (compiled is None or 64 * k > rows.shape[1]):
        return _select_by_torch(rows, k)
    if compiled is not None:
        found: Ints = compiled.top(rows, k, ties == "torch-cpu")
        return np.sort(found, axis=1) if ties == "torch-cpu" else found
    out = np.empty((len(rows), k), dtype=np.int64)
    height = max(1, _BLOCK // rows.shape[1])
    for at in range(0, len(rows), height):
        out[at : at + height] = _select_rows(rows[at : at + height], k)
    return out


def _select_rows(rows: Bits, k: int) -> Ints:
    """All rows together: a bound that k values of each reach, then one sort of the few that do."""
    magnitudes = (rows & np.uint16(0x7FFF)).view(np.int16)
    count, n = magnitudes.shape
    grouped = n % _GROUP == 0 and n // _GROUP >= 2 * k
    # k groups reach their bound, so the k-th largest value does too; few others will.
    tops = np.maximum.reduce(magnitudes.reshape(count, _GROUP, -1), axis=1) if grouped else magnitudes
    bound = np.partition(tops, tops.shape[1] - k, axis=1)[:, tops.shape[1] - k]
    found = np.flatnonzero(magnitudes >= bound[:, None])
    row, magnitude = found // n, magnitudes.reshape(-1)[found].astype(np.int64)
    # Row, then magnitude downwards, then index, as one integer: n is below 2**32, a magnitude below 2**15.
    ranked = (row << 48) + ((0x7FFF - magnitude) << 32) + (found - row * n)
    ranked.sort()
    first = np.searchsorted(ranked, np.arange(count, dtype=np.int64) << 48)
    chosen = ranked[first[:, None] + np.arange(k)] & 0xFFFFFFFF
    chosen.sort(axis=1)
    return chosen


def _select_by_torch(rows: Bits, k: int) -> Ints:
    """By the library itself: only the order of magnitudes matters, which float32 patterns keep."""
    wide = torch.from_numpy((rows & np.uint16(0x7FFF)).astype(np.int32) << 16).view(torch.float32)
    return np.stack([np.sort(row.topk(k).indices.numpy()) for row in wide])


def select_on_device(rows: Tensor, k: int) -> Tensor:
    """`select` in canonical order on a device: int64 ``(chunks, k)`` of int16 patterns ``(chunks, n)``."""
    n = rows.shape[1]
    ranked = (rows & 0x7FFF).long() * n + torch.arange(n - 1, -1, -1, device=rows.device)
    return ranked.topk(k, dim=1).indices.sort(dim=1).values


def injective_moduli(indices: Ints) -> Ints:
    """Largest modulus up to P under which each row's distinct indices stay distinct, shape ``(chunks,)``."""
    out = np.full(len(indices), P, dtype=np.int64)
    for c in np.flatnonzero(indices.max(axis=1) >= P):
        out[c] = injective_modulus(indices[c])
    return out


def injective_modulus(indices: Ints) -> int:
    """Largest modulus up to P under which the distinct ``indices`` stay distinct."""
    if int(indices.max()) < P:
        return P
    for modulus in range(P, 0, -1):
        residues = np.sort(indices % modulus)
        if (residues[1:] != residues[:-1]).all():
            return modulus
    raise EncodingError("no modulus keeps the indices apart")
