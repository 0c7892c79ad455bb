"""Warm start: supervised steps on demonstrations of mixed quality, the small analogue of a pretrained model.

Some demonstrations only copy the question, so the model can do the task but often does the lazy thing, and
reinforcement learning has something to choose between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.hashing import tagged
from ..core.seeds import uniform
from ..core.spec import StartSpec, TrainingSpec
from ..diloco.inner import TrainState
from ..diloco.inner import _adamw as adamw
from ..models.architecture import Architecture
from ..models.decoder import hidden_states, output_matrix, policy
from .engine import RolloutEngine, Sampling
from .environments import UNIT
from .rollout import Episode, Scene, play
from .trajectories import Trajectory

EVALUATE_EVERY = 25
HELD_OUT = 256
_IGNORED = -100


def held_out(scene: Scene, count: int) -> list[Episode]:
    """Episodes whose seeds no lease can have."""
    out = []
    for index in range(count):
        seed = tagged("held-out", index.to_bytes(4, "big"))
        environment, task = scene.mixture.task(seed)
        out.append(Episode(index, 0, environment, task, scene.tokens.encode(task.prompt)))
    return out


def accuracy(arch: Architecture, flat: Tensor, scene: Scene, count: int = HELD_OUT) -> float:
    """Share of held-out tasks that the likeliest tokens solve entirely."""
    return solved(scene, greedy(arch, flat, scene, count))["all"]


def greedy(arch: Architecture, flat: Tensor, scene: Scene, count: int = HELD_OUT) -> list[Trajectory]:
    """Held-out tasks answered with the likeliest tokens."""
    engine = RolloutEngine(Sampling(scene.tokens.stop, scene.max_new, 0.0))
    engine.load(0, policy(arch, flat))
    return play(engine, scene, held_out(scene, count))


def solved(scene: Scene, played: Sequence[Trajectory]) -> dict[str, float]:
    """Share of solved ones of `held_out` tasks: of all, and of each environment that came up."""
    marks: dict[str, list[bool]] = {"all": []}
    for episode, row in zip(held_out(scene, len(played)), played, strict=True):
        for name in ("all", scene.mixture.parts[episode.environment].name):
            marks.setdefault(name, []).append(row.reward == UNIT)
    return {name: sum(found) / len(found) for name, found in marks.items()}


def warm_start(arch: Architecture, flat: Tensor, scene: Scene, start: StartSpec) -> tuple[Tensor, float]:
    """Weights after the warm start and their held-out accuracy; a function of the arguments within one profile."""
    state = TrainState.start(flat.numpy())
    theta, m, v = state.theta, state.m, state.v
    training = TrainingSpec(lr=start.warm_lr, beta2=0.98, weight_decay=0.0)
    reached = 0.0
    for step in range(start.warm_steps):
        tokens, targets = _demonstrations(arch, scene, start, step)
        weights = theta.detach().requires_grad_()
        logits = F.linear(hidden_states(arch, weights, tokens), output_matrix(arch, weights))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
        (gradient,) = torch.autograd.grad(loss, weights)
        late = step > 0.7 * start.warm_steps
        adamw(replace(training, lr=start.warm_lr / 5) if late else training, theta, m, v, gradient, step + 1)
        if (step + 1) % EVALUATE_EVERY == 0:
            reached = accuracy(arch, theta, scene)
            if reached >= start.warm_until:
                break
    return theta, reached


def _demonstrations(arch: Architecture, scene: Scene, start: StartSpec, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets int64 ``(batch, time)``; prompts teach nothing."""
    rows = []
    for i in range(start.warm_batch):
        seed = tagged(
            "demonstration", arch.model.seed.to_bytes(8, "big"), step.to_bytes(4, "big"), bytes([i % 256])
        )
        _, task = scene.mixture.task(seed)
        lazy = uniform(seed, "lazy", 1, 1000)[0] < 1000 * start.warm_lazy
        answer = task.prompt[1 : 1 + len(task.answer)] if lazy else task.answer
        rows.append((scene.tokens.encode(task.prompt), [*scene.tokens.encode(answer), scene.tokens.stop]))
    longest = max(len(p) + len(a) for p, a in rows)
    tokens = np.zeros((len(rows), longest), dtype=np.int64)
    targets = np.full((len(rows), longest), _IGNORED)
    for row, (prompt, answer_tokens) in enumerate(rows):
        both = prompt + answer_tokens
        tokens[row, : len(both)] = both
        targets[row, len(prompt) - 1 : len(both) - 1] = answer_tokens
    return torch.from_numpy(tokens), torch.from_numpy(targets)
