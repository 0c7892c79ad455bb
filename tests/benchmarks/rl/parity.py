"""Our decoder against the peer's on checkpoints of every family: the largest difference of a logit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from commonweight.core.spec import DecoderSpec, ModelSpec
from commonweight.models.decoder import Architecture, Llama, parameter_count
from commonweight.models.folder import read_folder, write_folder

from .common import Row, transformers

MODEL = ModelSpec(vocab=200, dim=64, layers=3, heads=4, hidden=96, context=128)
FAMILIES = {
    "llama": DecoderSpec(kv_heads=2, tied=False),
    "builtin": DecoderSpec(),
    "qwen2": DecoderSpec(kv_heads=2, qkv_bias=True, rope_base=1e6, norm_eps=1e-6),
    "qwen3": DecoderSpec(kv_heads=1, head_dim=32, qk_norm=True, rope_base=1e6, norm_eps=1e-6),
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
    return out
