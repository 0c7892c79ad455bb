"""JSON-RPC over HTTP with deadlines and bounded, jittered retries. Everything that leaves for the chain
passes here.
"""

from __future__ import annotations

import itertools
import json
import random
import time
import weakref
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import requests

from ..core.errors import CommonweightError

RETRIES = 4  # attempts in all; with the pauses below an outage is reported after about two seconds
PAUSE_S = 0.25
BATCH = 100  # requests in one POST
CHUNK, MAX_ANSWER = 1 << 16, 1 << 28  # bytes read at a time, and at most
_EVM_WORDS = ("revert", "out of gas", "opcode", "stack")
_BUSY = (429, 502, 503, 504)


class RpcError(Exception):
    """The node answered, and its answer is an error. ``data`` is the revert data when there is some."""

    def __init__(self, method: str, error: Any) -> None:
        body = error if isinstance(error, dict) else {"message": str(error)}
        self.method = method
        self.code = body.get("code", 0)
        self.text = str(body.get("message", ""))
        self.data = _revert_data(body.get("data"))
        super().__init__(f"{method}: {self.text}")

    @property
    def reverted(self) -> bool:
        """The contract refused (as opposed to: the node could not answer)."""
        return self.code == 3 or bool(self.data) or any(word in self.text.lower() for word in _EVM_WORDS)


class Rpc:
    """One endpoint. Raises E1203 when it cannot be reached, `RpcError` when it answers with an error.

    ``timeout_s`` bounds one attempt, from connect to the last byte.
    """

    def __init__(self, url: str, timeout_s: float = 10.0, attempts: int = RETRIES) -> None:
        session = requests.Session()
        # A proxy from the environment must not see, or break, what is meant for this machine.
        session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
        self.url = url
        self._attempts = attempts
        self.place = _without_secrets(url)
        # Sockets are closed when the last user is gone, so that nobody has to remember it.
        self._closer = weakref.finalize(self, session.close)
        self._session, self._timeout = session, timeout_s
        self._ids = itertools.count(1)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._closer()

    def call(self, method: str, *params: Any) -> Any:
        """The result of one request."""
        return _result(method, self._send(self._request(method, params)))

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The results of many requests, in their order; one error in a part of it raises."""
        results: list[Any] = []
        for first in range(0, len(calls), BATCH):
            part = [self._request(method, params) for method, params in calls[first : first + BATCH]]
            answers = self._send(part)
            if not isinstance(answers, list) or len(answers) != len(part):
                raise RpcError(
                    "batch", answers.get("error") if isinstance(answers, dict) else "not a batch answer"
                )
            by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
            results += [_result(request["method"], by_id.get(request["id"])) for request in part]
        return results

    def _request(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}

    def _post(self, request: Any) -> Any:
        """One POST, read in large pieces: web3's own provider reads a streamed answer byte by byte, and without
        streaming a slow answer has no deadline as a whole.
        """
        end, body = time.monotonic() + self._timeout, bytearray()
        headers = {"content-type": "application/json"}
        with self._session.post(
            self.url,
            json.dumps(request).encode(),
            headers=headers,
            timeout=self._timeout,
            stream=True,
            allow_redirects=False,
        ) as response:
            response.raise_for_status()
            # read1 returns what has come, so that the deadline is looked at however slowly an answer drips
            while part := response.raw.read1(CHUNK, decode_content=True):
                body += part
                if len(body) > MAX_ANSWER:
                    raise ValueError("the answer is too long")
                if time.monotonic() > end:
                    raise requests.Timeout
        return json.loads(body)

    def _send(self, request: Any) -> Any:
        reason = ""
        for turn in range(self._attempts):
            try:
                return self._post(request)
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                reason = f"it answered {status}"
                if status not in _BUSY:
                    break
            except requests.RequestException as error:
                reason = type(error).__name__
            except (ValueError, TypeError, KeyError):
                reason = "its answer is not JSON-RPC"
            if turn + 1 < self._attempts:
                time.sleep(random.uniform(0, PAUSE_S * 2**turn))  # full jitter: many nodes share one endpoint
        raise CommonweightError(
            "E1203",
            f"the chain at {self.place} cannot be reached: {reason}",
            "check the RPC address and the network",
        )


def quantity(value: Any) -> int:
    """An integer as JSON-RPC writes it."""
    return int(cast(str, value), 16)


def data(value: Any) -> bytes:
    """Bytes as JSON-RPC writes them."""
    return bytes.fromhex(cast(str, value).removeprefix("0x"))


def hexed(value: bytes) -> str:
    """Bytes for JSON-RPC."""
    return "0x" + value.hex()


def _result(method: str, answer: Any) -> Any:
    if not isinstance(answer, dict) or ("result" not in answer and "error" not in answer):
        raise RpcError(method, "the answer has neither a result nor an error")
    if answer.get("error") is not None:
        raise RpcError(method, answer["error"])
    return answer["result"]


def _revert_data(value: Any) -> bytes:
    """Nodes disagree on where revert data stands: a string, a string with words before it, or one level
    deeper.
    """
    if isinstance(value, dict):
        value = value.get("data") or value.get("result")
    if not isinstance(value, str) or "0x" not in value:
        return b""
    try:
        return bytes.fromhex(value[value.index("0x") + 2 :])
    except ValueError:
        return b""


def _without_secrets(url: str) -> str:
    """Scheme, host and port only: providers put access tokens into paths, users put passwords before the
    host.
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
