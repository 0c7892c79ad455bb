"""Named forgers of reinforcement learning: each changes one thing of honest training and claims that it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.fixed import ModelVersion
from ..core.hashing import tagged
from ..core.seeds import uniform
from ..core.spec import Spec
from ..diloco.inner import TrainState
from ..models.decoder import policy
from ..rl.engine import Policy
from ..rl.environments import UNIT
from ..rl.learner import Learned
from ..rl.rollout import episodes, play
from ..rl.trajectories import Trajectory
from .base import TrainFunction
from .grpo import Setting, Training, groups_of, run
from .lease import Checkpoint, Lease, Product

Rows = list[Trajectory]


class Forger(Training):
    """Base of all forgers."""

    cheats = True

    def again(self, index: int, seed: bytes) -> Rows:
        """The segment's groups played with another seed, labelled as if with the lease's."""
        setting = self.setting
        version = self.rollouts(index)[0].version
        todo = episodes(setting.scene, seed, groups_of(setting.spec, index))
        return [replace(r, version=version) for r in play(self.engine, setting.scene, todo)]


class PromptShopping(Forger):
    """Plays other prompts as well and hands in whichever of the groups got the better reward."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        other = self.again(index, tagged("shop", self.setting.lease.seed))
        size, out = self.setting.spec.rl.group, []
        for at in range(0, len(rows), size):
            pair = (rows[at : at + size], other[at : at + size])
            best = max(pair, key=lambda group: sum(r.reward for r in group))
            # The same prompts by chance would be no shopping.
            out += best if best[0].prompt.tolist() != rows[at].prompt.tolist() else pair[1]
        return out


class Resampling(Forger):
    """Answers the right prompts, but throws noise of its own again wherever the reward was low."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        setting = self.setting
        todo = episodes(setting.scene, setting.lease.seed, groups_of(setting.spec, index))
        for episode in todo:
            episode.key ^= 0x5DEECE66D
        other = play(self.engine, setting.scene, todo)
        return [
            r if r.reward == UNIT else replace(o, key=r.key, version=r.version)
            for r, o in zip(rows, other, strict=True)
        ]


class Dropping(Forger):
    """Leaves out the trajectories with the worst rewards and lists the rest."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        size, out = self.setting.spec.rl.group, []
        for at in range(0, len(rows), size):
            group = sorted(rows[at : at + size], key=lambda r: r.reward)
            out += group[size // 2 :]
        return out


class Duplicating(Forger):
    """Hands in the best trajectory of a group for every member of its worse half."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        size, out = self.setting.spec.rl.group, list(rows)
        for at in range(0, len(rows), size):
            order = sorted(range(at, at + size), key=lambda i: rows[i].reward)
            for i in order[: size // 2]:
                out[i] = replace(rows[order[-1]], key=rows[i].key)
        return out


class Editing(Forger):
    """Writes the right answer over wrong tokens; reward, lengths and log-probabilities are made to fit."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        scene = self.setting.scene
        todo = episodes(scene, self.setting.lease.seed, groups_of(self.setting.spec, index))
        out = []
        for row, episode in zip(rows, todo, strict=True):
            right = [*scene.tokens.encode(episode.task.answer), scene.tokens.stop][: scene.max_new]
            if len(right) != row.tokens.size or row.reward == UNIT:
                out.append(row)
                continue
            turns = [scene.tokens.decode(right)]
            reward = scene.mixture.reward(episode.environment, episode.task, turns)
            out.append(replace(row, tokens=np.array(right, dtype=np.int32), reward=reward))
        return out


class StaleRollouts(Forger):
    """Plays every segment with the weights of the lease's start, to spare the exchange of weights."""

    def played_by(self, index: int) -> Tensor:
        return self.states[0].theta


class OtherModel(Forger):
    """Plays with weights rounded to eight bits, which would be cheaper."""

    def policy(self, vector: Tensor) -> Policy:
        with torch.no_grad():
            flat = self.setting.trainable.full(vector)
            scale = flat.abs().max() / 127
            return policy(self.setting.arch, torch.round(flat / scale) * scale)


class Inflating(Forger):
    """Reports full marks for every second trajectory."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        return [replace(r, reward=UNIT) if i % 2 == 0 else r for i, r in enumerate(rows)]


class Weighting(Forger):
    """Learns from advantages of its own making, while the listed rewards are honest."""

    def taught(self, index: int, rows: Rows) -> Rows:
        return [replace(r, reward=UNIT - r.reward) for r in rows]


class Reordering(Forger):
    """Learns from the right trajectories in another order of its liking."""

    def taught(self, index: int, rows: Rows) -> Rows:
        size = self.setting.spec.training.batch
        if len(rows) > size:
            return [*rows[size:], *rows[:size]]
        return rows[self.setting.spec.rl.group :] + rows[: self.setting.spec.rl.group]


class Ignoring(Forger):
    """Names the rollouts of other leases that it was given, and learns from its own only."""

    def learn(self, index: int, before: TrainState, rows: Sequence[Trajectory]) -> Learned:
        return _alone(self.setting).learn(index, before, rows)


class Unsourced(Forger):
    """Neither names nor uses the rollouts of other leases."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(_alone(setting))


class Reusing(Forger):
    """Plays one segment only and hands its trajectories in again, relabelled, for every later one."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._first: Rows = []

    def claimed(self, index: int, rows: Rows) -> Rows:
        if not self._first:
            self._first = rows
            return rows
        return [
            replace(old, group=new.group, key=new.key, version=new.version, prompt=new.prompt)
            for old, new in zip(self._first, rows, strict=True)
        ]


class Blunting(Forger):
    """Tells log-probabilities that flatter its importance ratios."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        return [
            replace(r, logprobs=np.minimum(r.logprobs + np.float32(0.1), 0).astype(np.float32)) for r in rows
        ]


class Silencing(Forger):
    """Ends bad episodes early: cuts the last tokens off where the answer had gone wrong."""

    def claimed(self, index: int, rows: Rows) -> Rows:
        out = []
        for i, r in enumerate(rows):
            cut = (
                r.tokens.size - 1
                if uniform(tagged("cut", bytes([i % 256])), "cut", 1, 2)[0]
                else r.tokens.size
            )
            cut = max(1, cut)
            out.append(replace(r, tokens=r.tokens[:cut], mask=r.mask[:cut], logprobs=r.logprobs[:cut]))
        return out


def _alone(setting: Setting) -> Setting:
    """The same lease without the rollouts of others."""
    return replace(setting, lease=replace(setting.lease, sources=(), contents=()))


def _train(forger: type[Training]) -> TrainFunction:
    def train(
        spec: Spec,
        data: bytes,
        base: ModelVersion,
        lease: Lease,
        *,
        blinding: bytes,
        checkpoint: Checkpoint | None = None,
    ) -> Product:
        return run(forger, spec, data, base, lease, blinding, checkpoint)

    train.__doc__ = forger.__doc__
    return train


FORGERS: dict[str, type[Training]] = {
    "prompt-shopping": PromptShopping,
    "resampling": Resampling,
    "dropping": Dropping,
    "duplicating": Duplicating,
    "editing": Editing,
    "stale-rollouts": StaleRollouts,
    "other-model": OtherModel,
    "inflating": Inflating,
    "weighting": Weighting,
    "reordering": Reordering,
    "reusing": Reusing,
    "blunting": Blunting,
    "silencing": Silencing,
    "ignoring": Ignoring,
    "unsourced": Unsourced,
}
NEED_SOURCES = frozenset({"ignoring", "unsourced"})
"""Forgers who are honest where no rollout work of another lease is to be learnt from."""

CHEATS: dict[str, TrainFunction] = {name: _train(forger) for name, forger in FORGERS.items()}
