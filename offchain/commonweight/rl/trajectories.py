"""Trajectories in columns: what a rollout delivers, a buffer keeps, a lease commits to and a learner consumes.

One encoding on disk and on the wire: fixed header, then little-endian columns. Strict, bounded and total to decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import EncodingError
from ..core.hashing import tagged
from .environments import UNIT

MAGIC = b"CWRL1\x00\x00\x00"
MAX_ROWS = 1 << 20
MAX_TOKENS = 1 << 26
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One recorded episode. ``tokens`` follow the prompt; ``mask`` is 1 where the policy sampled, 0 where the
    environment spoke; ``logprobs`` are the policy's at the sampling temperature, 0 where masked out."""

    group: int
    version: int
    key: int
    reward: int
    prompt: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    mask: npt.NDArray[np.uint8]
    logprobs: npt.NDArray[np.float32]
    proof: bytes = b""

    def digest(self) -> bytes:
        """Hash of everything but the proof, which has a name of its own."""
        head = np.array([self.group, self.version, self.reward], dtype="<u4").tobytes()
        return tagged(
            "trajectory",
            head + self.key.to_bytes(8, "big"),
            self.prompt.astype("<i4").tobytes(),
            self.tokens.astype("<i4").tobytes(),
            self.mask.astype("u1").tobytes(),
            self.logprobs.astype("<f4").tobytes(),
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """Many trajectories: one entry per row, or ragged with ``*_ends`` (exclusive, ascending)."""

    group: npt.NDArray[np.uint32]
    version: npt.NDArray[np.uint32]
    key: npt.NDArray[np.uint64]
    reward: npt.NDArray[np.uint32]
    prompt_ends: npt.NDArray[np.uint32]
    token_ends: npt.NDArray[np.uint32]
    proof_ends: npt.NDArray[np.uint32]
    prompt: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    mask: npt.NDArray[np.uint8]
    logprobs: npt.NDArray[np.float32]
    proof: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return int(self.group.size)

    @staticmethod
    def of(rows: Sequence[Trajectory]) -> Columns:
        """Columns of these rows."""

        def ends(sizes: list[int]) -> npt.NDArray[np.uint32]:
            return np.cumsum(sizes, dtype=np.int64).astype(np.uint32)

        def joined(parts: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
            return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype=dtype)

        return Columns(
            np.array([r.group for r in rows], dtype=np.uint32),
            np.array([r.version for r in rows], dtype=np.uint32),
            np.array([r.key for r in rows], dtype=np.uint64),
            np.array([r.reward for r in rows], dtype=np.uint32),
            ends([r.prompt.size for r in rows]),
            ends([r.tokens.size for r in rows]),
            ends([len(r.proof) for r in rows]),
            joined([r.prompt for r in rows], np.int32),
            joined([r.tokens for r in rows], np.int32),
            joined([r.mask for r in rows], np.uint8),
            joined([r.logprobs for r in rows], np.float32),
            np.frombuffer(b"".join(r.proof for r in rows), dtype=np.uint8),
        )

    def row(self, i: int) -> Trajectory:
        """One trajectory; its arrays are views."""

        def cut(ends: npt.NDArray[np.uint32]) -> slice:
            return slice(int(ends[i - 1]) if i else 0, int(ends[i]))

        tokens = cut(self.token_ends)
        return Trajectory(
            int(self.group[i]),
            int(self.version[i]),
            int(self.key[i]),
            int(self.reward[i]),
            self.prompt[cut(self.prompt_ends)],
            self.tokens[tokens],
            self.mask[tokens],
            self.logprobs[tokens],
            self.proof[cut(self.proof_ends)].tobytes(),
        )

    def rows(self) -> list[Trajectory]:
        """Every trajectory in order."""
        return [self.row(i) for i in range(len(self))]

    def encode(self) -> bytes:
        """Header (magic, rows, prompt tokens, tokens, proof bytes), then the columns."""
        sizes = [len(self), self.prompt.size, self.tokens.size, self.proof.size]
        head = MAGIC + np.array(sizes, dtype="<u8").tobytes()
        return head + b"".join(_little(getattr(self, f.name)).tobytes() for f in fields(self))

    @staticmethod
    def decode(data: bytes) -> Columns:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        head = len(MAGIC) + 32
        if len(data) < head or data[: len(MAGIC)] != MAGIC:
            raise EncodingError("these are no trajectories")
        rows, prompt, tokens, proof = (int(n) for n in np.frombuffer(data[len(MAGIC) : head], dtype="<u8"))
        if rows > MAX_ROWS or max(prompt, tokens, proof) > MAX_TOKENS:
            raise EncodingError(f"{rows} trajectories with {tokens} tokens are too many")
        counts = [rows] * 7 + [prompt, tokens, tokens, tokens, proof]
        types = ["<u4", "<u4", "<u8", "<u4", "<u4", "<u4", "<u4", "<i4", "<i4", "u1", "<f4", "u1"]
        if len(data) != head + sum(n * np.dtype(t).itemsize for n, t in zip(counts, types, strict=True)):
            raise EncodingError("the columns do not fill their artifact")
        columns, at = [], head
        for count, kind in zip(counts, types, strict=True):
            column = np.frombuffer(data, dtype=kind, count=count, offset=at)
            columns.append(column.astype(column.dtype.newbyteorder("=")))
            at += column.nbytes
        out = Columns(*columns)
        out._check()
        return out

    def _check(self) -> None:
        for ends, total in (
            (self.prompt_ends, self.prompt.size),
            (self.token_ends, self.tokens.size),
            (self.proof_ends, self.proof.size),
        ):
            if (np.diff(ends.astype(np.int64), prepend=0) < 0).any() or (
                ends[-1] if ends.size else 0
            ) != total:
                raise EncodingError("the ends of ragged columns do not ascend to their size")
        if (self.mask > 1).any() or (self.reward > UNIT).any():
            raise EncodingError("a mask or reward is out of range")
        if not np.isfinite(self.logprobs).all() or (self.logprobs > 1e-3).any():
            raise EncodingError("a log-probability is not finite or positive")


def _little(column: Array) -> Array:
    return column.astype(column.dtype.newbyteorder("<"), copy=False)
