"""What a codec costs in quality: the same rounds of real leases, merged from updates in each codec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from commonweight.core import codec, fixed, seeds
from commonweight.core.spec import (
    UPDATE_CODECS,
    DataSpec,
    Economy,
    MergeSpec,
    ModelSpec,
    TaskFile,
    TrainingSpec,
    VerificationSpec,
)
from commonweight.core.works import Meta
from commonweight.models import parameter_count
from commonweight.shardcast.packing import wire_size
from commonweight.tasks import data, pretrain
from commonweight.tasks.lease import Lease, Product

MODEL = ModelSpec(dim=64, layers=2, heads=4, hidden=128, context=64)
TRAINING = TrainingSpec(steps=20, segment=10, batch=8, lr=3e-3)


def rounds(name: str, count: int, trainers: int, seed: int) -> list[float]:
    """Validation losses (nats per byte) of the initial version and after each round."""
    source, merge = DataSpec(max_bytes=400_000), MergeSpec(codec=name)
    model = replace(MODEL, seed=seed)
    file = TaskFile("q", "pretrain", model, TRAINING, merge, VerificationSpec(), source, Economy())
    text, version = data.load(source, Path()), pretrain.initial_version(model, merge)
    spec = pretrain.build_spec(file, text, version)
    size, losses = pretrain.parameters(spec), [pretrain.evaluate(spec, text, version)]
    before: dict[int, Product] = {}
    for round_ in range(count):
        products = {}
        for slot in range(trainers):
            who, beacon = bytes([slot + 1]) * 20, bytes([round_ + 1]) * 32
            root = version.root
            lease = Lease(
                1, bytes(20), 1, round_, slot, who, root,
                seeds.lease_seed(1, bytes(20), 1, round_, slot, root, beacon, who),
            )  # fmt: skip
            if slot in before and name != "none":
                earlier = before[slot]
                meta = codec.decode(Meta, earlier.artifacts[earlier.header.meta_root])
                carried = earlier.artifacts[meta.residual]
                lease = replace(lease, previous=earlier.root, carried=carried)
            products[slot] = pretrain.train(spec, text, version, lease, blinding=bytes(32))
        updates = [fixed.decode_update(p.artifacts[p.header.update_root], size) for p in products.values()]
        version, before = fixed.merge(version, updates, merge), products
        losses.append(pretrain.evaluate(spec, text, version))
    return losses


def compare(count: int = 8, trainers: int = 4, seed: int = 7) -> dict[str, Any]:
    """Losses per codec beside those of raw lanes, and bytes per version of float32 weights."""
    found: dict[str, Any] = {"rounds": count, "trainers": trainers, "parameters": 0, "seed": seed}
    plain = 0.0
    for name in UPDATE_CODECS:
        losses = rounds(name, count, trainers, seed)
        plain = plain or losses[-1]
        size = parameter_count(MODEL)
        found["parameters"] = size
        found[name] = {
            "losses": losses,
            "loss": losses[-1],
            "worse_by": losses[-1] / plain - 1,
            "of_float32": trainers * wire_size(name, size) / (4 * size),
        }
    return found
