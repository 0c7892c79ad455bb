"""Another engine behind the rollout interface: an OpenAI-compatible server (vLLM, llama.cpp, ...) answers the prompts.

For playing and measuring, not for leases: such a server samples with noise of its own and proves nothing, so what it
says can be scored but not replayed; `seeded_engine` can be replayed. Imported only when somebody asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
import numpy as np

from ..core.errors import CommonweightError
from .engine import Completion, Request, Sampling
from .tokens import Tokens

ANSWER_SECONDS = 300.0
MAX_ANSWER = 4 << 20
ATTEMPTS = 3
PREFIX = "token_id:"


class Wire:
    """The address and key of a server, and one bounded question at a time."""

    def __init__(self, url: str, api_key: str = "") -> None:
        if not url.startswith(("http://", "https://")):
            raise CommonweightError("E1611", f"`{url}` is no address of an engine", "http://HOST:PORT/v1")
        headers = {"Accept-Encoding": "identity"} | (
            {"Authorization": f"Bearer {api_key}"} if api_key else {}
        )
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Ask for nothing more."""
        self._client.close()

    def complete(self, body: dict[str, Any], count: int = 1) -> list[dict[str, Any]]:
        """The ``count`` completions of an answer, in the order of the prompts. Raises E1611."""
        return read_answer(self._post(body), count)

    def _post(self, body: dict[str, Any]) -> bytes:
        """The server's answer, bounded; busy or broken connections are tried again. Raises E1611."""
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                with self._client.stream("POST", "/completions", json=body) as answer:
                    data = b""
                    for piece in answer.iter_raw(1 << 16):
                        data += piece
                        if len(data) > MAX_ANSWER:
                            raise CommonweightError("E1611", f"an answer of more than {MAX_ANSWER} bytes")
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 200:
                return data
            problem = f"status {answer.status_code}: {data[:200].decode(errors='replace')}"
            if answer.status_code not in (408, 429) and answer.status_code < 500:
                break
        raise CommonweightError("E1611", f"the engine {self._client.base_url} does not answer: {problem}")


def read_answer(data: bytes, count: int = 1) -> list[dict[str, Any]]:
    """The ``count`` completions of a server's answer, in the order of the prompts. Raises E1611."""
    try:
        choices = json.loads(data)["choices"]
        choices = sorted(choices, key=lambda c: c.get("index", 0))
        if len(choices) != count or not all(isinstance(c["text"], str) for c in choices):
            raise TypeError
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CommonweightError("E1611", "the engine's answer is no completion") from error
    return choices


class OpenAIEngine:
    """Completes prompts over ``POST {url}/completions``, ``slots`` at a time; the version is always 0.

    Prompts are sent as token ids where ``ids`` is set (vLLM), else as text. Token ids of an answer are taken from
    ``token_ids`` or from tokens named ``token_id:N``, else the text is tokenised again; log-probabilities that the
    server does not give are 0.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokens: Tokens,
        sampling: Sampling,
        slots: int = 16,
        api_key: str = "",
        ids: bool = False,
    ) -> None:
        self.model, self.tokens, self.sampling, self.ids = model, tokens, sampling, ids
        self._wire = Wire(url, api_key)
        self._pool = ThreadPoolExecutor(slots)
        self._flying: set[Future[Completion]] = set()

    def submit(self, requests: Iterable[Request]) -> None:
        """Send prompts."""
        self._flying |= {self._pool.submit(self._complete, request) for request in requests}

    def step(self) -> list[Completion]:
        """Wait until something was answered. Raises E1611 as `_complete` does."""
        done, self._flying = wait(self._flying, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]

    def close(self) -> None:
        """Ask for nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    def _complete(self, request: Request) -> Completion:
        limit = request.max_new or self.sampling.max_new
        stop = self.tokens.decode([self.sampling.stop]) or "\n"
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(request.prompt) if self.ids else self.tokens.decode(request.prompt),
            "max_tokens": limit,
            "temperature": self.sampling.temperature,
            "seed": (request.key + request.position) % (1 << 31),
            "logprobs": 0,
            "stop": [stop],
        }
        if self.ids:
            body |= {"return_tokens_as_token_ids": True, "return_token_ids": True}
        return self._completion(request, self._wire.complete(body)[0], limit)

    def _completion(self, request: Request, choice: dict[str, Any], limit: int) -> Completion:
        scores = choice.get("logprobs") or {}
        named = choice.get("token_ids") or scores.get("tokens") or []
        stopped = choice.get("finish_reason") == "stop"
        if named and all(isinstance(t, int) for t in named):
            chosen = list(named)
        elif named and all(token_id(t) >= 0 for t in named):
            chosen = [token_id(t) for t in named]
        else:
            chosen = self.tokens.encode(choice["text"])
        if stopped and (not chosen or chosen[-1] != self.sampling.stop):
            chosen.append(self.sampling.stop)
        given = scores.get("token_logprobs") or []
        logprobs = np.zeros(len(chosen), dtype=np.float32)
        if len(given) <= len(chosen) and all(isinstance(x, int | float) for x in given):
            logprobs[: len(given)] = given
        tokens = np.array(chosen[:limit], dtype=np.int32)
        return Completion(request.tag, 0, tokens, logprobs[:limit], stopped)


def token_id(name: Any) -> int:
    """The id of a token that is named ``token_id:N``; -1 for other names."""
    number = str(name).removeprefix(PREFIX)
    return int(number) if str(name).startswith(PREFIX) and number.isdecimal() and len(number) < 10 else -1
