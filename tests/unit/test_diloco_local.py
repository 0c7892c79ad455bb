"""Inner loops: Muon's direction and scale, moments carried, dropped and replayed, data never seen twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from commonweight.core.errors import CommonweightError
from commonweight.core.spec import ModelSpec, TrainingSpec
from commonweight.diloco import muon
from commonweight.diloco.inner import TrainState, run_segment
from commonweight.diloco.local import InnerLoop, InnerSpec, Text, cosine
from commonweight.models import initial_parameters, parameter_count, pin, shapes

MODEL = ModelSpec(dim=16, layers=2, heads=2, hidden=24, context=16)
DATA = bytes(range(97, 123)) * 80
TEXT = Text.split(MODEL, DATA, batch=2, seed=3, windows=8)


def spec(optimizer: str = "adamw", carry: bool = True) -> InnerSpec:
    return InnerSpec(optimizer, TrainingSpec(lr=0.01, batch=2), carry=carry)


def weights() -> np.ndarray:
    return initial_parameters(MODEL).numpy()


def test_muon_moves_the_matrices_and_nothing_else() -> None:
    blocks = muon.matrices(MODEL)
    assert sum(b.rows * b.cols for b in blocks) == sum(
        int(np.prod(shape)) for name, shape in shapes(MODEL) if len(shape) == 2 and name != "embed"
    )
    assert {(b.rows, b.cols) for b in blocks} == {(16, 16), (24, 16), (16, 24)}
    mask = torch.ones(parameter_count(MODEL), dtype=torch.bool)
    for begin, end in muon.others(MODEL, mask.numel()):
        mask[begin:end] = False
    assert int(mask.sum()) == sum(b.rows * b.cols for b in blocks)
    assert not mask[: 256 * 16].any()
    theta, m = torch.from_numpy(weights().copy()), torch.zeros(mask.numel())
    before = theta.clone()
    muon.step(
        MODEL, theta, m, torch.randn(mask.numel(), generator=torch.Generator().manual_seed(0)), 0.1, 0.9, 0.0
    )
    assert ((theta != before) == mask).all()
    assert (m[~mask] == 0).all()


def test_orthogonalised_matrices_have_singular_values_near_one_and_their_own_directions() -> None:
    pin()
    generator = torch.Generator().manual_seed(1)
    stack = torch.randn(5, 24, 16, generator=generator) * torch.tensor([1e-4, 1.0, 1e3, 1.0, 1.0]).view(
        5, 1, 1
    )
    out = muon.orthogonalise(stack)
    for before, after in zip(stack, out, strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        values = torch.linalg.svdvals(after)
        assert 0.6 < values.min()
        assert values.max() < 1.3
        aligned = torch.diagonal(u.T @ after @ vh.T)
        torch.testing.assert_close(aligned, torch.linalg.svdvals(after)[0].expand(16), rtol=0.7, atol=0)


def test_muon_steps_are_of_adamw_size() -> None:
    theta = torch.zeros(parameter_count(MODEL))
    gradient = torch.randn(theta.numel(), generator=torch.Generator().manual_seed(2))
    muon.step(MODEL, theta, torch.zeros_like(theta), gradient, 1.0, 0.95, 0.0)
    for b in muon.matrices(MODEL):
        rms = theta[b.start : b.start + b.rows * b.cols].square().mean().sqrt()
        assert 0.1 < float(rms) < 0.4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_loss_and_repeats_bit_for_bit(optimizer: str) -> None:
    pin()

    def run() -> tuple[np.ndarray, float]:
        loop = InnerLoop(TEXT, spec(optimizer), worker=0)
        first = loop.run(weights(), 6, (0.0, 0.5))
        return loop.run(first.trained, 6, (0.5, 1.0)).trained, first.loss

    trained, _ = run()
    assert trained.tobytes() == run()[0].tobytes()
    assert TEXT.loss(trained) < TEXT.loss(weights()) - 0.3


def test_without_schedule_the_loop_is_the_pinned_segment() -> None:
    pin()
    loop = InnerLoop(TEXT, spec(), worker=1, schedule=lambda _: 1.0)
    batches = [TEXT.tokens(1, step) for step in range(4)]
    segment = run_segment(MODEL, spec().training, TrainState.start(weights()), batches, 0)
    assert loop.run(weights(), 4, (0, 1)).trained.tobytes() == segment.state.theta.numpy().tobytes()


def test_carried_moments_differ_from_fresh_ones_and_both_move_on_in_the_data() -> None:
    pin()
    ends = {}
    for carry in (True, False):
        loop = InnerLoop(TEXT, spec(carry=carry), worker=0)
        loop.run(weights(), 3, (0, 0.5))
        assert (loop.age, loop.drawn) == (3, 3)
        ends[carry] = loop.run(weights(), 3, (0.5, 1)).trained
        assert (loop.age, loop.drawn) == (6 if carry else 3, 6)
    assert ends[True].tobytes() != ends[False].tobytes()


def test_workers_and_steps_draw_their_own_data_from_the_training_part_only() -> None:
    draws = {(w, s): TEXT.tokens(w, s).tobytes() for w in range(3) for s in range(3)}
    assert len(set(draws.values())) > 6
    assert TEXT.tokens(0, 0).shape == (2, 17)
    assert len(TEXT.data) == len(DATA) - len(DATA) // 10
    other = Text.split(MODEL, DATA, batch=2, seed=4)
    assert other.tokens(0, 0).tobytes() != TEXT.tokens(0, 0).tobytes()


def test_a_worker_may_do_no_step_at_all() -> None:
    result = InnerLoop(TEXT, spec(), worker=0).run(weights(), 0, (0, 1))
    assert (result.trained == weights()).all()
    assert (result.tokens, result.loss) == (0, 0.0)


def test_the_schedule_falls_from_one_to_a_tenth() -> None:
    assert (cosine(0), cosine(1), cosine(2)) == (1.0, pytest.approx(0.1), pytest.approx(0.1))
    assert cosine(0.25) > cosine(0.5) > cosine(0.75)


def test_bad_input_is_named() -> None:
    with pytest.raises(CommonweightError, match="optimiser") as caught:
        InnerSpec("sgd")
    assert caught.value.code == "E1702"
    with pytest.raises(CommonweightError, match="too short") as caught:
        Text.split(MODEL, b"x" * 40, batch=1, seed=0)
    assert caught.value.code == "E1703"
