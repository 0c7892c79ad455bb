"""Checking a work: honest ones pass in their profile and across, every named cheat is caught at its leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from commonweight.core import fixed, merkle
from commonweight.core import spec as specs
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import ModelSpec, TrainingSpec, VerificationSpec
from commonweight.core.verdict import Outcome, Verdict
from commonweight.core.works import (
    TREE_HEADER,
    TREE_STEPS,
    TREE_TRAJECTORIES,
    TREE_UPDATE,
    WITHHELD,
    StepLeaf,
    TrajectoryLeaf,
    pack,
    unpack,
)
from commonweight.diloco.inner import SegmentResult, TrainState
from commonweight.tasks import cheats, checking, opening, pretrain
from commonweight.tasks.lease import Batch, Lease, Product
from commonweight.toploc.steps import SKETCH_BYTES
from tests.leases import ALICE, BLINDING, BOB, Shelf, Tiny, make, tiny, with_header

ALL = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def work() -> tuple[Tiny, Lease, Product]:
    t = tiny()
    lease = t.lease()
    return t, lease, t.train(lease)


def look(v: Verdict) -> tuple[Outcome, int, int]:
    return v.outcome, v.tree, v.leaf


def test_honest_work_is_valid_with_a_full_count(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work
    verdict = t.check(lease, Shelf.of(product), ALL)
    assert verdict.outcome is Outcome.VALID, verdict
    counts = dict(verdict.evidence)
    assert counts["segments"] == 4
    assert counts["steps"] == 8
    assert counts["proof_chunks"] == 8
    assert counts["sketches"] == 4
    assert counts["update_lanes"] == pretrain.parameters(t.spec)
    assert dict(verdict.measures)["proof_score"] == 0
    assert dict(verdict.measures)["step_distance"] < 1e-6


@pytest.mark.parametrize("drawn", [(), (4,), (0, 0), (-1,)])
def test_an_impossible_draw_is_our_own_error(
    work: tuple[Tiny, Lease, Product], drawn: tuple[int, ...]
) -> None:
    t, lease, product = work
    assert t.check(lease, Shelf.of(product), drawn).outcome is Outcome.ERROR


@pytest.mark.parametrize("name", sorted(cheats.CHEATS))
def test_every_named_cheat_is_invalid_when_its_segment_is_drawn(name: str) -> None:
    t = tiny()
    lease = t.lease()
    cheat = cheats.CHEATS[name]
    product = cheat(t.spec, t.text, t.base, lease, blinding=BLINDING)
    if name == "stale":
        assert not product.cheated
        lease = t.lease(round_=1)
        product = cheat(t.spec, t.text, t.base, lease, blinding=BLINDING)
    assert product.cheated
    bad = []
    for index in ALL:
        verdict = t.check(lease, Shelf.of(product), (index,))
        assert verdict.outcome in (Outcome.INVALID, Outcome.VALID)
        if verdict.outcome is Outcome.INVALID:
            bad.append(index)
            judged = t.judge(lease, Shelf.of(product), verdict.tree, verdict.leaf)
            assert look(judged) == look(verdict), "a juror sees the same"
    # Whose first half was honest is only seen behind it.
    assert bad == ([2, 3] if name == "skip-steps" else list(ALL))
    assert t.check(lease, Shelf.of(product), ALL).outcome is Outcome.INVALID


def test_a_copied_work_is_bound_to_its_trainer(work: tuple[Tiny, Lease, Product]) -> None:
    t, _, product = work
    for other in (t.lease(trainer=BOB), t.lease(slot=1), t.lease(round_=1)):
        verdict = t.check(other, Shelf.of(product), (0,))
        assert look(verdict) == (Outcome.INVALID, TREE_HEADER, 0)


def replaced(product: Product, **pieces: bytes) -> Product:
    """The product with other artifacts behind its header: `steps`, `trajectories`, `update` or `meta`."""
    names = {
        "steps": "step_root",
        "trajectories": "trajectory_root",
        "update": "update_root",
        "meta": "meta_root",
    }
    roots = {names[k]: merkle.root(v) for k, v in pieces.items()}
    changed = with_header(product, **roots)
    return replace(changed, artifacts={**changed.artifacts, **{merkle.root(v): v for v in pieces.values()}})


def steps_of(product: Product) -> list[StepLeaf]:
    return list(unpack(StepLeaf, product.artifacts[product.header.step_root], 4))


def test_each_lie_is_named_at_its_leaf(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work
    leaves = steps_of(product)
    trajectories = list(unpack(TrajectoryLeaf, product.artifacts[product.header.trajectory_root], 4))
    update = np.frombuffer(product.artifacts[product.header.update_root], dtype="<i4").copy()
    update[300] += 1
    proof = product.artifacts[trajectories[2].proof]
    other_proof = product.artifacts[trajectories[1].proof]

    def with_step(index: int, **fields: object) -> Product:
        changed = [replace(x, **fields) if x.index == index else x for x in leaves]  # type: ignore[arg-type]
        return replaced(product, steps=pack(changed))

    def with_trajectory(index: int, raw: bytes = b"", **fields: object) -> Product:
        more = {"proof": merkle.root(raw)} if raw else {}
        changed = [replace(x, **fields, **more) if x.index == index else x for x in trajectories]  # type: ignore[arg-type]
        out = replaced(product, trajectories=pack(changed))
        return replace(out, artifacts={**out.artifacts, merkle.root(raw): raw}) if raw else out

    lies: list[tuple[Product, int, int]] = [
        (with_step(2, batch=bytes(32)), TREE_STEPS, 2),
        (with_step(2, loss=leaves[2].loss + 1e-7), TREE_STEPS, 2),
        (with_step(2, pre=leaves[0].post), TREE_STEPS, 2),
        (with_step(0, pre=leaves[0].post), TREE_STEPS, 0),
        (with_trajectory(2, tokens=bytes(32)), TREE_TRAJECTORIES, 2),
        (with_trajectory(2, count=63), TREE_TRAJECTORIES, 2),
        (with_trajectory(2, raw=other_proof), TREE_TRAJECTORIES, 2),
        (with_trajectory(2, raw=proof[:-2]), TREE_TRAJECTORIES, 2),
        (with_trajectory(2, raw=bytes(len(proof))), TREE_TRAJECTORIES, 2),
        (replaced(product, update=update.tobytes()), TREE_UPDATE, 1),
        (replaced(product, steps=bytes(4 * merkle.LEAF)), TREE_HEADER, 0),
        (replaced(product, meta=b"nonsense"), TREE_HEADER, 0),
        (with_header(product, step_count=3), TREE_HEADER, 0),
    ]
    for lie, tree, leaf in lies:
        verdict = t.check(lease, Shelf.of(lie), ALL)
        assert look(verdict) == (Outcome.INVALID, tree, leaf), verdict
        assert look(t.judge(lease, Shelf.of(lie), tree, leaf)) == look(verdict)


def with_sketches(product: Product, raw: bytes) -> Product:
    from commonweight.core import codec
    from commonweight.core.works import Meta

    meta = codec.decode(Meta, product.artifacts[product.header.meta_root])
    out = replaced(product, meta=codec.encode(replace(meta, sketches=merkle.root(raw))))
    return replace(out, artifacts={**out.artifacts, merkle.root(raw): raw})


def sketches_of(product: Product) -> bytes:
    from commonweight.core import codec
    from commonweight.core.works import Meta

    return product.artifacts[codec.decode(Meta, product.artifacts[product.header.meta_root]).sketches]


def test_sketches_must_fit_the_states(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work
    raw = sketches_of(product)
    n = SKETCH_BYTES
    for bad in (raw[:-n], raw + raw[:n], raw[:-4] + b"\x00\x00\xc0\x7f", bytes(len(raw)), raw[:n] * 4):
        verdict = t.check(lease, Shelf.of(with_sketches(product, bad)), ALL)
        assert look(verdict) == (Outcome.INVALID, TREE_HEADER, 0), verdict
        assert look(t.judge(lease, Shelf.of(with_sketches(product, bad)), TREE_HEADER, 0)) == look(verdict)
    # Swapped ones still add up; each is caught where its segment is drawn.
    swapped = with_sketches(product, raw[n : 2 * n] + raw[:n] + raw[2 * n :])
    assert t.check(lease, Shelf.of(swapped), (2, 3)).outcome is Outcome.VALID
    assert look(t.check(lease, Shelf.of(swapped), (1,))) == (Outcome.INVALID, TREE_STEPS, 1)


def test_every_missing_artifact_is_withheld_and_never_invalid(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work
    needed = 0
    for root in product.artifacts:
        shelf = Shelf.of(product)
        del shelf.artifacts[root]
        verdict = t.check(lease, shelf, ALL)
        assert verdict.outcome is Outcome.WITHHELD, verdict
        assert t.judge(lease, shelf, 0, WITHHELD - 1).outcome is Outcome.WITHHELD
        needed += 1
    assert needed == len(product.artifacts)
    assert t.judge(lease, Shelf.of(product), 0, WITHHELD - 1).outcome is Outcome.VALID


def test_oversized_artifacts_are_the_fault_of_who_named_them(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work
    shelf = Shelf.of(product)
    leaf = steps_of(product)[-1]
    shelf.artifacts[leaf.post] += bytes(3072)
    assert look(t.check(lease, shelf, (0,))) == (Outcome.INVALID, TREE_STEPS, 3)


def test_a_crash_of_ours_is_an_error(work: tuple[Tiny, Lease, Product]) -> None:
    t, lease, product = work

    def fetch(root: bytes, limit: int) -> bytes:
        raise MemoryError("no room")

    verdict = checking.check(t.spec, t.text, t.base, lease, product.root, (0,), fetch)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.vote(1) is None


# -- across profiles ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tolerant() -> Tiny:
    """A task that takes work of other profiles."""
    return make(
        ModelSpec(dim=32, layers=2, heads=2, hidden=64, context=32),
        TrainingSpec(steps=8, segment=2, batch=4, lr=0.003),
        VerificationSpec(topk=64, tolerance=1e-4),
    )


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train as a machine whose attention rounds in another way, and says so."""
    with monkeypatch.context() as patch, sdpa_kernel(SDPBackend.MATH):
        patch.setattr(pretrain, "profile_here", lambda spec: "torch-2/elsewhere/f32")
        yield


def other_run(
    change: Callable[[TrainState, list[Batch]], tuple[TrainState, list[Batch]]],
) -> Callable[..., SegmentResult]:
    honest = pretrain.run

    def run(spec: specs.Spec, state: TrainState, batches: list[Batch], index: int) -> SegmentResult:
        changed, data = change(state, batches)
        return honest(spec, changed, data, index)

    return run


def test_another_machines_honest_work_is_tolerated(tolerant: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = tolerant.lease()
    with elsewhere(monkeypatch):
        product = tolerant.train(lease)
    assert product.root != tolerant.train(lease).root, "the other kernel rounds differently"
    verdict = tolerant.check(lease, Shelf.of(product), ALL)
    assert verdict.outcome is Outcome.VALID, verdict
    measures = dict(verdict.measures)
    assert 0 < measures["step_distance"] < 2e-5
    assert dict(verdict.evidence)["state_chunks"] > 0


def test_another_machines_sketches_must_fit_its_states(
    tolerant: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = tolerant.lease()
    with elsewhere(monkeypatch):
        product = tolerant.train(lease)
    raw, n = sketches_of(product), SKETCH_BYTES
    verdict = tolerant.check(
        lease, Shelf.of(with_sketches(product, raw[n : 2 * n] + raw[:n] + raw[2 * n :])), (0,)
    )
    assert look(verdict) == (Outcome.INVALID, TREE_STEPS, 0)
    assert "sketch" in verdict.reason


def test_within_the_own_profile_a_tolerant_task_is_exact(
    tolerant: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = tolerant.lease()
    with sdpa_kernel(SDPBackend.MATH):
        product = tolerant.train(lease)
    assert look(tolerant.check(lease, Shelf.of(product), (0,))) == (Outcome.INVALID, TREE_STEPS, 0)


def test_saved_work_is_not_tolerated(tolerant: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = tolerant.lease()
    noise = torch.Generator().manual_seed(1)
    savings: dict[str, Callable[[TrainState, list[Batch]], tuple[TrainState, list[Batch]]]] = {
        "three of four sequences": lambda s, b: (s, [np.concatenate((x[:3], x[:1])) for x in b]),
        "the first batch twice": lambda s, b: (s, [b[0], b[0]]),
        "one step of two": lambda s, b: (s, b[:1]),
        "a fresh moment": lambda s, b: (TrainState(s.theta, s.m, s.v * 1.1), b),
        "noise": lambda s, b: (
            TrainState(s.theta + 1e-3 * torch.randn(s.theta.shape, generator=noise), s.m, s.v),
            b,
        ),
    }
    for name, change in savings.items():
        with elsewhere(monkeypatch), monkeypatch.context() as patch:
            patch.setattr(pretrain, "run", other_run(change))
            product = tolerant.train(lease)
        verdict = tolerant.check(lease, Shelf.of(product), (1,))
        assert verdict.outcome is Outcome.INVALID, (name, verdict)
        assert (verdict.tree, verdict.leaf) == (TREE_STEPS, 1), (name, verdict)
        assert dict(verdict.measures)["step_distance"] > 1e-3, name


def test_without_tolerance_another_profile_cannot_be_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    t = tiny()
    lease = t.lease()
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "profile_here", lambda spec: "torch-2/elsewhere/f32")
        product = t.train(lease)
    verdict = t.check(lease, Shelf.of(product), (0,))
    assert look(verdict) == (Outcome.INVALID, TREE_HEADER, 0)
    assert "profile" in verdict.reason


def test_a_checker_of_another_profile_says_so(
    work: tuple[Tiny, Lease, Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    t, lease, product = work
    foreign = replace(t.spec, verification=replace(t.spec.verification, profile="torch-1/vax"))
    verdict = Tiny(foreign, t.text, t.base).check(lease, Shelf.of(product), (0,))
    assert verdict.outcome is Outcome.ERROR
    assert "E1601" in verdict.reason


def test_bf16_tasks_train_and_check() -> None:
    t = make(
        ModelSpec(dim=32, layers=1, heads=2, hidden=64, context=32),
        TrainingSpec(steps=4, segment=2, batch=2),
        VerificationSpec(topk=64, arithmetic="bf16"),
    )
    assert "/bf16/" in t.spec.verification.profile
    lease = t.lease()
    product = t.train(lease)
    assert t.check(lease, Shelf.of(product), (0, 1)).outcome is Outcome.VALID
    exact = make(
        t.spec.model, t.spec.training, replace(t.spec.verification, arithmetic="f32", profile="auto")
    )
    assert exact.train(exact.lease()).loss != product.loss


@pytest.mark.parametrize(
    "fields",
    [
        {"tolerance": -1.0},
        {"tolerance": 1e-9},
        {"tolerance": 0.2},
        {"arithmetic": "fp8"},
        {"max_proof_score": -1.0},
    ],
)
def test_impossible_verification_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CommonweightError) as caught:
        make(ModelSpec(dim=16, layers=1, heads=2), TrainingSpec(), VerificationSpec(**fields))  # type: ignore[arg-type]
    assert caught.value.code == "E1004"


def test_opening_alone_reads_no_state(work: tuple[Tiny, Lease, Product]) -> None:
    """The cheapest questions come first: a malformed commitment costs a few kilobytes to refuse."""
    t, lease, product = work
    shelf = Shelf.of(product)
    case = opening.Case(t.spec, t.text, t.base, lease, product.root, shelf.fetch)
    opening.open_work(case)
    assert case.evidence["bytes"] < 10_000 < 12 * fixed.padded(pretrain.parameters(t.spec))
    assert lease.trainer == ALICE
