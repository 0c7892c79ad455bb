"""Seeded choice over the log-probabilities of a server: what it gives is what our own engine gives, and is proven."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from commonweight.cli import rl_play as cli
from commonweight.cli.swarm.plan import free_ports
from commonweight.core.errors import CommonweightError
from commonweight.rl import vllm_server
from commonweight.rl.engine import Request, RolloutEngine, Sampling
from commonweight.rl.rollout import episodes, play
from commonweight.rl.seeded_engine import SeededEngine
from commonweight.tasks.rl_bundle import scene
from commonweight.tasks.rl_evidence import examine, misfit, prove
from tests.rl_leases import TOML, tiny_rl

from .test_rl_openai_engine import TOKENS, policy, served

VOCAB = 256


class Telling:
    """`POST /v1/completions` for one token per prompt: the likeliest tokens by id, and one that the server chose."""

    def __init__(self, **wrong: Any) -> None:
        self.policy, self.asked, self.wrong = policy(), [], wrong

    def answer(self, body: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        self.asked.append(body)
        return 200, json.dumps(
            {"choices": [self._choice(i, p, body) for i, p in enumerate(body["prompt"])][::-1]}
        ).encode()

    def _choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        assert body["max_tokens"] == 1
        hidden = self.policy.hidden_states(torch.tensor([prompt]))[0, -1]
        told = torch.log_softmax(self.policy.logits(hidden), dim=0)
        top = told.topk(body["logprobs"])
        named = {
            f"token_id:{i}": round(x, 6)
            for x, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        }
        named |= {"token_id:255": float(told[255])}
        if "name" in self.wrong:
            named = {self.wrong["name"]: 0.0, **{f"x{i}": -1.0 for i in range(len(named))}}
        if "value" in self.wrong:
            named = dict.fromkeys(named, self.wrong["value"])
        return {
            "index": index,
            "text": "x",
            "logprobs": None if "none" in self.wrong else {"top_logprobs": [named]},
        }


def seeded(url: str, sampling: Sampling, named: int = VOCAB, slots: int = 256) -> SeededEngine:
    return SeededEngine(url, "tiny", sampling, VOCAB, named, slots)


def steps(engine: SeededEngine, count: int) -> None:
    for _ in range(count):
        engine.step()


@pytest.mark.parametrize(("named", "temperature"), [(VOCAB, 1.0), (VOCAB, 0.7), (120, 1.0), (5, 0.0)])
def test_a_server_gives_the_tokens_that_our_own_engine_does(named: int, temperature: float) -> None:
    rule = Sampling(TOKENS.stop, 6, temperature)
    todo = [
        Request(tuple(TOKENS.encode(f"r{w}=")), key=5 + i)
        for i, w in enumerate(("abcd", "bead", "ga", "face"))
    ]
    own = RolloutEngine(rule)
    own.load(0, policy())
    right = own.generate(todo)
    telling = Telling()
    with served(telling) as url:
        engine = seeded(url, rule, named, slots=3)
        engine.submit(Request(r.prompt, r.key, tag=i) for i, r in enumerate(todo))
        found: list[Any] = []
        while len(found) < len(todo):
            found += engine.step()
        engine.close()
    for theirs, ours in zip(sorted(found, key=lambda c: c.tag), right, strict=True):
        assert theirs.tokens.tolist() == ours.tokens.tolist()
        assert theirs.stopped == ours.stopped
        if temperature:
            assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-5)
    # A question per token, not per row.
    assert len(telling.asked) <= sum(sorted(len(c.tokens) for c in right)[-2:])


@pytest.mark.parametrize("source", ["reverse:4", "guess"])
def test_episodes_of_a_server_replay_and_their_proofs_fit(source: str) -> None:
    """One pass of our own adds the proofs; then a validator sees no difference from a lease's own rollouts."""
    task = tiny_rl(source)
    stage = scene(task.spec, task.data)
    rl, v = task.spec.rl, task.spec.verification
    telling = Telling()
    with served(telling) as url:
        engine = seeded(url, Sampling(stage.tokens.stop, rl.max_new, rl.temperature))
        rows = play(engine, stage, episodes(stage, bytes(32), range(6)))
        engine.close()
    rows = prove(telling.policy, rows, rl, v)
    evidence = examine(telling.policy, rows, rl, v.chunk)
    assert evidence.margin.max() < rl.max_margin
    assert evidence.logprob_error.max() < rl.max_logprob_error
    assert all(row.proof and not misfit(h, row, v) for h, row in zip(evidence.hidden, rows, strict=True))


@pytest.mark.parametrize(
    ("wrong", "named", "said"),
    [
        ({}, 2, "do not decide"),
        ({"name": "A"}, VOCAB, "not by their ids"),
        ({"name": "token_id:256"}, VOCAB, "not by their ids"),
        ({"value": None}, VOCAB, "no log-probabilities"),
        ({"value": float("nan")}, VOCAB, "not finite"),
        ({"none": 1}, VOCAB, "no log-probabilities"),
    ],
)
def test_what_does_not_decide_a_token_is_refused(wrong: dict[str, Any], named: int, said: str) -> None:
    with served(Telling(**wrong)) as url:
        engine = seeded(url, Sampling(TOKENS.stop, 6), named)
        engine.submit(Request(tuple(TOKENS.encode("rab=")), key=i) for i in range(64))
        with pytest.raises(CommonweightError, match=said) as caught:
            steps(engine, 6)
        engine.close()
    assert caught.value.code == "E1611"


def test_other_temperatures_take_every_token() -> None:
    with pytest.raises(CommonweightError, match="all 256"):
        seeded("http://127.0.0.1:1/v1", Sampling(TOKENS.stop, 6, 0.7), 20)


def test_a_server_is_scored_with_seeded_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task.toml").write_text(TOML.format(source="reverse:4"))
    said = []
    for _ in range(2):
        with served(Telling()) as url:
            cli.play(tmp_path / "task.toml", 32, cli.Asked(url=url, seeded=True, named=VOCAB))
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "32 tasks: mean reward " in said[0]


def test_vllm_is_looked_for_when_asked_and_missed_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TOML.format(source="reverse:4"))
    with pytest.raises(CommonweightError) as caught:
        cli.play(tmp_path / "task.toml", 4, cli.Asked(folder=tmp_path, vllm=True))
    assert caught.value.code == "E1008"
    assert "vllm" in (caught.value.hint or "")


STAND_IN = """
    import json, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer
    given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    if given["--model"].endswith("broken"):
        sys.exit("no such model")
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["model"] == given["--served-model-name"]
            choice = {"text": "dcba", "token_ids": list(b"dcba\\n"), "finish_reason": "stop"}
            data = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
    HTTPServer((given["--host"], int(given["--port"])), Handler).serve_forever()
"""


def test_vllm_is_started_asked_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package of that name which speaks its command line and protocol; the real one needs more than a test has."""
    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.toml").write_text(TOML.format(source="reverse:4"))
    cli.play(tmp_path / "task.toml", 4, cli.Asked(folder=tmp_path / "model", vllm=True))
    assert re.search(r"4 tasks: mean reward 0\.\d+", capsys.readouterr().out)
    with pytest.raises(CommonweightError, match="ended with 1"):
        cli.play(tmp_path / "task.toml", 4, cli.Asked(folder=tmp_path / "broken", vllm=True))
    assert "no such model" in (tmp_path / "vllm.log").read_text()
    with vllm_server.serving(tmp_path / "model", free_ports(1)[0], 1, tmp_path / "vllm.log") as url:
        assert url.startswith("http://127.0.0.1:")
