"""One run of the benchmark as data, and its execution."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from commonweight.core.fixed import ModelVersion
from commonweight.core.seeds import shuffled
from commonweight.core.spec import MergeSpec
from commonweight.diloco import outer
from commonweight.diloco.aggregate import Aggregator
from commonweight.diloco.asynchrony import Merger, Speeds, paced_round, run_arrivals
from commonweight.diloco.cohort import CohortWorker
from commonweight.diloco.compress import Compressor
from commonweight.diloco.gossip import GossipWorker
from commonweight.diloco.local import InnerLoop
from commonweight.diloco.rounds import Plan, honest
from commonweight.diloco.swarm import (
    Traffic,
    Worker,
    consensus_distance,
    mean_weights,
    recover,
    run_round,
)
from commonweight.diloco.topology import build
from tests.attackers import tampers

from .world import WORKERS, World, data_parallel

PERIODS = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0)


@dataclass(frozen=True, slots=True)
class Case:
    """What is run. ``kind``: ddp, cohort, gossip, arrivals or isolated. Fractions of the outer step are in tenths."""

    section: str
    name: str
    kind: str = "cohort"
    optimizer: str = "adamw"
    up: str = "none"
    down: str = "none"
    topology: str = "complete"
    aggregator: str = "mean"
    lr: int = 8
    momentum: int = 8
    steps_divisor: int = 1
    rounds_divisor: int = 1
    decay: int = 256
    carry: bool = True
    joiner: bool = False
    drop: int = 0
    attack: str = ""
    attackers: int = 0
    guard: bool = True
    clip: bool = False
    pace: str = ""
    policy: str = ""
    quorum: int = 1
    jitter: float = 0.0

    @property
    def rule(self) -> MergeSpec:
        """The outer step."""
        return MergeSpec(
            update_shift=0, lr_num=self.lr, lr_den=10, momentum_num=self.momentum, momentum_den=10
        )


def execute(case: Case, world: World) -> dict[str, Any]:
    """Run a case; losses in nats per byte, bytes per worker, ticks of virtual time."""
    begin = time.process_time()
    if case.kind == "ddp":
        result = _ddp(case, world)
    elif case.kind == "arrivals":
        result = _arrivals(case, world)
    else:
        result = _rounds(case, world)
    return {**asdict(case), "seed": world.seed, **result, "cpu_s": round(time.process_time() - begin, 1)}


def _ddp(case: Case, world: World) -> dict[str, Any]:
    spec = world.inner(case.optimizer)
    if case.optimizer == "adamw":
        spec = replace(spec, training=replace(spec.training, lr=world.config.ddp_lr))
    weights = data_parallel(world.text, spec, world.start, world.config.total)
    # A ring all-reduce of float32 gradients in every step.
    sent = int(2 * (WORKERS - 1) / WORKERS * 4 * world.parameters * world.config.total)
    return {"loss": world.text.loss(weights), "sent": sent, "received": sent}


def _workers(case: Case, world: World) -> dict[int, Worker]:
    version = outer.start(world.start, case.rule)
    lies = tampers(case.attack, WORKERS, case.attackers) if case.attack else [None] * WORKERS
    spec = world.inner(case.optimizer, case.carry)
    out: dict[int, Worker] = {}
    for i in range(WORKERS):
        loop, tamper = InnerLoop(world.text, spec, i), lies[i] or honest
        up, down = Compressor.named(case.up), Compressor.named(case.down)
        if case.kind == "cohort":
            out[i] = CohortWorker(
                i,
                loop,
                version,
                case.rule,
                (up, down),
                Aggregator(case.aggregator),
                decay=case.decay,
                tamper=tamper,
            )
        else:
            graph = build(case.topology, WORKERS)
            out[i] = GossipWorker(
                i, loop, version, case.rule, graph, up, guard=case.guard, clip=case.clip, tamper=tamper
            )
    return out


def _rounds(case: Case, world: World) -> dict[str, Any]:
    steps = world.config.steps // case.steps_divisor
    rounds = world.config.total // steps // case.rounds_divisor
    workers, traffic = _workers(case, world), Traffic()
    good = [i for i in range(WORKERS) if not case.attack or i < WORKERS - case.attackers]
    speeds, ticks, tokens, curve = Speeds(PERIODS, case.jitter), 0.0, 0, []
    behind: set[int] = set()
    for r in range(rounds):
        members = _members(case, r)
        for i in sorted(behind & set(members)):
            if case.kind == "cohort":
                recover(workers, next(j for j in members if j not in behind), i, traffic)
        returning = tuple(sorted(behind & set(members)))
        behind = (behind - set(members)) | (set(range(WORKERS)) - set(members))
        if case.joiner and r == rounds // 2:
            workers[WORKERS - 1].inner.reset()
        each, time_ = paced_round(case.pace, speeds, r, steps) if case.pace else ([steps] * WORKERS, steps)
        ticks += time_
        span = (r / rounds, (r + 1) / rounds)
        plans = {i: Plan(r, members, each[i], span, returning) for i in members}
        if case.kind == "isolated":
            _alone(workers, plans)
            tokens += sum(each)
        else:
            reports = run_round(workers, plans, traffic)
            tokens += sum(report.tokens for report in reports.values())
        curve.append(_observe(world, case.rule, [workers[i].version for i in good], tokens, ticks, r, rounds))
    return {**_final(world, case.rule, [workers[i].version for i in good]), "sent": traffic.mean_sent(),
            "received": traffic.mean_received(), "ticks": ticks, "tokens": tokens, "curve": curve}  # fmt: skip


def _members(case: Case, round_: int) -> tuple[int, ...]:
    lost = shuffled(b"drop/%d" % round_, WORKERS)[: case.drop]
    return tuple(i for i in range(WORKERS) if i not in lost)


def _alone(workers: dict[int, Worker], plans: dict[int, Plan]) -> None:
    for i, plan in plans.items():
        worker = workers[i]
        result = worker.inner.run(outer.weights_of(worker.version, worker.rule), plan.steps, plan.progress)
        worker.version = outer.start(result.trained, worker.rule)


def _observe(
    world: World,
    rule: MergeSpec,
    versions: list[ModelVersion],
    tokens: int,
    ticks: float,
    r: int,
    rounds: int,
) -> dict[str, float]:
    point = {"round": r + 1, "tokens": tokens, "ticks": ticks, "consensus": consensus_distance(versions)}
    if (r + 1) % max(1, rounds // 10) == 0:
        point["loss"] = world.text.loss(_floats(mean_weights(versions), rule))
    return point


def _floats(lanes: np.ndarray, rule: MergeSpec) -> np.ndarray:
    return (lanes * 2.0**-rule.weight_bits).astype(np.float32)


def _final(world: World, rule: MergeSpec, versions: list[ModelVersion]) -> dict[str, float]:
    """Loss of the replicas (mean, worst) and of their average; in a cohort all are the same."""
    if len({v.root for v in versions}) == 1:
        loss = world.text.loss(outer.weights_of(versions[0], rule))
        return {"loss": loss, "worst": loss, "averaged": loss, "consensus": 0.0}
    losses = [world.text.loss(outer.weights_of(v, rule)) for v in versions]
    return {
        "loss": float(np.mean(losses)),
        "worst": float(np.max(losses)),
        "averaged": world.text.loss(_floats(mean_weights(versions), rule)),
        "consensus": consensus_distance(versions),
    }


def _arrivals(case: Case, world: World) -> dict[str, Any]:
    loops = {i: InnerLoop(world.text, world.inner(case.optimizer), i) for i in range(WORKERS)}
    merger = Merger(outer.start(world.start, case.rule), case.rule, case.policy, WORKERS, case.quorum)
    budget = WORKERS * world.config.total
    run = run_arrivals(
        loops,
        merger,
        Speeds(PERIODS, case.jitter),
        world.config.steps,
        budget,
        lambda version: world.text.loss(outer.weights_of(version, case.rule)),
        budget // 10,
    )
    curve = [{"ticks": t, "tokens": s, "loss": loss} for t, s, loss in run.losses]
    loss = world.text.loss(outer.weights_of(merger.version, case.rule))
    return {"loss": loss, "ticks": run.ticks, "tokens": run.steps, "curve": curve}
