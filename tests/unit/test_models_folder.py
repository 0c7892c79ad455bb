"""Hugging Face folders: there and back without a change, every family, real tokenizers, strict about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from commonweight.cli.rl import describe
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import DecoderSpec, ModelSpec, parse_task
from commonweight.core.verdict import Outcome
from commonweight.models import architecture
from commonweight.models.architecture import Architecture, parameter_count
from commonweight.models.decoder import Llama, hidden_states
from commonweight.models.folder import read_config, read_folder, read_tokenizer, write_folder
from commonweight.rl.environments import make
from commonweight.rl.tokens import FileTokens
from tests.leases import BLINDING, Shelf
from tests.rl_leases import KIND, TinyRl

SMALL = ModelSpec(vocab=96, dim=32, layers=2, heads=4, hidden=48, context=64)
FAMILIES = {
    "llama": DecoderSpec(kv_heads=2, tied=False),
    "qwen2": DecoderSpec(kv_heads=2, qkv_bias=True, rope_base=1e6, norm_eps=1e-6),
    "qwen3": DecoderSpec(kv_heads=1, head_dim=16, qk_norm=True, rope_base=1e6, norm_eps=1e-6),
    "mistral": DecoderSpec(kv_heads=2, window=9, tied=False, rope_factor=2.0),
}
TASK = """
[task]
name = "folder"
kind = "grpo"
[data]
source = "reverse:4, sort:4"
{sections}
[training]
steps = 2
segment = 1
batch = 16
[verification]
topk = 16
[rl]
group = 8
max_new = 8
"""


def made(family: str, model: ModelSpec = SMALL) -> tuple[Architecture, torch.Tensor]:
    arch = Architecture.of(model, FAMILIES[family])
    return arch, torch.randn(parameter_count(arch), generator=torch.Generator().manual_seed(3)) * 0.2


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


def train_tokenizer(folder: Path) -> None:
    """A byte-pair tokenizer trained here on the environments' own words."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    trained.decoder = decoders.Fuse()
    tasks = [make(name).task(seed(i)) for name in ("reverse:4", "sort:4") for i in range(300)]
    trainer = trainers.BpeTrainer(vocab_size=SMALL.vocab, special_tokens=["<|end|>"], show_progress=False)
    trained.train_from_iterator([t.prompt + t.answer for t in tasks], trainer)
    trained.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 0}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_comes_back_as_it_went(family: str, tmp_path: Path) -> None:
    arch, flat = made(family)
    write_folder(tmp_path, arch, flat)
    found, back = read_folder(tmp_path, 64)
    assert found == arch
    assert torch.equal(back, flat)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family


def test_a_checkpoint_in_shards_is_read_and_one_that_points_elsewhere_is_not(tmp_path: Path) -> None:
    arch, flat = made("qwen2")
    write_folder(tmp_path, arch, flat)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[:7], names[7:])):
        save_file({n: tensors[n] for n in part}, tmp_path / f"part-{i}.safetensors")
    index = {n: f"part-{int(n not in names[:7])}.safetensors" for n in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(read_folder(tmp_path, 64)[1], flat)
    outside = {"weight_map": {"a": "../x.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(outside))
    with pytest.raises(CommonweightError) as caught:
        read_folder(tmp_path, 64)
    assert "outside the folder" in caught.value.message


def refusal(change: dict[str, object], folder: Path) -> CommonweightError:
    """What is said of a Llama folder whose config is changed like this."""
    write_folder(folder, *made("llama"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CommonweightError) as caught:
        read_folder(folder, 64)
    return caught.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"vocab_size": 97}, "shape"),
        ({"num_hidden_layers": 3}, "lack"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, object], said: str, tmp_path: Path) -> None:
    error = refusal(change, tmp_path)
    assert error.code == "E1009"
    assert said in error.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model type `gpt2`"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary scaling `yarn`"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"attention_bias": True}, "output projection"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
            "some layers",
        ),
    ],
)
def test_what_only_the_library_computes_asks_for_the_library(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    error = refusal(change, tmp_path)
    assert error.code == "E1008"
    assert said in error.message
    assert "llama, mistral, qwen2 and qwen3" in (error.hint or "")


@pytest.mark.parametrize(("context", "window"), [(64, 9), (9, 0)])
def test_a_window_longer_than_the_sequences_is_none(context: int, window: int, tmp_path: Path) -> None:
    arch, flat = made("mistral")
    write_folder(tmp_path, arch, flat)
    assert read_config(tmp_path, context).window == window


def test_half_precision_is_read_and_integers_are_not(tmp_path: Path) -> None:
    arch, flat = made("qwen3")
    write_folder(tmp_path, arch, flat)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in tensors.items()}, tmp_path / "model.safetensors")
    assert torch.equal(read_folder(tmp_path, 64)[1], flat.bfloat16().float())
    save_file({n: t.to(torch.int8) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CommonweightError) as caught:
        read_folder(tmp_path, 64)
    assert "int8" in caught.value.message


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    write_folder(tmp_path, *made("llama"))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CommonweightError) as caught:
        read_folder(tmp_path, 64)
    assert "pickled" in caught.value.message


def test_the_first_of_several_end_tokens_ends_a_turn_and_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path, *made("qwen2"), "{}", 5)
    assert read_tokenizer(tmp_path) == ("{}", 5)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 3]}')
    assert read_tokenizer(tmp_path) == ("{}", 7)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CommonweightError) as caught:
        read_tokenizer(tmp_path)
    assert "no tokenizer.json" in caught.value.message
    assert "save_pretrained" in (caught.value.hint or "")


def test_rubbish_and_nothing_are_no_folders(tmp_path: Path) -> None:
    with pytest.raises(CommonweightError):
        read_config(tmp_path, 64)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CommonweightError):
        read_config(tmp_path, 64)
    arch, flat = made("llama")
    write_folder(tmp_path, arch, flat)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CommonweightError) as caught:
        read_folder(tmp_path, 64)
    assert caught.value.code == "E1009"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_and_the_full_pass_agree_for_every_family(family: str) -> None:
    arch, flat = made(family)
    tokens = torch.arange(24).mul(11).remainder(96).view(2, 12)
    whole = hidden_states(arch, flat, tokens)
    policy = Llama(arch, flat)
    cache, _, hidden = policy.prefill(tokens[:, :5], torch.zeros(2, dtype=torch.int64))
    assert (hidden - whole[:, 4]).abs().max() < 1e-4
    for at in range(5, 12):
        _, hidden = policy.decode(cache, tokens[:, at])
        assert (hidden - whole[:, at]).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_is_trained_and_checked_from_end_to_end(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A randomly initialised checkpoint and a tokenizer trained in place: a lease, its verdict, and a cheat's."""
    folder = tmp_path / "model"
    arch, flat = made(family)
    write_folder(folder, arch, flat)
    train_tokenizer(folder)
    describe(folder, 48)
    file = parse_task(TASK.format(sections=capsys.readouterr().out.replace(str(folder), "model")))
    data, base = KIND.load_data(file, tmp_path), KIND.initial_version(file, tmp_path)
    spec = KIND.build_spec(file, data, base)
    assert KIND.parameters(spec) == flat.numel()
    world = TinyRl(spec, data, base)
    lease = world.lease()
    product = KIND.train(spec, data, base, lease, blinding=BLINDING)
    verdict = world.check(lease, Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    forged = world.train(lease, KIND.cheats["resampling"])
    assert world.check(lease, Shelf.of(forged)).outcome is Outcome.INVALID
    assert 0 <= KIND.evaluate(spec, data, base) <= 1


def test_a_process_that_only_generated_so_far_can_learn() -> None:
    """Rotary tables are kept; those of a length that generation met first could not be learnt through."""
    arch, flat = made("qwen2")
    architecture._angles.cache_clear()
    Llama(arch, flat).hidden_states(torch.zeros((1, 9), dtype=torch.int64))
    weights = flat.requires_grad_()
    (gradient,) = torch.autograd.grad(
        hidden_states(arch, weights, torch.zeros((1, 9), dtype=torch.int64)).sum(), weights
    )
    assert gradient.isfinite().all()


def test_a_tokenizer_says_what_it_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path, *made("llama"))
    train_tokenizer(tmp_path)
    text, stop = read_tokenizer(tmp_path)
    tokens = FileTokens(text, stop)
    assert tokens.stop == 0
    assert tokens.decode([*tokens.encode("rabcd="), tokens.stop]) == "rabcd="
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CommonweightError) as caught:
        read_tokenizer(tmp_path)
    assert "eos_token_id" in caught.value.message
