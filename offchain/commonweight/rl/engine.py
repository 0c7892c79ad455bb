"""Rollout engine: batched generation with a key-value cache, seeded sampling, and proofs made on the way.

Rows that start together form a lane. A lane has one policy version for its whole life; rows that end are dropped from
it every few steps, and free slots are filled with new lanes at once, of whatever version is newest then. So lengths
may differ as they like, and new weights arrive without stopping what is being generated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import toploc
from ..core.errors import CommonweightError
from ..toploc import noise
from ..toploc import sampling as seeded

COMPACT_STEPS = 8
KEEP_POLICIES = 10
NOISE_STEPS = 8
SMALL = 1 << 13
PROOF_BATCH, PROOF_STEPS = 128, 32
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Policy(Protocol):
    """One policy version that generates: the built-in decoder, or a model of somebody else behind an adapter."""

    @property
    def vocab(self) -> int:
        """Number of tokens."""

    @property
    def dim(self) -> int:
        """Width of the hidden states."""

    def prefill(self, tokens: Tensor, start: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Cache, logits and hidden states of the last column; row b of ``tokens`` begins in column ``start[b]``."""

    def decode(self, cache: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(rows, vocab)`` and hidden states ``(rows, dim)`` after one more token per row."""

    def keep(self, cache: Any, rows: Tensor) -> None:
        """Select rows of a cache, repeats allowed."""

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """One teacher-forced pass over right-filled ``tokens``."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: at ``temperature`` (0: the likeliest), until ``stop`` or ``max_new`` tokens."""

    stop: int
    max_new: int
    temperature: float = 1.0

    @property
    def rule(self) -> seeded.Sampling:
        """The rule that a validator replays."""
        return seeded.Sampling(self.temperature)


@dataclass(frozen=True, slots=True)
class Proving:
    """Parameters of the activation proofs."""

    topk: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to complete; ``key`` (64 bits) seeds its noise from ``position`` on; ``tag`` is the caller's.

    ``version`` pins the policy of an earlier turn; -1 takes the newest when the row starts.
    """

    prompt: tuple[int, ...]
    key: int
    tag: int = 0
    position: int = 0
    max_new: int = 0
    version: int = -1


@dataclass(frozen=True, slots=True)
class Completion:
    """Sampled tokens with their log-probabilities; ``proof`` is one activation proof per chunk, encoded."""

    tag: int
    version: int
    tokens: Ints
    logprobs: Floats
    stopped: bool
    proof: bytes = b""


@dataclass(slots=True)
class _Lane:
    """Rows that advance together; ``rows[i]`` is the request of row i."""

    version: int
    policy: Policy
    cache: Any
    logits: Tensor
    hidden: Tensor
    rows: list[Request]
    keys: npt.NDArray[np.uint64]
    first: npt.NDArray[np.int64]
    limit: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    window: Tensor
    proofs: list[list[bytes]]
    ends: npt.NDArray[np.int64]
    noise: npt.NDArray[np.float64]
    noise_from: int = -NOISE_STEPS
    unscored: list[Tensor] = field(default_factory=list)
    step: int = 0

    def score(self, temperature: float) -> None:
        """Log-probabilities of the tokens of the last steps, at once: a call costs more than what few entries take.

        Raises E1604 for logits from which no token can be chosen.
        """
        if not self.unscored:
            return
        steps = slice(self.step - len(self.unscored), self.step)
        logits = torch.stack(self.unscored, dim=1)
        scaled = logits if temperature in (0, 1) else logits / temperature
        tokens = torch.from_numpy(self.tokens[:, steps].astype(np.int64))
        picked = scaled.gather(-1, tokens[:, :, None])[:, :, 0]
        found = (picked - torch.logsumexp(scaled, dim=-1)).numpy()
        if not np.isfinite(found).all():
            raise CommonweightError("E1604", "logits are not finite, so no token can be chosen from them")
        self.logprobs[:, steps] = found
        self.unscored.clear()

    def noise_now(self, vocab: int) -> npt.NDArray[np.float64]:
        """Gumbel noise of this step, ``(rows, vocab)``; made for several steps at once, since it needs no logits."""
        if self.step - self.noise_from >= NOISE_STEPS:
            self.noise_from = self.step
            positions = (self.first + self.step)[:, None] + np.arange(NOISE_STEPS)
            rows = noise.row_keys(self.keys[:, None], positions)
            with np.errstate(over="ignore"):
                bits = noise.mix(rows[..., None] + noise.token_steps(vocab))
            v = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
            self.noise = -np.log(-np.log(1.0 - v))
        return self.noise[:, self.step - self.noise_from]


class RolloutEngine:
    """Generates with the newest policy version that was loaded; ``slots`` rows at most at a time."""

    def __init__(self, sampling: Sampling, slots: int = 256, proving: Proving | None = None) -> None:
        self.sampling = sampling
        self.slots = slots
        self.proving = proving
        self.version = -1
        self._rule = sampling.rule
        self._policies: dict[int, Policy] = {}
        self._queue: deque[Request] = deque()
        self._lanes: list[_Lane] = []
        self._windows: list[Tensor] = []
        self._owners: list[list[bytes]] = []
        self._held: list[tuple[Completion, list[bytes]]] = []
        self._since = 0

    def load(self, version: int, policy: Policy) -> None:
        """Use new weights for every row that starts from now on; rows in flight keep the ones they began with."""
        if version <= self.version:
            raise CommonweightError("E1610", f"policy version {version} is not newer than {self.version}")
        self.version = version
        self._policies[version] = policy
        while len(self._policies) > KEEP_POLICIES:
            del self._policies[next(iter(self._policies))]

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue prompts."""
        self._queue.extend(requests)

    @property
    def running(self) -> int:
        """Rows in flight."""
        return sum(len(lane.rows) for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Prompts that have not started."""
        return len(self._queue)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all, in the order of ``requests``; their tags are ignored."""
        self.submit(replace(r, tag=i) for i, r in enumerate(requests))
        done: list[Completion | None] = [None] * len(requests)
        while self.running or self._queue:
            for completion in self.step():
                done[completion.tag] = completion
        return [c for c in done if c is not None]

    def step(self) -> list[Completion]:
        """Start what fits, then sample one token in every row; returns what ended."""
        free = self.slots - self.running
        if self._queue and free >= min(len(self._queue), max(1, self.slots // 4)):
            self._start(self._next(free))
        done: list[Completion] = []
        for lane in self._lanes:
            done += self._advance(lane)
        self._lanes = [lane for lane in self._lanes if lane.rows]
        return done if self.proving is None else self._proven()

    def _next(self, free: int) -> list[Request]:
        """Up to ``free`` requests from the head of the queue that one version answers."""
        wanted = self._version_of(self._queue[0])
        out: list[Request] = []
        while self._queue and len(out) < free and self._version_of(self._queue[0]) == wanted:
            out.append(self._queue.popleft())
        return out

    def _version_of(self, request: Request) -> int:
        return self.version if request.version < 0 else request.version

    def _start(self, requests: list[Request]) -> None:
        """A new lane: every distinct prompt is read once, then its cache is repeated for its samples."""
        version = self._version_of(requests[0])
        if version not in self._policies:
            raise CommonweightError("E1610", f"policy version {version} is not loaded (any more)")
        policy = self._policies[version]
        prompts = list(dict.fromkeys(r.prompt for r in requests))
        order = {prompt: i for i, prompt in enumerate(prompts)}
        longest = max(map(len, prompts))
        tokens = torch.zeros((len(prompts), longest), dtype=torch.int64)
        start = torch.tensor([longest - len(p) for p in prompts])
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        cache, logits, hidden = policy.prefill(tokens, start)
        rows = torch.tensor([order[r.prompt] for r in requests])
        if len(requests) != len(prompts):
            policy.keep(cache, rows)
            logits, hidden = logits[rows], hidden[rows]
        limit = [r.max_new or self.sampling.max_new for r in requests]
        count, chunk = len(requests), self.proving.chunk if self.proving else 0
        self._lanes.append(
            _Lane(
                version,
                policy,
                cache,
                logits,
                hidden,
                requests,
                np.array([r.key for r in requests], dtype=np.uint64),
                np.array([r.position for r in requests], dtype=np.int64),
                np.array(limit, dtype=np.int64),
                np.zeros((count, max(limit)), dtype=np.int32),
                np.zeros((count, max(limit)), dtype=np.float32),
                torch.zeros((count, chunk, policy.dim), dtype=torch.bfloat16),
                [[] for _ in requests],
                np.zeros(count, dtype=np.int64),
                np.empty((count, 0, 0)),
            )
        )

    def _advance(self, lane: _Lane) -> list[Completion]:
        at = lane.step
        chosen = self._choose(lane)
        lane.tokens[:, at] = chosen
        lane.unscored.append(lane.logits)
        if self.proving:
            lane.window[:, at % self.proving.chunk] = lane.hidden
        lane.step = at + 1
        if lane.logits.numel() > SMALL:
            lane.score(self._rule.temperature)
        over = (chosen == self.sampling.stop) | (lane.limit <= lane.step)
        lane.ends[(lane.ends == 0) & over] = lane.step
        live = lane.ends == 0
        done: list[Completion] = []
        boundary = self.proving is not None and lane.step % self.proving.chunk == 0
        if not live.any() or lane.step % COMPACT_STEPS == 0 or boundary:
            done = self._compact(lane, live, boundary)
        if lane.rows:
            token = torch.from_numpy(lane.tokens[:, at].astype(np.int64))
            lane.logits, lane.hidden = lane.policy.decode(lane.cache, token)
        return done

    def _choose(self, lane: _Lane) -> npt.NDArray[np.int64]:
        """The seeded choice of every row."""
        rule = self._rule
        logits = lane.logits.numpy()
        if rule.temperature and logits.size <= SMALL:
            return _race(logits, lane.noise_now(logits.shape[1]), rule.temperature)
        return seeded.choose(logits, noise.row_keys(lane.keys, lane.first + lane.step), rule)[0]

    def _compact(self, lane: _Lane, live: npt.NDArray[np.bool_], boundary: bool) -> list[Completion]:
        """Hand out the rows that ended and drop them; make the log-probabilities and proofs that are due."""
        lane.score(self._rule.temperature)
        ended = np.flatnonzero(~live)
        if self.proving:
            self._prove(lane, np.arange(len(live)) if boundary else ended)
        done = [self._completion(lane, int(row)) for row in ended]
        if ended.size:
            kept = np.flatnonzero(live)
            index = torch.from_numpy(kept)
            lane.rows = [lane.rows[i] for i in kept]
            lane.proofs = [lane.proofs[i] for i in kept]
            for name in ("keys", "first", "limit", "tokens", "logprobs", "ends", "noise"):
                setattr(lane, name, getattr(lane, name)[kept])
            lane.window = lane.window[index]
            if kept.size:
                lane.policy.keep(lane.cache, index)
        return done

    def _prove(self, lane: _Lane, rows: npt.NDArray[np.int64]) -> None:
        """Set the chunk that lies in the window aside; positions behind a row's end count as zeros."""
        assert self.proving is not None
        chunk, begin = self.proving.chunk, (lane.step - 1) // self.proving.chunk * self.proving.chunk
        ends = np.where(lane.ends[rows] > 0, lane.ends[rows], lane.step) - begin
        rows, ends = rows[ends > 0], ends[ends > 0]
        window = lane.window[torch.from_numpy(rows)]
        window[torch.arange(chunk) >= torch.from_numpy(ends)[:, None]] = 0
        self._windows.append(window.flatten(0, 1))
        self._owners += [lane.proofs[row] for row in rows]

    def _proven(self) -> list[Completion]:
        """Build proofs many at a time, which is cheaper; what ended is held back until its proofs are there."""
        assert self.proving is not None
        self._since += 1
        if self._lanes and len(self._owners) < PROOF_BATCH and self._since < PROOF_STEPS:
            return []
        self._since = 0
        if self._owners:
            built = toploc.build(torch.cat(self._windows), self.proving.topk, self.proving.chunk)
            encoded, size = toploc.encode(built), 2 + 2 * self.proving.topk
            for at, proofs in enumerate(self._owners):
                proofs.append(encoded[at * size : (at + 1) * size])
        self._windows, self._owners = [], []
        held, self._held = self._held, []
        return [replace(completion, proof=b"".join(proofs)) for completion, proofs in held]

    def _completion(self, lane: _Lane, row: int) -> Completion:
        end = int(lane.ends[row])
        completion = Completion(
            lane.rows[row].tag,
            lane.version,
            lane.tokens[row, :end].copy(),
            lane.logprobs[row, :end].copy(),
            bool(lane.tokens[row, end - 1] == self.sampling.stop),
        )
        if self.proving is not None:
            self._held.append((completion, lane.proofs[row]))
        return completion


def _race(logits: Floats, gumbel: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.int64]:
    """`seeded.choose` by its definition, on noise made ahead: for few entries calls cost more than logarithms.

    Whether logits are finite shows in the log-probabilities, a few steps later.
    """
    if temperature == 1:
        return np.add(logits, gumbel).argmax(axis=1)
    scores = logits.astype(np.float64)
    scores /= temperature
    scores += gumbel
    return scores.argmax(axis=1)
