"""Models of the transformers library behind the engine's interface: a family that our decoder does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from commonweight.cli import rl_play as cli
from commonweight.models.decoder import Llama
from commonweight.models.folder import write_folder
from commonweight.models.transformers_policy import TransformersPolicy
from commonweight.rl.engine import Policy, Proving, Request, RolloutEngine, Sampling
from commonweight.toploc import sampling as seeded
from tests.rl_leases import TOML
from tests.unit.test_models_folder import SMALL, made

TODO = [Request(tuple((3 * i + j) % 96 for j in range(2 + i % 5)), key=i, max_new=5 + i) for i in range(12)]


def played(policy: Policy) -> list[list[int]]:
    engine = RolloutEngine(Sampling(1 << 30, 32), slots=8, proving=Proving(16, 8))
    engine.load(0, policy)
    return [c.tokens.tolist() for c in engine.generate(TODO)]


def gpt2(folder: Path, vocab: int) -> None:
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_library_samples_the_tokens_that_our_decoder_does(family: str, tmp_path: Path) -> None:
    arch, flat = made(family, SMALL)
    write_folder(tmp_path, arch, flat)
    assert played(TransformersPolicy.load(tmp_path)) == played(Llama(arch, flat))


def test_another_family_is_sampled_so_that_it_can_be_replayed(tmp_path: Path) -> None:
    gpt2(tmp_path, 96)
    policy = TransformersPolicy.load(tmp_path)
    for request, tokens in zip(TODO, played(policy), strict=True):
        hidden = policy.hidden_states(torch.tensor([[*request.prompt, *tokens]]))[0]
        logits = policy.logits(hidden[len(request.prompt) - 1 : -1])
        assert seeded.replay(logits, np.array(tokens), request.key, seeded.Sampling()).honest


def test_a_folder_is_scored_on_held_out_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpt2(tmp_path / "model", 256)
    (tmp_path / "task.toml").write_text(TOML.format(source="reverse:4, sort:4"))
    cli.play(tmp_path / "task.toml", 32, cli.Asked(folder=tmp_path / "model"))
    every, *each = capsys.readouterr().out.splitlines()[-3:]
    assert every.startswith("32 tasks: mean reward ")
    assert {line.split()[0] for line in each} == {"reverse:4-4", "sort:4-4"}
