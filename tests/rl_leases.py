"""A tiny reinforcement-learning task, its leases and works in memory: what the tests of the kind share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from commonweight.core import seeds
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import Spec, parse_task
from commonweight.core.verdict import Verdict
from commonweight.tasks.base import TrainFunction
from commonweight.tasks.kinds import task_kind
from commonweight.tasks.lease import Lease, Product
from commonweight.tasks.opening import Case
from commonweight.tasks.rl_checking import Court

from .leases import ALICE, BEACON, BLINDING, CHAIN, TASKS, Shelf

TOML = """
[task]
name = "tiny-rl"
kind = "grpo"
[data]
source = "{source}"
[model]
dim = 32
layers = 1
heads = 2
hidden = 64
context = 24
[training]
steps = 6
segment = 2
batch = 16
lr = 0.002
[verification]
topk = 16
[rl]
group = 4
max_new = 6
lag = 1
[start]
warm_steps = 150
warm_batch = 32
"""
KIND = task_kind("grpo")


@dataclass(frozen=True, slots=True)
class TinyRl:
    """Spec, bundle and warm-started version."""

    spec: Spec
    data: bytes
    base: ModelVersion

    def lease(self, round_: int = 0, slot: int = 0, trainer: bytes = ALICE, **rollouts: Any) -> Lease:
        """A lease as the chain would give it; ``rollout`` or ``sources`` as of `Lease`."""
        root = self.base.root
        seed = seeds.lease_seed(CHAIN, TASKS, 1, round_, slot, root, BEACON, trainer)
        return Lease(CHAIN, TASKS, 1, round_, slot, trainer, root, seed, **rollouts)

    def train(self, lease: Lease, train: TrainFunction = KIND.train) -> Product:
        """A work, honest unless another way of training is given."""
        return train(self.spec, self.data, self.base, lease, blinding=BLINDING)

    def check(self, lease: Lease, shelf: Shelf, *units: int) -> Verdict:
        """A seat's verdict; all units are drawn unless some are named."""
        drawn = units or tuple(range(KIND.units(self.spec)))
        return KIND.check(self.spec, self.data, self.base, lease, shelf.product.root, drawn, shelf.fetch)

    def judge(self, lease: Lease, shelf: Shelf, tree: int, leaf: int) -> Verdict:
        """A juror's verdict on one leaf."""
        root = shelf.product.root
        return KIND.judge_leaf(self.spec, self.data, self.base, lease, root, tree, leaf, shelf.fetch)

    def court(self, lease: Lease, shelf: Shelf) -> Court:
        """The opened work."""
        root = shelf.product.root
        return Court(Case(self.spec, self.data, self.base, lease, root, shelf.fetch))


@lru_cache(maxsize=4)
def tiny_rl(source: str = "reverse:4", **rl: object) -> TinyRl:
    """One layer, 32 wide; three segments of two steps of 16 trajectories."""
    file = parse_task(TOML.format(source=source))
    file = replace(file, rl=replace(file.rl, **rl))  # type: ignore[arg-type]
    data, base = KIND.load_data(file, Path()), KIND.initial_version(file, Path())
    return TinyRl(KIND.build_spec(file, data, base), data, base)
