"""What verifiability costs: committing, checking, sampling, proofs; and bytes that an audit fetches."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from commonweight import toploc
from commonweight.core import merkle
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import (
    DataSpec,
    Economy,
    MergeSpec,
    ModelSpec,
    Spec,
    TaskFile,
    TrainingSpec,
    VerificationSpec,
)
from commonweight.models import forward, initial_parameters, pin
from commonweight.tasks import checking, data, pretrain
from commonweight.tasks.lease import Lease, segment_batches
from commonweight.toploc import noise, sampling
from commonweight.toploc.sampling import Sampling

from .proofs import numba
from .report import interleaved, judge, save


def cost() -> None:
    """All of it."""
    pin()
    committing()
    auditing()
    rollouts()
    prefill()


def _task(training: TrainingSpec, model: ModelSpec) -> tuple[Spec, bytes, ModelVersion]:
    source = DataSpec(max_bytes=400_000)
    file = TaskFile("cost", "pretrain", model, training, MergeSpec(), VerificationSpec(), source, Economy())
    text = data.load(source, Path())
    base = pretrain.initial_version(model, file.merge)
    return pretrain.build_spec(file, text, base), text, base


def _lease(base: ModelVersion) -> Lease:
    return Lease(1, bytes(20), 1, 0, 0, bytes(20), base.root, b"s" * 32)


def committing() -> None:
    """State root, sketch and activation proof of a segment against its steps: 2,048 tokens a step, c = 5."""
    spec, text, base = _task(TrainingSpec(steps=5, segment=5, batch=16), ModelSpec())
    lease, state = _lease(base), pretrain.start_state(spec, base)
    batches = segment_batches(spec, text, lease.seed, 0)
    result = pretrain.run(spec, state, batches, 0)

    def commit() -> None:
        encoded = result.state.encode()
        roots = state_root, merkle.root(encoded)
        pretrain.record_segment(spec, lease, 0, state, result, roots, batches)

    state_root = state.root
    run, note = interleaved([lambda: pretrain.run(spec, state, batches, 0), commit], repeats=5)
    share = note / run
    save("committing", {"segment_s": run, "commit_s": note, "share": share, "tokens": 2048, "steps": 5})
    print(
        judge(
            f"committing, share of step time ({1e3 * note:.1f} of {1e3 * run:.0f} ms)",
            share,
            0.01,
            at_least=False,
        )
    )


def auditing() -> None:
    """A work of 100 segments with one drawn: the validator's time and bytes against the trainer's."""
    model = ModelSpec(dim=64, layers=2, heads=4, hidden=172, context=64)
    spec, text, base = _task(TrainingSpec(steps=100, segment=1, batch=16), model)
    lease = _lease(base)
    start = time.process_time()
    product = pretrain.train(spec, text, base, lease, blinding=bytes(32))
    trained = time.process_time() - start
    times, fetched = [], 0
    for index in (0, 37, 99):
        start = time.process_time()
        verdict = checking.check(
            spec, text, base, lease, product.root, (index,), lambda root, _: product.artifacts[root]
        )
        times.append(time.process_time() - start)
        fetched = max(fetched, dict(verdict.evidence)["bytes"])
        if verdict.outcome != "valid":
            raise AssertionError(verdict)
    share = float(np.mean(times)) / trained
    work = sum(len(piece) for piece in product.artifacts.values())
    save(
        "auditing",
        {"trainer_s": trained, "validator_s": times, "share": share, "bytes": fetched, "work_bytes": work},
    )
    print(judge("auditing one of 100 segments, share of the trainer's CPU", share, 0.02, at_least=False))
    parameters = pretrain.parameters(spec)
    print(
        f"       an audit fetches {fetched} bytes, {fetched / parameters:.1f} a parameter, of {work} that the work has"
    )


def rollouts() -> None:
    """Seeded sampling and proofs against generating: 32 rows, 32 tokens each, at both vocabularies."""
    for vocab, dim in ((29, 128), (32_000, 256)):
        model = replace(
            ModelSpec(), vocab=vocab, dim=dim, heads=4, hidden=2 * dim + dim // 2, layers=4, context=64
        )
        weights = initial_parameters(model)
        rows, length = 32, 32
        keys = noise.sequence_keys([bytes([i]) * 32 for i in range(rows)])
        tokens = torch.zeros((rows, 1), dtype=torch.int64)
        positions = np.zeros(rows, dtype=np.int64)
        with torch.no_grad():
            logits, _ = forward(model, weights, tokens)
        states = torch.randn((rows * length, dim), generator=torch.Generator().manual_seed(1))
        last = logits[:, -1]

        def decode(
            model: ModelSpec = model, weights: torch.Tensor = weights, tokens: torch.Tensor = tokens
        ) -> None:
            """One token of each row; without its past, which only makes it cheaper than a real one."""
            with torch.no_grad():
                forward(model, weights, tokens)

        def choose(
            last: torch.Tensor = last, keys: noise.Keys = keys, positions: np.ndarray = positions
        ) -> None:
            sampling.sample(last, keys, positions, Sampling())

        def prove(states: torch.Tensor = states) -> None:
            toploc.encode(toploc.build(states, 128, 32))

        with numba("on"):
            step, pick, proof = interleaved([decode, choose, prove], repeats=41)
        share = (pick + proof / length) / (step + pick + proof / length)
        key = f"rollout_{vocab}"
        save(key, {"decode_s": step, "sample_s": pick, "proof_s_per_step": proof / length, "share": share})
        print(
            judge(
                f"sampling and proofs at vocabulary {vocab}, share of a rollout", share, 0.05, at_least=False
            )
        )


def prefill() -> None:
    """Verifying activation proofs against the validator's own forward pass, on the built-in model."""
    model = ModelSpec()
    weights = initial_parameters(model)
    tokens = torch.randint(0, 256, (16, model.context), generator=torch.Generator().manual_seed(1))
    latest = torch.empty(0)

    def run() -> None:
        nonlocal latest
        with torch.no_grad():
            latest = forward(model, weights, tokens)[1].reshape(-1, model.dim)

    run()
    proofs = toploc.build(latest, 128, 32)
    with numba("on"):
        forward_s, verify_s = interleaved([run, lambda: toploc.verify(latest, proofs, 128, 32)], repeats=41)
    save(
        "verify_share_of_prefill",
        {"prefill_s": forward_s, "verify_s": verify_s, "share": verify_s / forward_s},
    )
    print(
        judge(
            "verifying proofs, share of the validator's prefill", verify_s / forward_s, 0.01, at_least=False
        )
    )
