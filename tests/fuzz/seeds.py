"""One valid input of each target, so that fuzzing starts behind the first length check."""

from __future__ import annotations

import numpy as np

from commonweight.core import codec, fixed
from commonweight.core.spec import MergeSpec, ModelSpec, Spec, TrainingSpec, VerificationSpec
from commonweight.core.verdict import Count, Evidence, Measure
from commonweight.core.works import Header, Meta, StepLeaf, TrajectoryLeaf, pack
from commonweight.shardcast.manifest import Manifest

from .peers import peer_seeds
from .targets import COUNT

B = bytes(range(32))


def seeds() -> dict[str, list[bytes]]:
    """Inputs by target."""
    manifest = Manifest.of(b"x" * 3000)
    lanes = np.arange(COUNT, dtype=np.int32)
    spec = Spec(
        "seed",
        "pretrain",
        ModelSpec(),
        TrainingSpec(),
        MergeSpec(),
        VerificationSpec(profile="p"),
        B,
        9999,
        99,
        B,
    )
    meta = Meta(1, bytes(20), 1, 2, 3, bytes(20), B, B, B, B, B, "profile", B)
    record = Evidence(
        1,
        bytes(20),
        1,
        2,
        3,
        bytes(20),
        B,
        B,
        B,
        B,
        (0, 1),
        "valid",
        "fine",
        0,
        0,
        (Count("steps", 3),),
        (Measure("x", 0.5),),
    )
    return {
        "header": [Header(B, 300, B, 4, B, 4, B).encode()],
        "meta": [codec.encode(meta)],
        "leaves": [pack([StepLeaf(0, B, B, B, 1.5)]), pack([TrajectoryLeaf(0, B, 9, B)])],
        "spec": [spec.encode()],
        "task_file": [
            b'[task]\nname = "x"\nkind = "pretrain"\n[model]\ndim = 96\n[economy]\nreward = "2.5"\n'
        ],
        "evidence": [record.encode()],
        "update": [fixed.to_bytes(lanes)],
        "manifest": [manifest.root + manifest.encode()],
        "opening": [bytes(2000)],
        "proofs": [
            b"\x03\x00" + b"\xff\xd9" + bytes(range(8)),
            b"\x03\x01" + 2 * (b"\xff\xd9" + bytes(range(8))),
        ],
        "package_face": [2 * (b"\xff\xd9" + bytes(range(32)))],
        "sketch": [np.arange(384, dtype="<f4").tobytes()],
        "state": [np.zeros(3 * 256, dtype="<f4").tobytes()],
        **peer_seeds(),
    }
