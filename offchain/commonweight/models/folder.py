"""Hugging Face folders of the Llama family (``config.json``, safetensors, ``tokenizer.json``) as one flat vector.

Read and written without the transformers library: what we publish opens there, and what opens there we can train.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import CommonweightError
from ..core.spec import ModelSpec
from .decoder import Architecture, parameter_count, shapes, unflatten

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MAX_JSON = 64 << 20
_PARTS = ("q_proj", "k_proj", "v_proj")


def read_config(folder: Path, context: int) -> Architecture:
    """The architecture of a folder, reading sequences of at most ``context`` tokens. Raises E1009."""
    raw = _json(folder / "config.json")
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise _bad(folder, f"model type `{family}` is not one of {', '.join(FAMILIES)}")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise _bad(folder, f"rotary scaling {rope} is not supported")
    if raw.get("hidden_act") != "silu" or raw.get("use_sliding_window") or raw.get("mlp_bias"):
        raise _bad(folder, "only SwiGLU without biases and attention without a sliding window are supported")
    try:
        heads, dim = int(raw["num_attention_heads"]), int(raw["hidden_size"])
        model = ModelSpec(
            vocab=int(raw["vocab_size"]),
            dim=dim,
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            hidden=int(raw["intermediate_size"]),
            context=min(context, int(raw.get("max_position_embeddings", context))),
        )
        return Architecture(
            model=model,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or dim // heads),
            norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_base=float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
            qkv_bias=family == "qwen2" or bool(raw.get("attention_bias")),
            qk_norm=family == "qwen3",
            tied=bool(raw.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(folder, f"config.json lacks or garbles {error}") from error


def read_folder(folder: Path, context: int) -> tuple[Architecture, Tensor]:
    """Architecture and weights, float32 ``(n,)``, in our canonical order. Raises E1009."""
    arch = read_config(folder, context)
    tensors = _tensors(folder)
    if arch.qkv_bias and "model.layers.0.self_attn.o_proj.bias" in tensors:
        raise _bad(folder, "a bias on the output projection is not supported")
    parts = []
    for name, shape in shapes(arch):
        found = [tensors.get(key) for key in _keys(name)]
        missing = [key for key, tensor in zip(_keys(name), found, strict=True) if tensor is None]
        if missing:
            raise _bad(folder, f"the weights lack {missing[0]}")
        joined = torch.cat([t.float() for t in found if t is not None])
        if joined.shape != shape:
            raise _bad(folder, f"{_keys(name)[0]} has shape {tuple(joined.shape)}, {shape} expected")
        parts.append(joined.reshape(-1))
    flat = torch.cat(parts)
    if flat.numel() != parameter_count(arch) or not bool(torch.isfinite(flat).all()):
        raise _bad(folder, "the weights are not finite")
    return arch, flat


def write_folder(folder: Path, arch: Architecture, flat: Tensor) -> None:
    """A folder that transformers, vLLM and we open alike."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    wide, narrow = arch.model.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    for name, tensor in unflatten(arch, flat.detach()).items():
        keys = _keys(name)
        sizes = {1: [tensor.shape[0]], 2: [arch.model.hidden] * 2, 3: [wide, narrow, narrow]}[len(keys)]
        for key, part in zip(keys, tensor.split(sizes), strict=True):
            tensors[key] = part.clone().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(arch), indent=1) + "\n")


def read_tokenizer(folder: Path) -> tuple[str, int]:
    """Text of ``tokenizer.json`` and the token that ends a turn. Raises E1009."""
    text = _read(folder / "tokenizer.json")
    stop: Any = None
    for name in ("generation_config.json", "config.json"):
        if stop is None and (folder / name).exists():
            stop = _json(folder / name).get("eos_token_id")
    stop = stop[0] if isinstance(stop, list) and stop else stop
    if type(stop) is not int:
        raise _bad(folder, "neither generation_config.json nor config.json names an eos_token_id")
    return text, stop


def _keys(name: str) -> list[str]:
    """Names in a Hugging Face checkpoint of one of our parameters; several are stacked."""
    layer, _, part = name.rpartition(".")
    if not layer:
        return [
            {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}[
                part
            ]
        ]
    head = f"model.layers.{layer}."
    if part in ("qkv", "qkv_bias"):
        kind = "bias" if part == "qkv_bias" else "weight"
        return [f"{head}self_attn.{p}.{kind}" for p in _PARTS]
    if part == "gate_up":
        return [f"{head}mlp.gate_proj.weight", f"{head}mlp.up_proj.weight"]
    single = {
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "out": "self_attn.o_proj",
        "down": "mlp.down_proj",
    }
    return [f"{head}{single[part]}.weight"]


def _config(arch: Architecture) -> dict[str, Any]:
    """``config.json`` of an architecture."""
    family = "qwen3" if arch.qk_norm else "qwen2" if arch.qkv_bias else "llama"
    m = arch.model
    return {
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family] + "ForCausalLM"],
        "model_type": family,
        "vocab_size": m.vocab,
        "hidden_size": m.dim,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "intermediate_size": m.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": arch.norm_eps,
        "rope_theta": arch.rope_base,
        "max_position_embeddings": m.context,
        "tie_word_embeddings": arch.tied,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 10,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, sharded or not."""
    out: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            out |= load_file(path)
        except Exception as error:  # safetensors has an error type per binding; all mean the same to a person
            raise _bad(folder, f"cannot read {path.name}: {error}") from error
    return out


def _weight_files(folder: Path) -> Iterator[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        yield single
        return
    if not index.exists():
        raise _bad(folder, "there is no model.safetensors")
    for name in sorted(set(_json(index).get("weight_map", {}).values())):
        if not isinstance(name, str) or Path(name).name != name:
            raise _bad(folder, f"the index names a file outside the folder: {name!r}")
        yield folder / name


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_JSON)
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path.parent, f"cannot read {path.name}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(_read(path))
    except ValueError as error:
        raise _bad(path.parent, f"{path.name} is not JSON") from error
    if not isinstance(raw, dict):
        raise _bad(path.parent, f"{path.name} holds no object")
    return raw


def _bad(folder: Path, why: str) -> CommonweightError:
    return CommonweightError(
        "E1009", f"{folder}: {why}", f"a folder of a {', '.join(FAMILIES)} model with safetensors is needed"
    )
