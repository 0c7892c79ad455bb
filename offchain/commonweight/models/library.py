"""Causal language models that our decoder does not compute: the transformers library does, on a flat vector of ours.

A spec carries the configuration as canonical JSON; weights are the library's parameters in the order of their names.
The library is imported when such a task is met. What is not a decoder whose logits are one matrix times its last
hidden states is refused by name when a folder is read, because nobody could replay it.
"""

from __future__ import annotations

import json
import math
import threading
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.codec import MAX_STRING
from ..core.errors import CommonweightError
from ..core.spec import DecoderSpec, ModelSpec
from .architecture import Architecture, unflatten
from .transformers_policy import TransformersPolicy

CLOSE = 1e-3
MAX_NUMBER, MAX_EXPERTS = 1 << 20, 256
REMOVED = {"architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path"}
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
REMOVED |= {*SPECIAL, "id2label", "label2id", "task_specific_params"}
HOSTILE = ("implementation", "auto_map", "kernel", "quantization", "backbone", "pretrained", "name_or_path")
"""Parts of keys that would make the library fetch or run something."""


def release() -> str:
    """The library's release, part of a task's numeric profile. Raises E1008."""
    try:
        return version("transformers")
    except PackageNotFoundError as error:
        raise _missing("this task's model") from error


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model of the library whose own weights are not used, its parameters in order, and the output matrix's name."""

    model: Any
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    head: str
    lock: threading.Lock


@lru_cache(maxsize=2)
def skeleton(config: str) -> Skeleton:
    """Build the model that a configuration describes. Raises E1008, E1009."""
    try:
        import transformers
    except ImportError as error:
        raise _missing("this task's model") from error
    transformers.utils.logging.set_verbosity_error()
    raw = json.loads(config)
    _require_harmless(raw, "config")
    kind = str(raw.pop("model_type", ""))
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        raise _refused(kind, "the transformers library knows no causal language model of this type")
    try:
        made = transformers.AutoConfig.for_model(kind, **raw, **dict.fromkeys(SPECIAL))
        with torch.random.fork_rng(devices=[]):
            model = transformers.AutoModelForCausalLM.from_config(
                made, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
            ).eval()
    except (
        Exception
    ) as error:  # the library checks configurations in many ways, and all mean the same to a person
        raise _refused(kind, f"the transformers library cannot build it: {error}") from error
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None or not hasattr(model, "base_model"):
        raise _refused(kind, "its logits are not one matrix times its last hidden states")
    named = sorted(model.named_parameters())
    name = next((n for n, p in named if p is head.weight), "")
    shapes_ = tuple((n, tuple(p.shape)) for n, p in named)
    return Skeleton(model.requires_grad_(False), shapes_, name, threading.Lock())


def shapes(arch: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter, by name. Raises E1008, E1009."""
    found = list(skeleton(arch.library).shapes)
    count = sum(math.prod(shape) for _, shape in found)
    if count != arch.parameters:
        raise _refused(_kind(arch), f"it has {count} weights, not the {arch.parameters} that the task says")
    return found


def hidden_states(arch: Architecture, flat: Tensor, tokens: Tensor) -> Tensor:
    """As `decoder.hidden_states`."""
    bones = skeleton(arch.library)
    prefix = bones.model.base_model_prefix + "."
    inner = {n.removeprefix(prefix): t for n, t in unflatten(arch, flat).items() if n.startswith(prefix)}
    with bones.lock:
        out = torch.func.functional_call(
            bones.model.base_model,
            inner,
            kwargs={"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False},
        )
    hidden: Tensor = out.last_hidden_state
    return hidden


def output_matrix(arch: Architecture, flat: Tensor) -> Tensor:
    """As `decoder.output_matrix`."""
    return unflatten(arch, flat)[skeleton(arch.library).head]


def policy_of(arch: Architecture, flat: Tensor) -> TransformersPolicy:
    """What generates with these weights: a model of the library whose parameters are views of ``flat``."""
    bones, weights = skeleton(arch.library), unflatten(arch, flat.detach())
    with bones.lock, torch.inference_mode(False):
        model = deepcopy(bones.model)
        for name, parameter in model.named_parameters():
            parameter.data = weights[name]
    return TransformersPolicy(model)


def read_config(folder: Path, raw: dict[str, Any], context: int, why: str) -> Architecture:
    """The architecture of a folder that our decoder does not compute because of ``why``. Raises E1008, E1009."""
    kept = {k: v for k, v in raw.items() if k not in REMOVED}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":")).replace("'", "\\u0027")
    if len(text.encode()) > MAX_STRING:
        raise _refused(why, f"its configuration is longer than {MAX_STRING} bytes")
    try:
        bones = skeleton(text)
    except CommonweightError as error:
        if error.code == "E1008":
            raise _missing(f"{folder}: {why}") from error
        raise
    config = bones.model.config
    if config.get_text_config() is not config:
        raise _refused(str(raw.get("model_type")), "it is not a model of text alone")
    dim = int(config.hidden_size)
    longest = int(getattr(config, "max_position_embeddings", None) or context)
    model = ModelSpec(
        vocab=int(config.vocab_size),
        dim=dim,
        layers=int(config.num_hidden_layers),
        heads=int(config.num_attention_heads),
        hidden=int(getattr(config, "intermediate_size", None) or 4 * dim),
        context=min(context, longest),
    )
    count = sum(math.prod(shape) for _, shape in bones.shapes)
    return Architecture.of(model, DecoderSpec(library=text, parameters=count))


def read_weights(folder: Path, arch: Architecture) -> Tensor:
    """Weights of a folder, float32 ``(n,)``, once it is seen that they alone give what the library computes.

    Raises E1009.
    """
    model, lacking = TransformersPolicy.loaded(folder)
    if lacking:
        raise _refused(_kind(arch), f"the weights in {folder} lack {sorted(lacking)[0]}")
    given = dict(model.named_parameters())
    if [n for n, _ in shapes(arch)] != sorted(given):
        raise _refused(_kind(arch), "the library loads other weights than it builds")
    flat = torch.cat([given[name].detach().float().reshape(-1) for name, _ in shapes(arch)])
    if not bool(torch.isfinite(flat).all()):
        raise _refused(_kind(arch), f"the weights in {folder} are not finite")
    _require_replayable(arch, flat, model)
    return flat


@torch.no_grad()
def _require_replayable(arch: Architecture, flat: Tensor, model: Any) -> None:
    """The full pass on the flat vector, generation with a cache and the library's own logits agree, or E1009."""
    time = min(10, arch.model.context)
    tokens = (torch.arange(2 * time) * 7919 % arch.model.vocab).view(2, time)
    try:
        hidden = hidden_states(arch, flat, tokens)
        theirs = model(input_ids=tokens).logits
        policy = policy_of(arch, flat)
        half = time // 2
        cache, _, last = policy.prefill(tokens[:, :half], torch.tensor([0, 0]))
        cached = [last]
        for at in range(half, time):
            policy.keep(cache, torch.tensor([0, 1]))
            cached.append(policy.decode(cache, tokens[:, at])[1])
        _, _, ragged = policy.prefill(tokens[:, :half].roll(2, 1), torch.tensor([2, 2]))
        short = hidden_states(arch, flat, tokens[:, : half - 2])[:, -1]
    except CommonweightError:
        raise
    except Exception as error:  # whatever the library raises here, such a model cannot generate for us
        raise _refused(_kind(arch), f"it cannot generate with a cache: {error}") from error
    logits = F.linear(hidden, output_matrix(arch, flat))
    if not torch.allclose(logits, theirs, atol=CLOSE, rtol=CLOSE):
        raise _refused(_kind(arch), "its logits are not one matrix times its last hidden states")
    same = torch.allclose(torch.stack(cached, 1), hidden[:, half - 1 :], atol=CLOSE, rtol=CLOSE)
    if not same or not torch.allclose(ragged, short, atol=CLOSE, rtol=CLOSE):
        raise _refused(_kind(arch), "generation with a cache differs from a full pass")


def _require_harmless(value: Any, where: str) -> None:
    """A configuration comes from a stranger: nothing in it may fetch, run, or ask for absurd amounts of work."""
    if isinstance(value, dict):
        for key, part in value.items():
            if any(word in key for word in HOSTILE) and not (
                part is None or part is False or type(part) is int
            ):
                raise _refused(where, f"`{key}` is not allowed in a configuration")
            most = MAX_EXPERTS if "expert" in key else MAX_NUMBER
            if isinstance(part, int | float) and abs(part) > most and "theta" not in key:
                raise _refused(where, f"`{key}` is {part}, at most {most} is allowed")
            _require_harmless(part, key)
    elif isinstance(value, list):
        for part in value:
            _require_harmless(part, where)


def _kind(arch: Architecture) -> str:
    return str(json.loads(arch.library).get("model_type"))


def _refused(kind: str, why: str) -> CommonweightError:
    hint = "built in: llama, mistral, qwen2, qwen3; by the library: plain decoders such as gpt2, gpt_neox, opt, gemma"
    return CommonweightError("E1009", f"a model of type `{kind}` cannot be trained: {why}", hint)


def _missing(what: str) -> CommonweightError:
    hint = "pip install 'commonweight[hf]'; built in are llama, mistral, qwen2 and qwen3"
    return CommonweightError("E1008", f"{what} needs the transformers library", hint)
