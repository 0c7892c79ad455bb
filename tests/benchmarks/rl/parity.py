"""Our decoder against the peer's on checkpoints of every family: the largest difference of a logit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commonweight.core.spec import DecoderSpec, ModelSpec
from commonweight.models.architecture import Architecture, parameter_count
from commonweight.models.decoder import Llama
from commonweight.models.folder import read_folder, write_folder
from commonweight.models.transformers_policy import TransformersPolicy
from commonweight.rl.engine import Policy, Proving, Request, RolloutEngine, Sampling
from commonweight.toploc import sampling as seeded

from .common import Row, transformers

MODEL = ModelSpec(vocab=200, dim=64, layers=3, heads=4, hidden=96, context=128)
FAMILIES = {
    "llama": DecoderSpec(kv_heads=2, tied=False),
    "builtin": DecoderSpec(),
    "qwen2": DecoderSpec(kv_heads=2, qkv_bias=True, rope_base=1e6, norm_eps=1e-6),
    "qwen3": DecoderSpec(kv_heads=1, head_dim=32, qk_norm=True, rope_base=1e6, norm_eps=1e-6),
}


def engine_parity(peer: Any) -> Row:
    """The rollout engine over the library's models: the same tokens as over ours, and a family that is not ours."""
    todo = [
        Request(tuple((3 * i + j) % 200 for j in range(2 + i % 5)), key=i, max_new=5 + i) for i in range(12)
    ]

    def played(policy: Policy) -> list[list[int]]:
        engine = RolloutEngine(Sampling(1 << 30, 32), slots=8, proving=Proving(16, 8))
        engine.load(0, policy)
        return [c.tokens.tolist() for c in engine.generate(todo)]

    arch = Architecture.of(MODEL, FAMILIES["qwen2"])
    flat = torch.randn(parameter_count(arch), generator=torch.Generator().manual_seed(2)) * 0.2
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), arch, flat)
        library = TransformersPolicy.load(Path(folder))
    foreign = peer.AutoModelForCausalLM.from_config(
        peer.GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    )
    other = TransformersPolicy(foreign)
    made = played(other)
    replayed = []
    for request, tokens in zip(todo, made, strict=True):
        hidden = other.hidden_states(torch.tensor([[*request.prompt, *tokens]]))[0]
        logits = other.logits(hidden[len(request.prompt) - 1 : -1])
        replayed.append(seeded.replay(logits, np.array(tokens), request.key, seeded.Sampling()).honest)
    return {
        "same_tokens_as_our_decoder": played(library) == played(Llama(arch, flat)),
        "gpt2_lengths": [len(t) for t in made],
        "gpt2_replays": all(replayed),
    }


def run() -> Row:
    peer = transformers()
    tokens = torch.arange(80).mul(13).remainder(200).view(2, 40)
    out: Row = {}
    for name, extra in FAMILIES.items():
        arch = Architecture.of(MODEL, extra)
        flat = torch.randn(parameter_count(arch), generator=torch.Generator().manual_seed(1)) * 0.05
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), arch, flat)
            model = peer.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
            with torch.inference_mode():
                theirs = model(tokens).logits
            model.save_pretrained(folder)
            _, back = read_folder(Path(folder), 128)
        policy = Llama(arch, flat)
        ours = policy.logits(policy.hidden_states(tokens))
        out[name] = {
            "class": type(model).__name__,
            "largest_logit_difference": float((ours - theirs).abs().max()),
            "their_save_reads_back_equal": bool(torch.equal(back, flat)),
        }
    out["engine_over_the_library"] = engine_parity(peer)
    return out
