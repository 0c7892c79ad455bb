"""Swarms in one process: cohorts agree by root, replicas converge, bytes are counted, faults and liars are survived."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from commonweight.core import fixed
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.spec import MergeSpec, ModelSpec, TrainingSpec
from commonweight.diloco import outer
from commonweight.diloco.aggregate import Aggregator
from commonweight.diloco.cohort import CohortWorker, ShardMissing, pack_gram, shard_bounds, unpack_gram
from commonweight.diloco.compress import Compressor, ErrorFeedback
from commonweight.diloco.gossip import IS_FULL, MOST_MISSED, GossipWorker
from commonweight.diloco.local import InnerLoop, InnerSpec, Text
from commonweight.diloco.rounds import Plan, Report, Tamper, honest
from commonweight.diloco.swarm import Traffic, consensus_distance, recover, run_round
from commonweight.diloco.topology import build
from commonweight.models import initial_parameters, parameter_count, pin
from tests.attackers import tampers

MODEL = ModelSpec(dim=16, layers=1, heads=2, hidden=24, context=16)
TEXT = Text.split(MODEL, bytes(range(97, 123)) * 80, batch=2, seed=3, windows=8)
COUNT = parameter_count(MODEL)
RULE = MergeSpec(update_shift=0)
N = 6


def loop(i: int) -> InnerLoop:
    pin()
    return InnerLoop(TEXT, InnerSpec("adamw", TrainingSpec(lr=0.01, batch=2)), i)


def cohort(
    up: str = "2bit",
    down: str = "int4",
    rule: str = "clip-cosine",
    n: int = N,
    lies: list[Tamper | None] | None = None,
) -> dict[int, CohortWorker]:
    version = outer.start(initial_parameters(MODEL).numpy(), RULE)
    codecs = (Compressor.named(up), Compressor.named(down))
    lies = lies or [None] * n
    return {
        i: CohortWorker(i, loop(i), version, RULE, codecs, Aggregator(rule), tamper=lies[i] or honest)
        for i in range(n)
    }


def replicas(
    topology: str = "ring",
    codec: str = "int4",
    n: int = N,
    guard: bool = True,
    lies: list[Tamper | None] | None = None,
) -> dict[int, GossipWorker]:
    version = outer.start(initial_parameters(MODEL).numpy(), RULE)
    graph, lies = build(topology, n), lies or [None] * n
    return {
        i: GossipWorker(
            i,
            loop(i),
            version,
            RULE,
            graph,
            Compressor.named(codec),
            guard=guard,
            clip=guard,
            tamper=lies[i] or honest,
        )
        for i in range(n)
    }


def rounds(
    workers: dict,
    count: int,
    traffic: Traffic | None = None,
    first: int = 0,
    without: int = -1,
    returning: tuple[int, ...] = (),
) -> dict[int, Report]:
    members = tuple(i for i in workers if i != without)
    reports: dict[int, Report] = {}
    for r in range(first, first + count):
        back = returning if r == first else ()
        plan = Plan(r, members, 3, (min(r, 9) / 10, (min(r, 9) + 1) / 10), back)
        reports = run_round(workers, dict.fromkeys(members, plan), traffic or Traffic())
    return reports


def losses(workers: dict) -> list[float]:
    return [TEXT.loss(outer.weights_of(w.version, RULE)) for w in workers.values()]


@pytest.mark.parametrize(
    ("up", "down"), [("none", "none"), ("fp16", "fp16"), ("2bit", "int4"), ("topk:8/64", "int8")]
)
def test_a_cohort_learns_and_stays_one(up: str, down: str) -> None:
    workers = cohort(up, down)
    before = losses(workers)[0]
    for r in range(3):
        rounds(workers, 1, first=r)
        assert len({w.version.root for w in workers.values()}) == 1
    assert losses(workers)[0] < before - 0.3


def test_a_lossless_cohort_takes_the_consensus_merge() -> None:
    workers = cohort("none", "none", "mean")
    base = workers[0].version
    deltas = []
    for i in range(N):
        trained = loop(i).run(outer.weights_of(base, RULE), 3, (0, 0.1)).trained
        deltas.append(outer.pseudo_gradient(base, trained, RULE).astype(np.int32))
    rounds(workers, 1)
    assert workers[3].version.root == fixed.merge(base, deltas, RULE).root


def test_runs_repeat_bit_for_bit() -> None:
    ends = []
    for _ in range(2):
        workers = replicas("small-world")
        rounds(workers, 2)
        ends.append([w.version.root for w in workers.values()])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("n", [1, 2, 3, N])
def test_bytes_are_those_of_a_ring_all_reduce(n: int) -> None:
    traffic = Traffic()
    rounds(cohort("none", "none", "mean", n), 1, traffic)
    ideal = 2 * (n - 1) * 4 * COUNT
    assert sum(traffic.sent.values()) == ideal + 4 * n * (n - 1)
    assert sum(traffic.sent.values()) == sum(traffic.received.values())


def test_a_gossip_message_goes_to_neighbours_only() -> None:
    traffic = Traffic()
    workers = replicas("ring", "int8")
    rounds(workers, 1, traffic)
    size = len(Compressor.named("int8").encode(np.zeros(COUNT, dtype=np.int64))) + 9
    assert traffic.sent == dict.fromkeys(range(N), 2 * size)


@pytest.mark.parametrize("topology", ["ring", "expander", "small-world", "complete"])
def test_replicas_learn_and_come_closer(topology: str) -> None:
    workers = replicas(topology, "int8")
    before = losses(workers)[0]
    rounds(workers, 4)
    far = consensus_distance([w.version for w in workers.values()])
    assert max(losses(workers)) < before - 0.3
    for w in workers.values():
        w.inner.run = _idle(w.inner)  # type: ignore[method-assign]
    rounds(workers, 12, first=4)
    assert consensus_distance([w.version for w in workers.values()]) < 0.5 * far + 1e-6


def _idle(inner: InnerLoop):  # type: ignore[no-untyped-def]
    run = inner.run
    return lambda weights, steps, progress: run(weights, 0, progress)


def test_public_copies_agree_wherever_they_are_kept() -> None:
    workers = replicas("expander", "int4")
    rounds(workers, 3)
    for i, worker in workers.items():
        for j in worker.topology.links[i]:
            assert (workers[j].public[i] == worker.public[i]).all()


def test_a_lost_worker_comes_back_with_the_common_state() -> None:
    workers, traffic = cohort(), Traffic()
    rounds(workers, 1)
    rounds(workers, 2, first=1, without=2)
    assert workers[2].version.root != workers[0].version.root
    recover(workers, 0, 2, traffic)
    rounds(workers, 1, first=3)
    assert len({w.version.root for w in workers.values()}) == 1
    assert traffic.sent[0] == len(workers[0].version.encode())


def test_neighbours_of_a_replica_that_missed_rounds_go_on_and_take_it_back() -> None:
    workers = replicas("ring")
    rounds(workers, 1)
    rounds(workers, 2, first=1, without=2)
    rounds(workers, 3, first=3)  # nobody says that it returns: copies that do not match are asked for whole
    assert (workers[1].public[2] == workers[2].public[2]).all()
    assert max(losses(workers)) < 5.0


@pytest.mark.parametrize("away", [1, MOST_MISSED, MOST_MISSED + 2])
def test_a_replica_that_was_away_mixes_in_its_first_round_back(away: int) -> None:
    workers, traffic = replicas("ring"), Traffic()
    rounds(workers, 1)
    rounds(workers, away, first=1, without=2)
    report = rounds(workers, 1, traffic, first=1 + away, returning=(2,))
    neighbours = workers[2].topology.links[2]
    assert report[2].dropped == ()
    for j in neighbours:
        assert (workers[2].public[j] == workers[j].public[j]).all()
        assert (workers[j].public[2] == workers[2].public[2]).all()
    one = workers[2].compressor.codec.size(COUNT)
    whole = away > MOST_MISSED
    caught_up = 4 * COUNT if whole else (away + 1) * one
    assert traffic.sent[neighbours[0]] < caught_up + one + 96
    rounds(workers, 1, traffic := Traffic(), first=2 + away)
    assert traffic.sent[neighbours[0]] < 2 * one + 64


def test_a_replica_that_was_away_trains_from_where_its_neighbours_are() -> None:
    workers = replicas("expander")
    rounds(workers, 1)
    rounds(workers, 3, first=1, without=2)
    others = [w.version for i, w in workers.items() if i != 2]
    centre = np.mean([v.weights for v in others], axis=0)
    stale = np.linalg.norm(workers[2].version.weights - centre)
    run = workers[2].round(Plan(4, tuple(range(N)), 0, returning=(2,)))
    assert set(next(run).values()) == {b""}
    owed = {
        i: next(w.round(Plan(4, tuple(range(N)), 0, returning=(2,)))) for i, w in workers.items() if i != 2
    }
    run.send({i: letters[2] for i, letters in owed.items() if 2 in letters})
    assert np.linalg.norm(workers[2].version.weights - centre) < 0.5 * stale


@pytest.mark.parametrize("junk", [b"x", b"\xff" * 600, b"\x00" * (2**16)])
def test_junk_among_what_was_missed_moves_nothing(junk: bytes) -> None:
    worker = replicas("ring")[0]
    before = worker.version.root
    run = worker.round(Plan(3, tuple(range(N)), 1, returning=(0,)))
    next(run)
    run.send({1: junk, 5: b"", 77: junk})
    assert worker.version.root == before


def test_a_replica_that_lost_a_copy_asks_for_the_whole_and_gets_it() -> None:
    workers, traffic = replicas("ring"), Traffic()
    rounds(workers, 1)
    workers[1].forget([2])
    rounds(workers, 1, first=1)  # asks, and goes without it
    assert 2 not in workers[1].public
    rounds(workers, 1, traffic, first=2)
    assert (workers[1].public[2] == workers[2].public[2]).all()
    assert traffic.sent[2] > 4 * COUNT


@pytest.mark.parametrize("junk", [b"", b"\x00" * 8, b"\xff" * 500, bytes([IS_FULL]) + b"x" * 8 + b"\x01\x02"])
def test_junk_from_a_neighbour_harms_nobody(junk: bytes) -> None:
    worker = replicas("ring")[0]
    run = worker.round(Plan(0, tuple(range(N)), 1))
    assert next(run) == {}
    outgoing = run.send({})
    good = next(iter(outgoing.values()))
    with pytest.raises(StopIteration) as end:
        run.send({1: junk, 5: good[:9] + good[9:], 77: junk})
    assert 1 in end.value.value.dropped
    assert 1 not in worker.public
    assert math.isfinite(TEXT.loss(outer.weights_of(worker.version, RULE)))


def test_junk_in_a_cohort_weighs_nothing_and_a_missing_shard_is_named() -> None:
    workers = cohort(rule="mean")
    runs = {i: w.round(Plan(0, tuple(range(N)), 2)) for i, w in workers.items()}
    out = {i: next(r) for i, r in runs.items()}
    second = runs[0].send({i: b"junk" if i == 1 else out[i][0] for i in range(1, N)})
    assert set(second) == set(range(1, N))
    with pytest.raises(ShardMissing) as caught:
        runs[0].send(dict.fromkeys(range(2, N), second[1]))
    assert caught.value.code == "E1705"
    before = workers[0].up.state
    workers[0].abandon()
    assert workers[0].up.state is not before
    assert not workers[0].up.state.residual.any()


@pytest.mark.parametrize("attack", ["sign flip", "sign flip x2", "scaled", "noise", "collusion"])
def test_a_robust_cohort_learns_among_liars_where_the_mean_does_not(attack: str) -> None:
    def end(rule: str, lies: list[Tamper | None] | None) -> float:
        workers = cohort("int8", "int8", rule, 8, lies)
        rounds(workers, 3)
        return losses(workers)[0]

    start = TEXT.loss(initial_parameters(MODEL).numpy())
    clean = start - end("clip-cosine", None)
    robust = start - end("clip-cosine", tampers(attack, 8, 2))
    fooled = start - end("mean", tampers(attack, 8, 2))
    assert robust > 0.6 * clean
    assert not fooled > 0.9 * robust


@pytest.mark.parametrize("attack", ["sign flip", "scaled", "noise"])
def test_guarded_replicas_survive_a_liar(attack: str) -> None:
    workers = replicas("expander", "int4", 8, lies=tampers(attack, 8, 1))
    start = TEXT.loss(outer.weights_of(workers[0].version, RULE))
    rounds(workers, 5)
    honest_ones = losses({i: workers[i] for i in range(7)})
    assert all(math.isfinite(x) and x < start - 0.2 for x in honest_ones)


def test_error_feedback_delivers_everything_in_the_end() -> None:
    rng = np.random.default_rng(0)
    feedback = ErrorFeedback(Compressor.named("2bit"), 3000)
    wanted, sent = np.zeros(3000, dtype=np.int64), np.zeros(3000, dtype=np.int64)
    for _ in range(30):
        lanes = rng.integers(-(2**20), 2**20, 3000)
        wanted += lanes
        for (begin, end), payload in zip(((0, 1000), (1000, 3000)), feedback.encode(lanes, ((0, 1000), (1000, 3000))),
                                         strict=True):  # fmt: skip
            sent[begin:end] += Compressor.named("2bit").decode(payload, end - begin)
        assert (wanted == sent + feedback.state.residual).all()
    before = feedback.state.residual.copy()
    feedback.encode(lanes, ((0, 1000),))
    feedback.roll_back()
    assert (feedback.state.residual == before).all()


def test_shards_cover_the_vector_in_whole_leaves() -> None:
    for count in (1, 255, 256, 257, COUNT, 10_000):
        for n in (1, 2, 3, 7, 8):
            bounds = list(shard_bounds(count, tuple(range(n))).values())
            assert bounds[0][0] == 0
            assert bounds[-1][1] == count
            assert all(a[1] == b[0] for a, b in pairwise(bounds))
            assert all(begin % 256 == 0 for begin, _ in bounds if begin < count)


def test_gram_messages_are_canonical() -> None:
    gram = [[5, -(2**80)], [-(2**80), 9]]
    assert unpack_gram(pack_gram(gram), 2) == gram
    with pytest.raises(EncodingError):
        unpack_gram(pack_gram(gram), 3)


def test_a_diverged_stretch_counts_for_nothing() -> None:
    workers = cohort(rule="mean")
    start, inner = outer.weights_of(workers[0].version, RULE), workers[0].inner
    broken = inner.run(np.full(COUNT, 1e30, dtype=np.float32), 2, (0, 1))
    assert (broken.tokens, broken.trained[0], inner.age) == (0, np.float32(1e30), 0)
    assert math.isnan(broken.loss)
    inner.run = lambda *_: replace(broken, trained=start)  # type: ignore[method-assign]
    rounds(workers, 1)
    assert TEXT.loss(outer.weights_of(workers[0].version, RULE)) < TEXT.loss(start)
    assert len({w.version.root for w in workers.values()}) == 1


def test_divergence_is_named() -> None:
    version = outer.start(initial_parameters(MODEL).numpy(), RULE)
    with pytest.raises(CommonweightError) as caught:
        outer.pseudo_gradient(version, np.full(COUNT, np.nan, dtype=np.float32), RULE)
    assert caught.value.code == "E1604"
