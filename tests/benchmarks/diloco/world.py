"""What all runs of one seed share: text, model, warm start, and the configuration they were made with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from commonweight.core.spec import DataSpec, ModelSpec, TrainingSpec
from commonweight.diloco.inner import TrainState
from commonweight.diloco.local import InnerSpec, Text, cosine, gradient_of, optimise
from commonweight.models import initial_parameters, parameter_count, pin
from commonweight.tasks.data import load

WORKERS = 8


@dataclass(frozen=True, slots=True)
class Config:
    """A size of the benchmark; `small` runs the headline only. Learning rates: the best of a scan for each."""

    name: str
    model: ModelSpec
    rounds: int
    steps: int
    warm: int
    seeds: tuple[int, ...]
    batch: int = 4
    source: str = "stdlib"
    windows: int = 256
    ddp_lr: float = 5e-3
    adamw_lr: float = 3e-3
    muon_lr: float = 3e-3

    @property
    def key(self) -> str:
        """Names what results depend on, so that sizes which share a seed share its runs."""
        shared = replace(self, name="", seeds=())
        return sha256(repr(shared).encode()).hexdigest()[:12]

    @property
    def total(self) -> int:
        """Inner steps of each worker in a run."""
        return self.rounds * self.steps


MODEL = ModelSpec(dim=64, layers=2, heads=4, hidden=160, context=64)
CONFIGS = {
    c.name: c
    for c in (
        Config("small", MODEL, rounds=10, steps=32, warm=200, seeds=(0,)),
        Config("full", MODEL, rounds=10, steps=32, warm=200, seeds=(0, 1)),
        Config("long", MODEL, rounds=20, steps=32, warm=400, seeds=(0, 1)),
    )
}


@dataclass(frozen=True)
class World:
    """Everything a run of one seed starts from."""

    config: Config
    seed: int
    text: Text
    start: np.ndarray

    @property
    def parameters(self) -> int:
        """Length of the flat vector."""
        return parameter_count(self.config.model)

    def inner(self, optimizer: str, carry: bool = True) -> InnerSpec:
        """Inner loop with the scanned learning rate."""
        lr = self.config.muon_lr if optimizer == "muon" else self.config.adamw_lr
        return InnerSpec(optimizer, TrainingSpec(lr=lr, batch=self.config.batch), carry=carry)


@lru_cache(maxsize=4)
def world(config: Config, seed: int, folder: Path) -> World:
    """Text and warm start: ``config.warm`` data-parallel AdamW steps, kept on disk because all runs share them."""
    pin()
    data = load(DataSpec(source=config.source, max_bytes=4_000_000), Path())
    text = Text.split(config.model, data, batch=config.batch, seed=seed, windows=config.windows)
    path = folder / f"warm-{config.key}-{seed}.npy"
    if not path.exists():
        spec = InnerSpec("adamw", TrainingSpec(lr=config.ddp_lr / 2, batch=config.batch))
        folder.mkdir(parents=True, exist_ok=True)
        initial = initial_parameters(replace(config.model, seed=7 + seed)).numpy()
        np.save(path, data_parallel(text, spec, initial, config.warm, offset=WORKERS, schedule=False))
    return World(config, seed, text, np.load(path))


def data_parallel(
    text: Text, spec: InnerSpec, weights: np.ndarray, steps: int, *, offset: int = 0, schedule: bool = True
) -> np.ndarray:
    """Synchronous training: every step on the mean gradient of all workers (one large batch gives the same)."""
    state = TrainState.start(weights)
    for step in range(steps):
        batch = np.concatenate([text.tokens(offset + i, step) for i in range(WORKERS)])
        gradient, _ = gradient_of(text.model, state.theta, batch)
        optimise(text.model, spec, state, gradient, step + 1, cosine(step / steps) if schedule else 1.0)
    return state.theta.numpy()
