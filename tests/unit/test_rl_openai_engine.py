"""The OpenAI-compatible engine against a server over HTTP that answers with our own policy, well and badly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from commonweight.cli import rl_play as cli
from commonweight.core import fixed
from commonweight.core.errors import CommonweightError
from commonweight.models.architecture import Architecture
from commonweight.models.decoder import Llama
from commonweight.rl.engine import Request, RolloutEngine, Sampling
from commonweight.rl.openai_engine import ATTEMPTS, OpenAIEngine
from commonweight.rl.tokens import ByteTokens
from commonweight.rl.warmup import accuracy
from commonweight.tasks import grpo
from commonweight.tasks.rl_bundle import Bundle, scene
from tests.rl_leases import TOML, tiny_rl

TOKENS = ByteTokens()


def policy() -> Llama:
    task = tiny_rl()
    flat = torch.from_numpy(fixed.dequantise_weights(task.base.weights, task.spec.merge.weight_bits))
    return Llama(Architecture.of(task.spec.model, task.spec.decoder), flat)


class Server:
    """`POST /v1/completions` by the tiny policy; ``style`` is how token ids are told, ``fail`` how often it is busy."""

    def __init__(self, style: str = "token_ids", fail: int = 0, body: bytes | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.style, self.fail, self.body = style, fail, body
        self.policy, self.lock = policy(), threading.Lock()

    def answer(self, body: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        with self.lock:
            self.asked.append(body)
            self.keys.append(key)
            if len(self.asked) <= self.fail:
                return 429, b"busy"
            if self.body is not None:
                return 200, self.body
            prompt = body["prompt"]
            ids = tuple(prompt if isinstance(prompt, list) else TOKENS.encode(prompt))
            engine = RolloutEngine(Sampling(TOKENS.stop, body["max_tokens"], body["temperature"]))
            engine.load(0, self.policy)
            (done,) = engine.generate([Request(ids, body["seed"])])
        tokens, scores = done.tokens.tolist(), done.logprobs.tolist()
        choice: dict[str, Any] = {
            "text": TOKENS.decode(tokens),
            "finish_reason": "stop" if done.stopped else "length",
            "logprobs": {"tokens": [chr(t) for t in tokens], "token_logprobs": scores},
        }
        if self.style == "token_ids":
            choice["token_ids"] = tokens
        if self.style == "named":
            choice["logprobs"]["tokens"] = [f"token_id:{t}" for t in tokens]
        return 200, json.dumps({"choices": [choice]}).encode()


@contextmanager
def served(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/completions"
            status, data = server.answer(body, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def engine(url: str, **more: Any) -> OpenAIEngine:
    return OpenAIEngine(url, "tiny", TOKENS, Sampling(TOKENS.stop, 6), slots=2, **more)


def complete(url: str, *prompts: str, **more: Any) -> list[Any]:
    asking = engine(url, **more)
    try:
        asking.submit(Request(tuple(TOKENS.encode(p)), key=5, tag=i) for i, p in enumerate(prompts))
        done: list[Any] = []
        while len(done) < len(prompts):
            done += asking.step()
        return sorted(done, key=lambda c: c.tag)
    finally:
        asking.close()


@pytest.mark.parametrize("style", ["token_ids", "named", "text"])
def test_completions_are_the_same_however_tokens_are_told(style: str) -> None:
    prompts = [f"r{word}=" for word in ("abcd", "bead", "face")]
    with served(Server(style)) as url:
        found = complete(url, *prompts, ids=style != "text")
    own = RolloutEngine(Sampling(TOKENS.stop, 6))
    own.load(0, policy())
    right = own.generate([Request(tuple(TOKENS.encode(p)), key=5) for p in prompts])
    for theirs, ours in zip(found, right, strict=True):
        assert theirs.tokens.tolist() == ours.tokens.tolist()
        assert theirs.stopped == ours.stopped
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-5)


def test_a_busy_server_is_asked_again_and_a_broken_one_is_named() -> None:
    with served(Server(fail=ATTEMPTS - 1)) as url:
        assert len(complete(url, "rab=")) == 1
    with served(Server(fail=ATTEMPTS)) as url, pytest.raises(CommonweightError, match="429") as caught:
        complete(url, "rab=")
    assert caught.value.code == "E1611"
    with pytest.raises(CommonweightError, match="does not answer") as caught:
        complete(url, "rab=")
    assert caught.value.code == "E1611"


@pytest.mark.parametrize(
    "body",
    [b"no", b"{}", b'{"choices": []}', b'{"choices": [{"text": 3}]}', b"[" * 100_000, b"x" * (5 << 20)],
)
def test_rubbish_is_no_completion(body: bytes) -> None:
    with served(Server(body=body)) as url, pytest.raises(CommonweightError) as caught:
        complete(url, "rab=")
    assert caught.value.code == "E1611"


def test_an_engine_is_scored_on_held_out_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = tmp_path / "task.toml", tmp_path / "key"
    path.write_text(TOML.format(source="reverse:4, sort:4").replace("lag = 1", "lag = 1\ntemperature = 0.05"))
    key.write_text("hush\n")
    server = Server()
    with served(server) as url:
        cli.play(path, 64, cli.Asked(url=url, model="tiny", slots=4, ids=True, key_file=key))
    assert set(server.keys) == {"Bearer hush"}
    every, *each = capsys.readouterr().out.splitlines()[-3:]
    task = tiny_rl()
    both = Bundle("reverse:4, sort:4").encode()
    greedy = accuracy(grpo.architecture(task.spec), server.policy.flat, scene(task.spec, both), 64)
    assert every.startswith("64 tasks: mean reward ")
    assert float(every.rsplit(" ", 1)[1]) == pytest.approx(greedy, abs=0.1)
    assert {line.split()[0] for line in each} == {"reverse:4-4", "sort:4-4"}


def test_nobody_imports_it_unasked() -> None:
    code = "import sys, commonweight.tasks.grpo; print([m for m in sys.modules if 'openai' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
