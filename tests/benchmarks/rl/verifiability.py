"""What verifiability costs: the trainer's sampling and proofs, and the validators' replay, against generation."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from commonweight.core.spec import RlSpec, VerificationSpec, parse_task
from commonweight.models.decoder import Llama
from commonweight.rl.engine import Completion, Proving, Request, RolloutEngine, Sampling
from commonweight.rl.trajectories import Trajectory
from commonweight.tasks import grpo
from commonweight.tasks.rl_checking import Court
from commonweight.tasks.rl_evidence import examine, misfit, proofs_fit
from tests.leases import Shelf
from tests.rl_leases import tiny_rl

from .common import Row, architecture, in_turns, interleaved, median_ratio, weights
from .throughput import NO_STOP, requests


class Unverifiable(RolloutEngine):
    """The same engine with the library's own random numbers and no proofs."""

    def _choose(self, lane: Any) -> Any:
        return torch.multinomial(lane.logits.softmax(-1), 1)[:, 0].numpy()


class Timed(RolloutEngine):
    """Adds up the CPU time of sampling and proofs."""

    spent = 0.0

    def _choose(self, lane: Any) -> Any:
        begun = time.process_time()
        out = super()._choose(lane)
        self.spent += time.process_time() - begun
        return out

    def _prove(self, lane: Any, rows: Any) -> None:
        begun = time.process_time()
        super()._prove(lane, rows)
        self.spent += time.process_time() - begun

    def _proven(self) -> list[Completion]:
        begun = time.process_time()
        out = super()._proven()
        self.spent += time.process_time() - begun
        return out


def trainer(
    vocab: int, dim: int, layers: int, hidden: int, batch: int, new: int, topk: int, rounds: int
) -> Row:
    """Plain and verifiable generation in turns."""
    arch = architecture(vocab, dim, layers, hidden, heads=max(4, dim // 64))
    flat = weights(arch)
    policy, todo = Llama(arch, flat), requests(vocab, [new] * batch)
    shares = []

    def plain() -> None:
        engine = Unverifiable(Sampling(NO_STOP, new))
        engine.load(0, policy)
        engine.generate(todo)

    def verifiable() -> None:
        engine = RolloutEngine(Sampling(NO_STOP, new), proving=Proving(topk, 32))
        engine.load(0, policy)
        engine.generate(todo)

    def timed() -> None:
        engine, begun = Timed(Sampling(NO_STOP, new), proving=Proving(topk, 32)), time.process_time()
        engine.load(0, policy)
        engine.generate(todo)
        shares.append(engine.spent / (time.process_time() - begun))

    took = in_turns({"plain": plain, "verifiable": verifiable, "timed": timed}, rounds)
    return {
        "vocabulary": vocab,
        "parameters": flat.numel(),
        "batch": batch,
        "new_tokens": new,
        "rounds": rounds,
        "extra_cost_over_plain_sampling": round(median_ratio(took["verifiable"], took["plain"]) - 1, 4),
        "extra_cost_by_best_of_all": round(min(took["verifiable"]) / min(took["plain"]) - 1, 4),
        "share_of_sampling_and_proofs": round(min(shares), 4),
    }


def played(batch: int, new: int) -> tuple[Llama, list[Request], list[Completion], float]:
    """Completions of the tiny model and the CPU seconds they took."""
    arch = architecture()
    policy, todo = Llama(arch, weights(arch)), requests(29, [new] * batch)
    best = float("inf")
    for _ in range(3):
        engine, begun = RolloutEngine(Sampling(NO_STOP, new), proving=Proving(16, 32)), time.process_time()
        engine.load(0, policy)
        done = engine.generate(todo)
        best = min(best, time.process_time() - begun)
    return policy, todo, done, best


def validators(look_us: float) -> list[Row]:
    """One teacher-forced pass per trajectory drawn, against generating it; then times the default sampling rate.

    Beside it what looking through every trajectory costs all seats together, ``look_us`` microseconds each.
    """
    from commonweight.cli.commands import template

    task = parse_task(template("grpo"))
    spec_like: Any = task
    segments, blocks = task.training.segments, grpo.blocks(spec_like)
    seats = task.economy.want
    drawn = seats * task.verification.checks * (blocks / (1 + blocks)) / (segments * blocks)
    rl, v = RlSpec(), VerificationSpec(topk=16)
    out = []
    for new in (8, 32, 128):
        for batch in (32, 256):
            policy, todo, done, generated = played(batch, new)
            rows = [
                Trajectory(
                    i,
                    0,
                    r.key,
                    0,
                    np.array(r.prompt, dtype=np.int32),
                    c.tokens,
                    np.ones(c.tokens.size, dtype=np.uint8),
                    c.logprobs,
                    c.proof,
                )
                for i, (r, c) in enumerate(zip(todo, done, strict=True))
            ]

            def look(policy: Llama = policy, rows: list[Trajectory] = rows) -> None:
                evidence = examine(policy, rows, rl, 32)
                assert proofs_fit(evidence.hidden, rows, v) or not any(
                    misfit(h, r, v) for h, r in zip(evidence.hidden, rows, strict=True)
                )
                assert evidence.margin.max() < rl.max_margin

            checked = interleaved({"check": look}, 3)["check"]
            out.append(
                {
                    "new_tokens": new,
                    "batch": batch,
                    "replay_over_generation": round(checked / generated, 3),
                    "seats": seats,
                    "drawn_share_all_seats": round(drawn, 4),
                    "all_validators_over_generation": round(drawn * checked / generated, 4),
                    "looking_through_over_generation": round(seats * batch * look_us * 1e-6 / generated, 4),
                }
            )
    return out


def looking_through() -> Row:
    """The cheap questions, asked by every seat of every trajectory: CPU seconds per trajectory."""
    task = tiny_rl()
    task = replace(task, spec=replace(task.spec, training=replace(task.spec.training, batch=128)))
    lease = task.lease()
    shelf = Shelf.of(task.train(lease))

    def look() -> None:
        court: Court = task.court(lease, shelf)
        for index in range(task.spec.training.segments):
            court.look_through(index)

    took = interleaved({"look": look}, 3)["look"]
    count = task.spec.training.steps * task.spec.training.batch
    return {"trajectories": count, "microseconds_per_trajectory": round(took / count * 1e6, 1)}


def run() -> Row:
    torch.set_num_threads(1)
    looked = looking_through()
    return {
        "trainer": [
            trainer(29, 96, 3, 256, 32, 64, 16, 15),
            trainer(29, 96, 3, 256, 256, 64, 16, 15),
            trainer(32_000, 512, 6, 1376, 32, 12, 128, 5),
        ],
        "validators": validators(looked["microseconds_per_trajectory"]),
        "looking_through": looked,
        "note": "one teacher-forced pass serves proofs, sampling replay and log-probabilities",
    }
