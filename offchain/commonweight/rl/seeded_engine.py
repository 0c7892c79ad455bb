"""Replayable tokens from a server of somebody else: it gives log-probabilities, and the seeded choice is made here.

One question holds a prompt per row and asks for one token with its likeliest alternatives; the next token is the one
that the row's noise gives (`toploc.sampling`). A token that was not named cannot have won as long as even the least
log-probability that was named would lose with its noise, so the choice is exact, or refused. Only token ids are
unambiguous: the server must take and name them, as vLLM does. Imported only when somebody asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import CommonweightError
from ..toploc.noise import Floats, gumbel, row_keys
from .engine import Completion, Request, Sampling
from .openai_engine import Wire, token_id

BOUND = 1e-3
"""How far a token that was not named must be behind, in nats: servers round what they tell."""


@dataclass(slots=True)
class _Row:
    request: Request
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class SeededEngine:
    """Completes prompts over ``POST {url}/completions``, up to ``slots`` rows and one token of each per question.

    ``vocab``: number of tokens of the model; ``named``: how many alternatives the server tells (vLLM: at most its
    ``--max-logprobs``). Proofs take hidden states, which no server tells: `tasks.rl_evidence.prove` adds them.
    """

    def __init__(
        self,
        url: str,
        model: str,
        sampling: Sampling,
        vocab: int,
        named: int = 20,
        slots: int = 256,
        api_key: str = "",
    ) -> None:
        self.model, self.sampling, self.vocab = model, sampling, vocab
        self.named, self.slots = min(named, vocab), slots
        if sampling.temperature not in (0, 1) and self.named < vocab:
            raise CommonweightError(
                "E1611",
                f"log-probabilities at temperature {sampling.temperature} take all {vocab} of them",
                "temperature 1, or as many alternatives as the model has tokens",
            )
        self._wire = Wire(url, api_key)
        self._queue: deque[Request] = deque()
        self._rows: list[_Row] = []

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue prompts."""
        self._queue.extend(requests)

    def step(self) -> list[Completion]:
        """One token further in every row; returns what ended. Raises E1611."""
        while self._queue and len(self._rows) < self.slots:
            request = self._queue.popleft()
            self._rows.append(_Row(request, request.max_new or self.sampling.max_new))
        if not self._rows:
            return []
        for row, choice in zip(self._rows, self._ask(), strict=True):
            self._take(row, choice)
        over = [r for r in self._rows if r.tokens[-1] == self.sampling.stop or len(r.tokens) >= r.limit]
        self._rows = [r for r in self._rows if r not in over]
        return [
            Completion(
                r.request.tag,
                0,
                np.array(r.tokens, dtype=np.int32),
                np.array(r.logprobs, dtype=np.float32),
                r.tokens[-1] == self.sampling.stop,
            )
            for r in over
        ]

    def close(self) -> None:
        """Ask for nothing more."""
        self._wire.close()

    def _ask(self) -> list[dict[str, Any]]:
        body = {
            "model": self.model,
            "prompt": [[*r.request.prompt, *r.tokens] for r in self._rows],
            "max_tokens": 1,
            "temperature": 1.0,
            "logprobs": self.named,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
            "skip_special_tokens": False,
        }
        return self._wire.complete(body, len(self._rows))

    def _take(self, row: _Row, choice: dict[str, Any]) -> None:
        """Choose a row's next token from what the server tells of it."""
        ids, told = self._told(choice)
        temperature = self.sampling.temperature
        key = row_keys(
            np.array([row.request.key], dtype=np.uint64),
            np.array([row.request.position + len(row.tokens)]),
        )
        score = told / temperature + gumbel(key, ids) if temperature else told
        best = int(score.argmax())
        if len(ids) < self.vocab and temperature:
            rest = np.setdiff1d(np.arange(self.vocab), ids, assume_unique=True)
            unseen = told.min() / temperature + float(gumbel(key, rest).max())
            if unseen > score[best] - BOUND:
                raise CommonweightError(
                    "E1611",
                    f"the {len(ids)} likeliest tokens do not decide which one the noise gives",
                    "let the engine tell more (vLLM: --max-logprobs) and name as many with --named",
                )
        if temperature not in (0, 1):
            told = told / temperature - np.logaddexp.reduce(told / temperature)
        row.tokens.append(int(ids[best]))
        row.logprobs.append(min(0.0, float(told[best])))

    def _told(self, choice: dict[str, Any]) -> tuple[Any, Floats]:
        """Ids and log-probabilities of the likeliest tokens, the likeliest first."""
        try:
            found = choice["logprobs"]["top_logprobs"][0]
            pairs = sorted(((token_id(n), float(x)) for n, x in found.items()), key=lambda p: -p[1])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CommonweightError("E1611", "the engine tells no log-probabilities") from error
        # A server may add the token that it chose itself, behind the likeliest ones.
        pairs = pairs[: self.named]
        ids, told = np.array([i for i, _ in pairs]), np.array([x for _, x in pairs], dtype=np.float64)
        if ids.size < self.named or not ((ids >= 0) & (ids < self.vocab)).all():
            raise CommonweightError(
                "E1611",
                f"the engine names {ids.size} tokens instead of {self.named}, or not by their ids",
                "a server that knows return_tokens_as_token_ids is needed, such as vLLM",
            )
        if np.isnan(told).any() or not np.isfinite(told[0]):
            raise CommonweightError("E1611", "the engine's log-probabilities are not finite")
        return ids, told
