"""One batch of episodes: prompts and noise derived from a seed, generated, scored and recorded.

`prompt_seed` and `noise_key` are all that decides what is asked and how tokens are chosen: a trainer chooses neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..core.hashing import tagged
from ..toploc.noise import sequence_key
from .engine import Completion, Request
from .environments import Mixture, Task
from .tokens import Tokens
from .trajectories import Trajectory

MAX_TURNS = 16


def prompt_seed(seed: bytes, group: int) -> bytes:
    """Seed of the prompt of one group."""
    return tagged("prompt", seed, group.to_bytes(4, "big"))


def noise_key(seed: bytes, group: int, sample: int) -> int:
    """Key of the sampling noise of one episode."""
    return sequence_key(tagged("sample", seed, group.to_bytes(4, "big"), sample.to_bytes(4, "big")))


class Engine(Protocol):
    """What completes prompts: `engine.RolloutEngine`, or `openai_engine.OpenAIEngine` for play without proofs."""

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue prompts."""

    def step(self) -> list[Completion]:
        """Get on a little; returns what ended."""


@dataclass(slots=True)
class Episode:
    """An episode under way."""

    group: int
    key: int
    environment: int
    task: Task
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    proof: bytes = b""
    version: int = 0

    @property
    def sampled(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is played: environments, tokens, samples per prompt, and the longest sequence the model reads."""

    mixture: Mixture
    tokens: Tokens
    group: int
    max_new: int
    context: int


def episodes(scene: Scene, seed: bytes, groups: Sequence[int]) -> list[Episode]:
    """Fresh episodes of these groups, ``scene.group`` each, in order."""
    out: list[Episode] = []
    for group in groups:
        environment, task = scene.mixture.task(prompt_seed(seed, group))
        prompt = scene.tokens.encode(task.prompt)
        for sample in range(scene.group):
            out.append(Episode(group, noise_key(seed, group, sample), environment, task, prompt))
    return out


class Player:
    """Plays batches of episodes side by side on one engine; a follow-up turn keeps the policy of the first."""

    def __init__(self, engine: Engine, scene: Scene) -> None:
        self.engine = engine
        self.scene = scene
        self._episodes: dict[int, tuple[int, Episode]] = {}
        self._batches: dict[int, list[Episode]] = {}
        self._left: dict[int, int] = {}
        self._tag = 0

    def begin(self, batch: int, todo: Sequence[Episode]) -> None:
        """Queue a batch under a number of the caller's."""
        self._batches[batch], self._left[batch] = list(todo), len(todo)
        for episode in todo:
            self._ask(batch, episode)

    @property
    def playing(self) -> int:
        """Batches under way."""
        return len(self._batches)

    def step(self) -> list[tuple[int, list[Trajectory]]]:
        """One token further; returns the batches that ended."""
        for completion in self.engine.step():
            batch, episode = self._episodes.pop(completion.tag)
            absorb(self.scene, episode, completion)
            if advance(self.scene, episode):
                self._ask(batch, episode)
            else:
                self._left[batch] -= 1
        over = [batch for batch, left in self._left.items() if left == 0]
        return [(batch, self._finish(batch)) for batch in over]

    def _ask(self, batch: int, episode: Episode) -> None:
        asked = request(self.scene, episode)
        if asked is None:
            self._left[batch] -= 1
            return
        self._tag += 1
        self._episodes[self._tag] = (batch, episode)
        version = episode.version if episode.turns else -1
        self.engine.submit([replace(asked, tag=self._tag, version=version)])

    def _finish(self, batch: int) -> list[Trajectory]:
        del self._left[batch]
        return [record(self.scene, e) for e in self._batches.pop(batch)]


def play(engine: Engine, scene: Scene, todo: Sequence[Episode]) -> list[Trajectory]:
    """Play episodes to their end; trajectories in the order of ``todo``."""
    if not todo:
        return []
    player = Player(engine, scene)
    player.begin(0, todo)
    while True:
        for _, rows in player.step():
            return rows


def room(scene: Scene, episode: Episode) -> int:
    """How many tokens the next turn may have; below 1 when the model's context is used up."""
    return min(scene.max_new, scene.context - len(episode.prompt) - len(episode.tokens))


def request(scene: Scene, episode: Episode) -> Request | None:
    """What the engine shall complete next; None when the model's context is used up."""
    limit = room(scene, episode)
    if limit < 1:
        return None
    return Request((*episode.prompt, *episode.tokens), episode.key, position=episode.sampled, max_new=limit)


def absorb(scene: Scene, episode: Episode, completion: Completion) -> None:
    """Append a turn of the policy."""
    episode.version = completion.version
    episode.tokens += completion.tokens.tolist()
    episode.mask += [1] * completion.tokens.size
    episode.logprobs += completion.logprobs.tolist()
    episode.turns.append(scene.tokens.decode(completion.tokens.tolist()))
    episode.proof += completion.proof


def advance(scene: Scene, episode: Episode) -> bool:
    """Append the environment's reply; False when it has none."""
    reply = scene.mixture.parts[episode.environment].reply(episode.task, episode.turns)
    if reply is None or len(episode.turns) >= MAX_TURNS:
        return False
    said = scene.tokens.encode(reply)
    episode.tokens += said
    episode.mask += [0] * len(said)
    episode.logprobs += [0.0] * len(said)
    return True


def record(scene: Scene, episode: Episode) -> Trajectory:
    """The finished episode with its reward."""
    reward = scene.mixture.reward(episode.environment, episode.task, episode.turns)
    return Trajectory(
        episode.group,
        episode.version,
        episode.key,
        reward,
        np.array(episode.prompt, dtype=np.int32),
        np.array(episode.tokens, dtype=np.int32),
        np.array(episode.mask, dtype=np.uint8),
        np.array(episode.logprobs, dtype=np.float32),
        episode.proof,
    )
