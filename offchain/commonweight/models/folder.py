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
from .architecture import PLAIN, Architecture, parameter_count, shapes, unflatten

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NEWLINE = 10
MAX_JSON = 64 << 20
_PARTS = ("q_proj", "k_proj", "v_proj")


def read_config(folder: Path, context: int) -> Architecture:
    """The architecture of a folder, reading sequences of at most ``context`` tokens.

    What our decoder does not compute exactly is left to the transformers library, which says whether it can.
    Raises E1009, and E1008 without that library.
    """
    raw = read_json(folder / "config.json")
    if raw.get("quantization_config"):
        raise bad(folder, "its weights are quantised", "take the folder of the float weights")
    try:
        why = foreign(raw, context)
        if not why:
            return _architecture(raw, context)
    except (KeyError, TypeError, ValueError) as error:
        raise bad(folder, f"config.json lacks or garbles {error}") from error
    from . import library

    return library.read_config(folder, raw, context, why)


def foreign(raw: dict[str, Any], context: int) -> str:
    """Why our decoder does not compute this ``config.json`` exactly; empty when it does."""
    family, rope = raw.get("model_type"), _rope(raw)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if family not in FAMILIES:
        return f"model type `{family}`"
    if kind not in ROPES or rope.get("partial_rotary_factor", 1) != 1:
        return f"rotary scaling `{kind}`"
    if raw.get("hidden_act", "silu") != "silu" or raw.get("mlp_bias"):
        return "another feed-forward layer than SwiGLU without biases"
    if raw.get("attention_bias") and family != "qwen2":
        return "a bias on the output projection"
    if len(set(_windows(raw, context))) > 1:
        return "attention windows in some layers only"
    return ""


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return rope if isinstance(rope, dict) else {"rope_type": str(rope)}


def _windows(raw: dict[str, Any], context: int) -> list[int]:
    """The attention window of each layer, in tokens; 0 where it is none, or longer than ``context``."""
    layers, family = int(raw.get("num_hidden_layers") or 0), raw.get("model_type")
    used = family == "mistral" or (family != "llama" and raw.get("use_sliding_window"))
    window = int(raw.get("sliding_window", 4096) or 0) if used else 0
    if not window or window >= context:
        return [0] * layers
    if family == "mistral":
        return [window] * layers
    first = int(raw.get("max_window_layers", 28))
    kinds = raw.get("layer_types") or ["sliding_attention" if i >= first else "" for i in range(layers)]
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def _architecture(raw: dict[str, Any], context: int) -> Architecture:
    family, rope = raw["model_type"], _rope(raw)
    heads, dim = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    longest = min(context, int(raw.get("max_position_embeddings", context)))
    model = ModelSpec(
        vocab=int(raw["vocab_size"]),
        dim=dim,
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        hidden=int(raw["intermediate_size"]),
        context=longest,
    )
    scaling = PLAIN
    if rope.get("rope_type", rope.get("type")) == "linear":
        scaling = (float(rope["factor"]), 0.0, 0.0, 0)
    elif rope.get("rope_type", rope.get("type")) == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        scaling = (float(rope["factor"]), low, high, int(rope["original_max_position_embeddings"]))
    return Architecture(
        model=model,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or (128 if family == "qwen3" else dim // heads)),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_base=float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope_scaling=scaling,
        window=max(_windows(raw, longest), default=0),
    )


def read_folder(folder: Path, context: int) -> tuple[Architecture, Tensor]:
    """Architecture and weights, float32 ``(n,)``, in our canonical order. Raises E1008, E1009."""
    arch = read_config(folder, context)
    if arch.library:
        from . import library

        return arch, library.read_weights(folder, arch)
    tensors = _tensors(folder)
    parts = []
    for name, shape in shapes(arch):
        found = [tensors.get(key) for key in _keys(name)]
        missing = [key for key, tensor in zip(_keys(name), found, strict=True) if tensor is None]
        if missing:
            raise bad(folder, f"the weights lack {missing[0]}")
        odd = [t.dtype for t in found if t is not None and t.dtype not in FLOATS]
        if odd:
            raise bad(folder, f"{_keys(name)[0]} holds {odd[0]}", "float32, float16 or bfloat16 is needed")
        joined = torch.cat([t.float() for t in found if t is not None])
        if joined.shape != shape:
            raise bad(folder, f"{_keys(name)[0]} has shape {tuple(joined.shape)}, {shape} expected")
        parts.append(joined.reshape(-1))
    flat = torch.cat(parts)
    if flat.numel() != parameter_count(arch) or not bool(torch.isfinite(flat).all()):
        raise bad(folder, "the weights are not finite")
    return arch, flat


def write_folder(
    folder: Path, arch: Architecture, flat: Tensor, tokenizer: str = "", stop: int = NEWLINE
) -> None:
    """A folder that transformers, vLLM and we open alike; ``tokenizer`` is the text of a ``tokenizer.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(arch.library) if arch.library else _config(arch)
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": stop}, indent=1) + "\n")
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    if arch.library:
        whole = {name: t.clone().contiguous() for name, t in unflatten(arch, flat.detach()).items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        return
    tensors: dict[str, Tensor] = {}
    wide, narrow = arch.model.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    for name, tensor in unflatten(arch, flat.detach()).items():
        keys = _keys(name)
        sizes = {1: [tensor.shape[0]], 2: [arch.model.hidden] * 2, 3: [wide, narrow, narrow]}[len(keys)]
        for key, part in zip(keys, tensor.split(sizes), strict=True):
            tensors[key] = part.clone().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read_tokenizer(folder: Path) -> tuple[str, int]:
    """Text of ``tokenizer.json`` and the token that ends a turn: of several end tokens, the first. Raises E1009."""
    if not (folder / "tokenizer.json").exists():
        hint = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes one"
        raise bad(folder, "there is no tokenizer.json", hint)
    text = _read(folder / "tokenizer.json")
    stop: Any = None
    for name in ("generation_config.json", "config.json"):
        if stop is None and (folder / name).exists():
            stop = read_json(folder / name).get("eos_token_id")
    stop = stop[0] if isinstance(stop, list) and stop else stop
    if type(stop) is not int:
        raise bad(folder, "neither generation_config.json nor config.json names an eos_token_id")
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
    family = "qwen3" if arch.qk_norm else "qwen2" if arch.qkv_bias else "mistral" if arch.window else "llama"
    m, (factor, low, high, original) = arch.model, arch.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if arch.rope_scaling != PLAIN:
        rope = {"rope_type": "linear", "factor": factor}
    if high:
        rope |= {"rope_type": "llama3", "low_freq_factor": low, "high_freq_factor": high}
        rope |= {"original_max_position_embeddings": original}
    return {
        "architectures": [family.capitalize() + "ForCausalLM"],
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
        "rope_scaling": None if arch.rope_scaling == PLAIN else rope,
        "rope_parameters": {**rope, "rope_theta": arch.rope_base},
        "sliding_window": arch.window or None,
        "use_sliding_window": arch.window > 0,
        "max_window_layers": 0 if arch.window else m.layers,
        "max_position_embeddings": m.context,
        "tie_word_embeddings": arch.tied,
        "attention_bias": False,
        "bos_token_id": None,
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
            raise bad(folder, f"cannot read {path.name}: {error}") from error
    return out


def _weight_files(folder: Path) -> Iterator[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        yield single
        return
    if not index.exists():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        raise bad(
            folder, "there is no model.safetensors" + (": pickled weights are not read" if pickled else "")
        )
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise bad(folder, f"{index.name} names no weights")
    for name in sorted(set(map(str, named.values()))):
        if Path(name).name != name:
            raise bad(folder, f"the index names a file outside the folder: {name!r}")
        yield folder / name


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_JSON)
    except (OSError, UnicodeDecodeError) as error:
        raise bad(path.parent, f"cannot read {path.name}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises E1009."""
    try:
        raw = json.loads(_read(path))
    except ValueError as error:
        raise bad(path.parent, f"{path.name} is not JSON") from error
    if not isinstance(raw, dict):
        raise bad(path.parent, f"{path.name} holds no object")
    return raw


def bad(folder: Path, why: str, hint: str = "") -> CommonweightError:
    """What is wrong with a folder."""
    return CommonweightError(
        "E1009",
        f"{folder}: {why}",
        hint
        or f"a folder of a {', '.join(FAMILIES)} or other causal language model with safetensors is needed",
    )
