"""What is fuzzed: a target takes any bytes; only `CommonweightError` may come out; what decodes encodes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from commonweight.core import codec, fixed, merkle
from commonweight.core.errors import CommonweightError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import Spec, parse_task
from commonweight.core.verdict import Evidence
from commonweight.core.works import Header, Meta, StepLeaf, TrajectoryLeaf, unpack
from commonweight.shardcast.manifest import Manifest

from .peers import PEERS, same

Target = Callable[[bytes], None]
COUNT = 200
"""Weights of the model whose states and updates are decoded: one leaf each, so that an execution is short."""


def header(data: bytes) -> None:
    """`core.works.Header`."""
    same(Header.decode(data).encode(), data)


def meta(data: bytes) -> None:
    """`core.works.Meta`."""
    same(codec.encode(codec.decode(Meta, data)), data)


def leaves(data: bytes) -> None:
    """Packed step and trajectory leaves."""
    for cls in (StepLeaf, TrajectoryLeaf):
        unpack(cls, data, max(1, len(data) // merkle.LEAF))


def spec(data: bytes) -> None:
    """`core.spec.Spec`."""
    same(Spec.decode(data).encode(), data)


def task_file(data: bytes) -> None:
    """A publisher's TOML."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    parse_task(text)


def evidence(data: bytes) -> None:
    """`core.verdict.Evidence`."""
    same(Evidence.decode(data).encode(), data)


def update(data: bytes) -> None:
    """Updates and model versions."""
    ModelVersion.decode(data, COUNT)
    same(fixed.to_bytes(fixed.decode_update(data, COUNT)), data)


def manifest(data: bytes) -> None:
    """`shardcast.manifest.Manifest`."""
    same(Manifest.decode(data[32:], data[:32]).encode(), data[32:])


def opening(data: bytes) -> None:
    """A Merkle opening: never raises, never believes."""
    if len(data) < 56:
        return
    length, index = int.from_bytes(data[32:40], "big"), int.from_bytes(data[40:48], "big")
    path = tuple(data[i : i + 32] for i in range(48, min(len(data), 48 + 32 * 64), 32))
    if merkle.verify_leaf(data[:32], merkle.Opening(length, index, data[-1024:].ljust(1024, b"\x00"), path)):
        raise AssertionError("a forged opening was believed")


def proofs(data: bytes) -> None:
    """Activation proofs, and what evaluating them does."""
    from commonweight import toploc
    from commonweight.toploc.field import evaluate

    k, count = 1 + (data[0] if data else 0) % 40, 1 + (data[1] if len(data) > 1 else 0) % 4
    found = toploc.decode(data[2:], k, count)
    same(toploc.encode(found), data[2:])
    points = np.arange(2 * k) % found.moduli[:, None]
    if evaluate(found.coefficients, points).shape != (count, 2 * k):
        raise AssertionError("a value is missing")


def package_face(data: bytes) -> None:
    """The package's four functions: lists of proofs as bytes and as base64."""
    import torch

    from commonweight import toploc

    hidden = torch.ones((8, 16), dtype=torch.bfloat16)
    pieces = [data[i : i + 34] for i in range(0, len(data), 34)]
    toploc.verify_proofs_bytes(hidden, pieces, 4, 16, True)
    toploc.verify_proofs_base64(hidden, [piece.decode("latin-1") for piece in pieces], 4, 16, True)


def sketch(data: bytes) -> None:
    """Sketches of segments."""
    from commonweight.toploc.steps import Sketch

    same(Sketch.decode(data).encode(), data)


def state(data: bytes) -> None:
    """Training states and checkpointed records."""
    from commonweight.diloco.inner import TrainState
    from commonweight.tasks.lease import Record

    try:
        same(Record.decode(data).encode(), data)
    except CommonweightError:
        same(TrainState.decode(data, COUNT).encode(), data)


TARGETS: dict[str, Target] = {
    f.__name__: f
    for f in (
        header,
        meta,
        leaves,
        spec,
        task_file,
        evidence,
        update,
        manifest,
        opening,
        proofs,
        package_face,
        sketch,
        state,
        *PEERS,
    )
}
SMALL = {
    "header",
    "meta",
    "leaves",
    "spec",
    "task_file",
    "evidence",
    "update",
    "manifest",
    "opening",
    "message",
}
"""Targets that load no torch and none of the other large libraries."""


def run(target: Target, data: bytes) -> None:
    """One execution: every refusal is one of ours."""
    with suppress(CommonweightError):
        target(data)
