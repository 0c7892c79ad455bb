"""What of a model is trained: every weight, or low-rank corrections of its matrices (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.architecture import Architecture, parameter_count, shapes

LORA_SCALE = 2.0


class Trainable(Protocol):
    """A vector that is optimised, and the model's flat vector as a function of it."""

    def start(self) -> Tensor:
        """Values before the first step, float32 ``(n,)``."""

    def full(self, vector: Tensor) -> Tensor:
        """The model's flat vector; differentiable."""


@dataclass(frozen=True, slots=True)
class FullWeights:
    """The flat vector itself."""

    base: Tensor

    def start(self) -> Tensor:
        """The base."""
        return self.base.clone()

    def full(self, vector: Tensor) -> Tensor:
        """The vector."""
        return vector


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """Every matrix but the embeddings plus ``LORA_SCALE * B A``: A ``(rank, in)`` seeded, B ``(out, rank)`` zero."""

    arch: Architecture
    base: Tensor
    rank: int

    def start(self) -> Tensor:
        """Seeded A, zero B, matrix by matrix in canonical order."""
        generator = torch.Generator().manual_seed(self.arch.model.seed)
        parts = []
        for rows, columns in _matrices(self.arch):
            a = torch.randn((self.rank, columns), generator=generator) / math.sqrt(columns)
            parts += [a.reshape(-1), torch.zeros(rows * self.rank)]
        return torch.cat(parts)

    def full(self, vector: Tensor) -> Tensor:
        """Base plus corrections."""
        out, at, taken = [], 0, 0
        for name, shape in shapes(self.arch):
            size = math.prod(shape)
            piece = self.base[at : at + size]
            if _adapted(name, shape):
                rows, columns = shape
                a = vector[taken : taken + self.rank * columns].view(self.rank, columns)
                taken += self.rank * columns
                b = vector[taken : taken + rows * self.rank].view(rows, self.rank)
                taken += rows * self.rank
                piece = piece + LORA_SCALE * (b @ a).reshape(-1)
            out.append(piece)
            at += size
        return torch.cat(out)


def trainable(arch: Architecture, base: Tensor, rank: int) -> Trainable:
    """Every weight for rank 0, else low-rank corrections."""
    return LoraWeights(arch, base, rank) if rank else FullWeights(base)


def trainable_count(arch: Architecture, rank: int) -> int:
    """Length of the optimised vector."""
    if not rank:
        return parameter_count(arch)
    return sum(rank * (rows + columns) for rows, columns in _matrices(arch))


def _adapted(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices of the layers, which are numbered; embeddings are not."""
    return len(shape) == 2 and any(part.isdigit() for part in name.split("."))


def _matrices(arch: Architecture) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for name, shape in shapes(arch) if _adapted(name, shape)]
