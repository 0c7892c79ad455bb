"""What the measurements share: the model, CPU time, interleaving, and the peer's library in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from commonweight.core.spec import DecoderSpec, ModelSpec
from commonweight.models.architecture import Architecture, parameter_count

ROOT = Path(__file__).parents[3]
PACKAGES = ROOT / "build" / "bench-rl-packages"
PEER = "transformers==5.23.0"
Row = dict[str, Any]


def architecture(
    vocab: int = 29, dim: int = 96, layers: int = 3, hidden: int = 256, heads: int = 4
) -> Architecture:
    """The tiny model of the demonstrations, with another vocabulary if asked for."""
    model = ModelSpec(vocab=vocab, dim=dim, layers=layers, heads=heads, hidden=hidden, context=512)
    return Architecture.of(model, DecoderSpec())


def weights(arch: Architecture, scale: float = 0.05) -> torch.Tensor:
    """Seeded weights, norms of one."""
    generator = torch.Generator().manual_seed(5)
    flat = torch.randn(parameter_count(arch), generator=generator) * scale
    from commonweight.models.architecture import shapes

    at = 0
    for name, shape in shapes(arch):
        size = torch.Size(shape).numel()
        if "norm" in name:
            flat[at : at + size] = 1
        at += size
    return flat


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int = 3) -> dict[str, float]:
    """Least CPU seconds of each side, measured in turns so that a loaded machine harms all alike."""
    return {name: min(taken) for name, taken in in_turns(sides, rounds).items()}


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side in each round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begun = time.process_time()
            run()
            taken[name].append(time.process_time() - begun)
    return taken


def median_ratio(ours: list[float], other: list[float]) -> float:
    """Of neighbouring runs: a machine whose speed drifts by a third hides a difference of some percent otherwise."""
    return median(a / b for a, b in zip(ours, other, strict=True))


def transformers() -> Any:
    """The peer, installed on first use into build/ beside our own packages."""
    if not PACKAGES.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(PACKAGES), PEER]
        subprocess.run(command, check=True)
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
    import transformers as peer

    return peer
