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


def select(rows: Bits, k: int, ties: Ties = "canonical") -> Ints:
    """Ascending indices of each row's k largest magnitudes, shape ``(chunks, k)``, of ``rows`` ``(chunks, n)``."""
    compiled = fast.kernels(rows.size)
    if ties == "torch-cpu" and (compiled is None or 64 * k > rows.shape[1]):
        return _select_by_torch(rows, k)
    if compiled is not None:
        found: Ints = compiled.top(rows, k, ties == "torch-cpu")
        return np.sort(found, axis=1) if ties == "torch-cpu" else found
    out = np.empty((len(rows), k), dtype=np.int64)
    for row, top in zip(rows, out, strict=True):
        top[:] = _select_row(row, k)
    return out


def _select_row(row: Bits, k: int) -> Ints:
    magnitudes = (row & np.uint16(0x7FFF)).view(np.int16)
    if row.size % _GROUP == 0 and row.size // _GROUP >= 2 * k:
        # k groups reach this bound, so the k-th largest value does too; few others will.
        bound = _kth(np.maximum.reduce(magnitudes.reshape(_GROUP, -1), axis=0), k)
        found = np.flatnonzero(magnitudes >= bound)
        values = magnitudes[found]
        last = _kth(values, k)
    else:
        last = _kth(magnitudes, k)
        found = np.flatnonzero(magnitudes >= last)
        values = magnitudes[found]
    if found.size > k:
        keep = values > last
        keep[np.flatnonzero(values == last)[: k - int(keep.sum())]] = True
        found = found[keep]
    return found


def _kth(values: npt.NDArray[np.int16], k: int) -> np.int16:
    return np.partition(values, values.size - k)[values.size - k]


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
