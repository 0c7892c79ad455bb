"""Tokens per CPU second against Hugging Face `generate()` on the same weights, and where our time goes."""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commonweight.models.architecture import Architecture
from commonweight.models.decoder import Llama
from commonweight.models.folder import write_folder
from commonweight.rl.engine import Proving, Request, RolloutEngine, Sampling

from .common import Row, architecture, interleaved, transformers, weights

PROMPT = 8
NO_STOP = 1 << 30


def lengths(rows: int = 256, mean: float = 42.0, most: int = 200, seed: int = 3) -> list[int]:
    """Geometric lengths, truncated, scaled to the wanted mean."""
    drawn = np.random.default_rng(seed).geometric(1 / 44, rows).clip(1, most)
    scaled = np.rint(drawn * (mean / drawn.mean())).clip(1, most).astype(int)
    scaled[scaled.argmax()] = most
    return scaled.tolist()


def requests(vocab: int, limits: list[int]) -> list[Request]:
    generator = np.random.default_rng(1)
    prompts = generator.integers(0, vocab, (len(limits), PROMPT))
    return [
        Request(tuple(int(t) for t in prompt), key=i, max_new=limit)
        for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]


def ours(arch: Architecture, flat: torch.Tensor, todo: list[Request], proving: Proving | None = None) -> int:
    engine = RolloutEngine(Sampling(NO_STOP, 256), slots=256, proving=proving)
    engine.load(0, Llama(arch, flat))
    return sum(c.tokens.size for c in engine.generate(todo))


class Peer:
    """`generate()` of the peer with a limit per row, as its stopping criteria allow."""

    def __init__(self, arch: Architecture, flat: torch.Tensor) -> None:
        self.library = transformers()
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), arch, flat)
            self.model = self.library.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        self.model.eval()
        self.model.generation_config.pad_token_id = 0
        self.model.generation_config.eos_token_id = None

    def generate(self, todo: list[Request]) -> int:
        tokens = torch.tensor([r.prompt for r in todo])
        limits = torch.tensor([r.max_new for r in todo])
        stop: Any = self.library.StoppingCriteria

        class Limits(stop):  # type: ignore[misc]
            def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
                return ids.shape[1] - PROMPT >= limits

        extra = {}
        if len({r.max_new for r in todo}) > 1:
            extra["stopping_criteria"] = self.library.StoppingCriteriaList([Limits()])
        with torch.inference_mode():
            self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=int(limits.max()),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                **extra,
            )
        return int(limits.sum())


def compare(arch: Architecture, flat: torch.Tensor, todo: list[Request], rounds: int = 3) -> Row:
    peer = Peer(arch, flat)
    useful = sum(r.max_new for r in todo)
    peer.generate(todo[:2]), ours(arch, flat, todo[:2])
    took = interleaved({"ours": lambda: ours(arch, flat, todo), "peer": lambda: peer.generate(todo)}, rounds)
    return {
        "rows": len(todo),
        "useful_tokens": useful,
        "mean_new": useful / len(todo),
        "most_new": max(r.max_new for r in todo),
        "ours_tokens_per_cpu_s": round(useful / took["ours"]),
        "peer_tokens_per_cpu_s": round(useful / took["peer"]),
        "ratio": round(took["peer"] / took["ours"], 3),
    }


CALLS = {
    "attention": ("scaled_dot_product_attention",),
    "matrix_products": ("linear",),
    "cache_selection": ("index_select", "pad"),
}


def profile(arch: Architecture, flat: torch.Tensor, todo: list[Request]) -> Row:
    """Shares of CPU time by a deterministic profile, which flatters nobody: what it costs itself counts as Python."""
    engine, watch, sampling = RolloutEngine(Sampling(NO_STOP, 256), slots=256), cProfile.Profile(), 0.0
    engine.load(0, Llama(arch, flat))
    choose = engine._choose

    def timed(lane: Any) -> Any:
        nonlocal sampling
        watch.disable()
        begun = time.process_time()
        out = choose(lane)
        sampling += time.process_time() - begun
        watch.enable()
        return out

    engine._choose = timed  # type: ignore[method-assign]
    ours(arch, flat, todo)
    begun = time.process_time()
    watch.enable()
    engine.generate(todo)
    watch.disable()
    total = time.process_time() - begun
    spent = dict.fromkeys((*CALLS, "other_operations"), 0.0)
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(watch).stats.items():  # type: ignore[attr-defined]
        if file == "~":
            called = next(
                (n for n, keys in CALLS.items() if any(f".{k}" in name or f"'{k}'" in name for k in keys)), ""
            )
            spent[called or "other_operations"] += own
    spent["sampling"] = sampling
    out = {name: round(seconds / total, 3) for name, seconds in spent.items()}
    out["python"] = round(max(0.0, 1 - sum(out.values())), 3)
    return out


def run() -> Row:
    arch = architecture()
    flat = weights(arch)
    torch.set_num_threads(1)
    mixed = requests(29, lengths())
    out: Row = {"model": "0.34 M parameters, vocabulary 29, prompt 8, 1 thread, sampling on both sides"}
    out["mixed_lengths"] = compare(arch, flat, mixed)
    for batch in (1, 32, 256):
        out[f"equal_lengths_batch_{batch}"] = compare(
            arch, flat, requests(29, [64] * batch), 5 if batch < 256 else 3
        )
    out["profile_mixed"] = profile(arch, flat, mixed)
    return out
