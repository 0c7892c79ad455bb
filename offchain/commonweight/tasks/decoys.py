"""Decoys: works whose activation proofs are visibly wrong, made when a lease's secret says so, to keep validators awake.

Everything else of a decoy is honest work, so only whoever looks at the proofs can tell. Which trajectory the chain will
ask for is not known yet when the work is submitted, so each one begins with its own noise (contracts: ``Exact.decoy``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import toploc
from ..core import merkle
from ..core.fixed import ModelVersion
from ..core.seeds import decoy_noise
from ..core.spec import Spec
from ..core.works import StepLeaf, TrajectoryLeaf, unpack
from ..toploc.steps import SKETCH_BYTES
from .base import TrainFunction
from .lease import Checkpoint, Lease, Product, Record, assemble

NOISE = 16
"""Coefficients of a proof that the chain looks at; `core.spec` asks for as many in tasks with decoys."""


def make_decoy(
    train: TrainFunction,
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    secret: bytes,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
) -> Product:
    """Train the lease, then spoil each activation proof as ``secret`` says."""
    product = train(spec, data, base, lease, blinding=blinding, checkpoint=checkpoint)
    header, artifacts = product.header, product.artifacts
    count = header.step_count
    steps = unpack(StepLeaf, artifacts[header.step_root], count)
    trajectories = unpack(TrajectoryLeaf, artifacts[header.trajectory_root], count)
    sketches = _sketches(product)
    records = [
        _spoil(spec, Record(step, trajectory, artifacts[trajectory.proof], sketch), secret)
        for step, trajectory, sketch in zip(steps, trajectories, sketches, strict=True)
    ]
    states = [artifacts[step.post] for step in steps]
    meta = product.meta
    return assemble(
        spec, lease, records, states, artifacts[header.update_root], blinding, profile=meta.profile
    )


def _sketches(product: Product) -> list[bytes]:
    raw = product.artifacts[product.meta.sketches]
    return [raw[i : i + SKETCH_BYTES] for i in range(0, len(raw), SKETCH_BYTES)]


def _spoil(spec: Spec, record: Record, secret: bytes) -> Record:
    """The record with the noise of its index at the head of its first chunk's polynomial."""
    v = spec.verification
    chunks = toploc.chunk_count(spec.training.batch * spec.model.context, v.chunk)
    proofs = toploc.decode(record.proof, v.topk, chunks)
    coefficients = np.array(proofs.coefficients)
    coefficients[0, :NOISE] = decoy_noise(secret, record.trajectory.index)
    proof = toploc.encode(toploc.Proofs(np.array(proofs.moduli), coefficients))
    return replace(record, trajectory=replace(record.trajectory, proof=merkle.root(proof)), proof=proof)
