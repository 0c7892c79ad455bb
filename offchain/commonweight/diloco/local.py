"""A worker's inner loop between two exchanges: AdamW or Muon steps on its own data, moments carried or fresh.

Built on the pinned step of `inner`; what differs here is that moments survive the outer step, that the learning rate
follows a schedule over the whole run, and that a worker may do any number of steps (deadlines, slow machines).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import CommonweightError
from ..core.seeds import batch_offsets
from ..core.spec import ModelSpec, TrainingSpec
from ..models import forward, parameter_count
from . import muon
from .inner import TrainState, _adamw

Weights = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.uint8]
OPTIMIZERS = ("adamw", "muon")
FINAL_LR = 0.1


@dataclass(frozen=True, slots=True)
class InnerSpec:
    """How a worker trains: AdamW's ``training`` (Muon leaves it all but matrices), Muon's rate ``muon_ratio`` times."""

    optimizer: str = "adamw"
    training: TrainingSpec = field(default_factory=lambda: TrainingSpec(lr=3e-3, batch=4))
    muon_ratio: float = 2.0
    muon_momentum: float = 0.95
    carry: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise CommonweightError(
                "E1702", f"there is no inner optimiser {self.optimizer!r}", f"choose {known}"
            )


@dataclass(frozen=True, slots=True)
class Text:
    """Training text and fixed validation windows; token = byte."""

    model: ModelSpec
    data: bytes
    validation: Tokens
    batch: int
    seed: bytes

    @staticmethod
    def split(
        model: ModelSpec, data: bytes, *, batch: int, seed: int, fraction: float = 0.1, windows: int = 256
    ) -> Text:
        """Hold back the tail of ``data``. Raises E1703 when it is too short for one window on either side."""
        size = model.context + 1
        first = len(data) - int(len(data) * fraction)
        if len(data) - first < size or first < size:
            raise CommonweightError(
                "E1703", f"a text of {len(data)} bytes is too short to train and validate on"
            )
        array = np.frombuffer(data, dtype=np.uint8)
        starts = np.linspace(first, len(data) - size, windows).astype(int)
        validation = np.stack([array[s : s + size] for s in starts])
        return Text(model, data[:first], validation, batch, b"seed/%d" % seed)

    def tokens(self, worker: int, step: int) -> Tokens:
        """The batch of one worker's step: uint8 ``(batch, context + 1)``, drawn by hash."""
        size = self.model.context + 1
        array = np.frombuffer(self.data, dtype=np.uint8)
        offsets = batch_offsets(self.seed + b"/%d" % worker, step, self.batch, len(self.data) - size + 1)
        return np.stack([array[o : o + size] for o in offsets])

    def loss(self, weights: Weights) -> float:
        """Mean validation loss in nats per byte; NaN stays NaN."""
        total = 0.0
        with torch.no_grad():
            flat = torch.from_numpy(np.asarray(weights, dtype=np.float32))
            for part in np.array_split(self.validation, max(1, len(self.validation) // 32)):
                total += float(_loss(self.model, flat, part)) * len(part)
        return total / len(self.validation)


def _loss(model: ModelSpec, flat: Tensor, batch: Tokens) -> Tensor:
    tokens = torch.from_numpy(batch.astype(np.int64))
    logits, _ = forward(model, flat, tokens[:, :-1])
    return F.cross_entropy(logits.reshape(-1, model.vocab), tokens[:, 1:].reshape(-1))


def gradient_of(model: ModelSpec, theta: Tensor, batch: Tokens) -> tuple[Tensor, float]:
    """Gradient float32 ``(n,)`` and loss of one batch."""
    weights = theta.detach().requires_grad_()
    loss = _loss(model, weights, batch)
    (gradient,) = torch.autograd.grad(loss, weights)
    return gradient, float(loss.detach())


def cosine(progress: float) -> float:
    """Learning-rate factor at ``progress`` in [0, 1] of a run: half a cosine from 1 to `FINAL_LR`."""
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def optimise(
    model: ModelSpec, spec: InnerSpec, state: TrainState, gradient: Tensor, step: int, factor: float
) -> None:
    """One optimiser step in place; ``step`` counts from 1 since the moments were zero, ``factor`` scales the rate."""
    t = replace(spec.training, lr=spec.training.lr * factor)
    if spec.optimizer == "adamw":
        _adamw(t, state.theta, state.m, state.v, gradient, step)
        return
    for begin, end in muon.others(model, state.theta.numel()):
        theta, m, v, g = (x[begin:end] for x in (state.theta, state.m, state.v, gradient))
        _adamw(t, theta, m, v, g, step)
    muon.step(
        model, state.theta, state.m, gradient, t.lr * spec.muon_ratio, spec.muon_momentum, t.weight_decay
    )


@dataclass(frozen=True, slots=True)
class LocalResult:
    """Weights after the inner steps, float32 ``(n,)``; mean training loss; tokens seen."""

    trained: Weights
    loss: float
    tokens: int


class InnerLoop:
    """The inner loop of one worker. Its moments live here, so that they can be carried, dropped and recovered."""

    def __init__(
        self, text: Text, spec: InnerSpec, worker: int, schedule: Callable[[float], float] = cosine
    ) -> None:
        self.text, self.spec, self.worker, self.schedule = text, spec, worker, schedule
        self.drawn = 0  # batches drawn so far: no batch is seen twice
        self.reset()

    def reset(self) -> None:
        """Forget the moments, as a worker without history or a fresh-moments protocol does."""
        count = parameter_count(self.text.model)
        self.m, self.v, self.age = torch.zeros(count), torch.zeros(count), 0

    def run(self, weights: Weights, steps: int, progress: tuple[float, float]) -> LocalResult:
        """``steps`` inner steps from ``weights``; the schedule runs from ``progress[0]`` to ``progress[1]``.

        A stretch that diverges is thrown away: weights come back as they were, no tokens, loss NaN, moments forgotten.
        """
        if not self.spec.carry:
            self.reset()
        theta = torch.from_numpy(np.array(weights, dtype=np.float32))
        state, total, (begin, end) = TrainState(theta, self.m, self.v), 0.0, progress
        for i in range(steps):
            gradient, loss = gradient_of(self.text.model, theta, self.text.tokens(self.worker, self.drawn))
            self.drawn, self.age, total = self.drawn + 1, self.age + 1, total + loss
            factor = self.schedule(begin + (end - begin) * i / steps)
            optimise(self.text.model, self.spec, state, gradient, self.age, factor)
        if not bool(torch.isfinite(theta).all()):
            self.reset()
            return LocalResult(np.array(weights, dtype=np.float32), math.nan, 0)
        tokens = steps * self.text.batch * self.text.model.context
        return LocalResult(theta.numpy(), total / max(1, steps), tokens)
