"""Checkpoints that the transformers library writes, as models of a task: exact beside it, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from commonweight.cli.rl import describe
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import parse_task
from commonweight.core.verdict import Outcome
from commonweight.models.decoder import hidden_states, output_matrix, policy
from commonweight.models.folder import read_config, read_folder, write_folder
from commonweight.rl.engine import Request, RolloutEngine, Sampling
from commonweight.tasks.isolation import Checker
from tests.leases import BLINDING, Shelf
from tests.rl_leases import KIND, TinyRl
from tests.unit.test_models_folder import TASK, train_tokenizer

CONTEXT = 48
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "mistral-unlimited": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 16, "rope_theta": 1e6}),
}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-neox": ("GPTNeoX", {}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma-3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 8}),
    "llama-bias": ("Llama", {"attention_bias": True}),
    "qwen2-mixed": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma-2": ("Gemma2", {"head_dim": 16, "final_logit_softcapping": 5.0}, "not one matrix"),
    "mamba": ("Mamba", {"state_size": 8}, "mamba"),
    "phi": ("Phi", {}, "not one matrix"),
}


def saved(folder: Path, kind: str, extra: dict[str, Any], **how: Any) -> Any:
    """A randomly initialised checkpoint of the library with weights that matter; the model that was saved."""
    torch.manual_seed(5)
    sizes = SIZES if kind not in ("GPT2",) else {"vocab_size": 96}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **extra}, bos_token_id=0, eos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.normal_(0, 0.15)
    if how.pop("half", False):
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, **how)
    return model


def tokens() -> Tensor:
    return torch.arange(2 * 40).mul(37).remainder(96).view(2, 40)


def generated(arch: Any, flat: Tensor) -> list[list[int]]:
    engine = RolloutEngine(Sampling(1 << 30, 30, 0.0), slots=8)
    engine.load(0, policy(arch, flat))
    return [c.tokens.tolist() for c in engine.generate([Request((5, 9, 2), 1), Request((7,), 2)])]


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_a_checkpoint_is_computed_as_the_library_computes_it(name: str, tmp_path: Path) -> None:
    kind, extra = {**OURS, **THEIRS}[name]
    model = saved(tmp_path, kind, extra)
    arch, flat = read_folder(tmp_path, CONTEXT)
    assert bool(arch.library) == (name in THEIRS)
    ours = hidden_states(arch, flat, tokens()) @ output_matrix(arch, flat).T
    with torch.inference_mode():
        assert (ours - model(tokens()).logits).abs().max() < 2e-5
        for prompt, made in zip(((5, 9, 2), (7,)), generated(arch, flat), strict=True):
            theirs = model.generate(
                torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            assert made == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["llama-3", "mistral", "qwen2-window", "qwen3", "gpt2"])
def test_what_was_learnt_opens_in_the_library(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "a", *{**OURS, **THEIRS}[name])
    arch, flat = read_folder(tmp_path / "a", CONTEXT)
    write_folder(tmp_path / "b", arch, flat, "", 0)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", local_files_only=True).eval()
    with torch.inference_mode():
        assert (again(tokens()).logits - model(tokens()).logits).abs().max() < 2e-5


def test_shards_of_half_precision_are_read(tmp_path: Path) -> None:
    saved(tmp_path, "Qwen2", {}, half=True, max_shard_size="8KB")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, local_files_only=True, dtype=torch.float32
    )
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    arch, flat = read_folder(tmp_path, CONTEXT)
    ours = hidden_states(arch, flat, tokens()) @ output_matrix(arch, flat).T
    with torch.inference_mode():
        assert (ours - model(tokens()).logits).abs().max() < 2e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_could_replay_is_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, extra, said = REFUSED[name]
    saved(tmp_path, kind, extra)
    with pytest.raises(CommonweightError) as caught:
        read_folder(tmp_path, CONTEXT)
    assert caught.value.code == "E1009"
    assert said in caught.value.message
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attn_implementation": "somebody/kernels"}, "not allowed"),
        ({"auto_map": {"AutoConfig": "evil.py"}}, "not allowed"),
        ({"num_local_experts": 100_000}, "at most"),
        ({"n_inner": 1 << 40}, "at most"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"model_type": "made-up"}, "made-up"),
        ({"n_head": 5}, "cannot build"),
    ],
)
def test_a_strangers_configuration_builds_nothing_absurd(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    saved(tmp_path, *THEIRS["gpt2"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CommonweightError) as caught:
        read_config(tmp_path, CONTEXT)
    assert caught.value.code == "E1009"
    assert said in caught.value.message


@pytest.mark.parametrize("name", ["gpt2", "gemma", "mistral"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_lease_is_trained_and_checked_from_end_to_end(
    name: str, rank: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    saved(folder, *{**OURS, **THEIRS}[name])
    train_tokenizer(folder)
    describe(folder, CONTEXT)
    text = TASK.format(sections=capsys.readouterr().out.replace(str(folder), "model"))
    file = parse_task(text + f"lora_rank = {rank}\n")
    data, base = KIND.load_data(file, tmp_path), KIND.initial_version(file, tmp_path)
    spec = KIND.build_spec(file, data, base)
    assert ("transformers" in spec.verification.profile) == (name in THEIRS)
    world = TinyRl(spec, data, base)
    product = KIND.train(spec, data, base, world.lease(), blinding=BLINDING)
    verdict = world.check(world.lease(), Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    checker = Checker()  # the process that validators check in
    try:
        shelf = Shelf.of(product)
        drawn = tuple(range(KIND.units(spec)))
        verdict = checker.check(spec, data, base, world.lease(), product.root, drawn, shelf.fetch)
    finally:
        checker.close()
    assert verdict.outcome is Outcome.VALID, verdict.reason
    for cheat in ("resampling", "other-model"):
        forged = Shelf.of(world.train(world.lease(), KIND.cheats[cheat]))
        assert world.check(world.lease(), forged).outcome is Outcome.INVALID
    shutil.rmtree(folder)
    assert 0 <= KIND.evaluate(spec, data, base) <= 1
