"""The learner: advantages by hand, ratios of one at first, masks, order, adapters; columns that survive the wire."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from commonweight import models
from commonweight.core.errors import EncodingError
from commonweight.core.spec import DecoderSpec, ModelSpec, RlSpec, TrainingSpec
from commonweight.diloco.inner import TrainState
from commonweight.models.architecture import Architecture
from commonweight.rl.adapters import trainable, trainable_count
from commonweight.rl.environments import UNIT
from commonweight.rl.learner import advantages, learn, logprobs, minibatch, objective
from commonweight.rl.trajectories import Columns, Trajectory

MODEL = ModelSpec(vocab=32, dim=16, layers=1, heads=2, hidden=24, context=16)
ARCH = Architecture.of(MODEL, DecoderSpec())
RL = RlSpec(group=2, max_new=4)
TRAINING = TrainingSpec(lr=1e-2, weight_decay=0.0)


def row(reward: float, tokens: list[int], mask: list[int] | None = None, group: int = 0) -> Trajectory:
    made = np.array(tokens, dtype=np.int32)
    sampled = np.array(mask or [1] * len(tokens), dtype=np.uint8)
    noise = np.linspace(-1.0, -0.1, len(tokens)).astype(np.float32) * sampled
    return Trajectory(
        group,
        0,
        7,
        round(reward * UNIT),
        np.array([1, 2, 3], dtype=np.int32),
        made,
        sampled,
        noise,
        b"p" * group,
    )


def on_policy(rows: list[Trajectory], flat: torch.Tensor) -> list[Trajectory]:
    """The rows with the log-probabilities of these very weights."""
    out = []
    for r in rows:
        batch = minibatch([replace(r, reward=UNIT), replace(r, reward=0)], 2, "dr_grpo")
        new = logprobs(ARCH, flat, batch, 1.0)[: int(r.mask.sum())].numpy()
        filled = np.zeros(r.tokens.size, dtype=np.float32)
        filled[r.mask == 1] = new
        out.append(replace(r, logprobs=filled))
    return out


def test_advantages_by_hand() -> None:
    rewards = [UNIT, 0, 0, 0, 5, 5, 5, 5]
    assert advantages(rewards, 4, "dr_grpo").tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    assert advantages(rewards, 4, "rloo")[:2].tolist() == [1.0, pytest.approx(-1 / 3)]
    grpo = advantages(rewards, 4, "grpo")
    assert grpo[0] == pytest.approx(0.75 / np.sqrt(3 / 16))
    assert grpo[4:].tolist() == [0, 0, 0, 0]


@given(st.lists(st.integers(0, UNIT), min_size=4, max_size=4), st.sampled_from(["dr_grpo", "grpo", "rloo"]))
def test_advantages_of_a_group_sum_to_nothing(rewards: list[int], algorithm: str) -> None:
    assert abs(advantages(rewards, 4, algorithm).sum()) < 1e-9


def test_the_first_gradient_is_the_policy_gradient() -> None:
    flat = models.initial_parameters(MODEL) * 5
    rows = on_policy([row(1, [4, 5, 10]), row(0, [6, 10])], flat)
    batch = minibatch(rows, 2, "dr_grpo")
    weights = flat.clone().requires_grad_()
    new = logprobs(ARCH, weights, batch, 1.0)
    per_token, masked = objective(RL, new, batch)
    (ours,) = torch.autograd.grad(per_token.sum(), weights)
    (plain,) = torch.autograd.grad(-(logprobs(ARCH, weights, batch, 1.0) * batch.advantage).sum(), weights)
    assert not masked.any()
    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()
    assert batch.total == 5


def test_what_the_environment_said_teaches_nothing() -> None:
    flat = models.initial_parameters(MODEL)
    batch = minibatch([row(1, [4, 5, 6, 10], [1, 0, 0, 1]), row(0, [6, 10])], 2, "dr_grpo")
    assert batch.column.tolist() == [3, 6, 3, 4]
    assert batch.total == 4
    assert logprobs(ARCH, flat, batch, 1.0).shape == (4,)


@pytest.mark.parametrize(
    ("loss", "old", "new", "advantage", "expected", "is_masked"),
    [
        ("clip", -1.0, -1.0, 1.0, -1.0, False),
        ("clip", -2.0, -1.0, 1.0, -1.2, False),  # pushed far enough already
        ("clip", -2.0, -1.0, -1.0, np.e, False),
        ("clip", -5.0, -1.0, -1.0, 4.0, False),  # the cap on the other side
        ("clip", -6.0, -0.01, -1.0, 0.0, True),  # moved by more than the mask allows
        ("ratio", -2.0, -1.0, 1.0, -np.e, False),
        ("ratio", -5.0, -1.0, 1.0, -4.0, False),
        ("dppo", -2.0, -0.5, 1.0, 0.0, True),
        ("dppo", -2.0, -0.5, -1.0, 4.0, False),
    ],
)
def test_ratios_are_bounded_on_both_sides(
    loss: str, old: float, new: float, advantage: float, expected: float, is_masked: bool
) -> None:
    batch = minibatch([row(1, [4]), row(0, [5])], 2, "dr_grpo")
    batch = replace(batch, old=torch.tensor([old]), advantage=torch.tensor([advantage]))
    value, masked = objective(replace(RL, loss=loss), torch.tensor([new]), batch)
    assert float(value[0]) == pytest.approx(expected, rel=1e-5)
    assert bool(masked[0]) == is_masked


def test_learning_raises_what_was_rewarded() -> None:
    flat = models.initial_parameters(MODEL)
    part = trainable(ARCH, flat, 0)
    rows = on_policy([row(1, [4, 10]), row(0, [5, 10])], flat)
    out = learn(ARCH, part, TRAINING, RL, TrainState.start(flat.numpy()), [rows, rows], 0)
    batch = minibatch(rows, 2, "dr_grpo")
    before, after = (logprobs(ARCH, f, batch, 1.0) for f in (flat, out.state.theta))
    assert after[0] > before[0]
    assert after[2] < before[2]
    assert out.finite
    assert out.steps[0].ratio_mean == pytest.approx(1, abs=1e-5)
    assert out.steps[1].ratio_max > 1
    again = learn(ARCH, part, TRAINING, RL, TrainState.start(flat.numpy()), [rows, rows], 0)
    assert again.state.root == out.state.root
    swapped = learn(ARCH, part, TRAINING, RL, TrainState.start(flat.numpy()), [rows[::-1], rows], 0)
    assert swapped.state.root != out.state.root


def test_groups_that_agree_cost_no_pass_and_change_only_the_moments() -> None:
    flat = models.initial_parameters(MODEL)
    out = learn(
        ARCH,
        trainable(ARCH, flat, 0),
        TRAINING,
        RL,
        TrainState.start(flat.numpy()),
        [[row(1, [4]), row(1, [5])]],
        0,
    )
    assert torch.equal(out.state.theta, flat)
    assert out.steps[0].used == 0


def test_low_rank_corrections_start_at_nothing_and_learn() -> None:
    flat = models.initial_parameters(MODEL)
    part = trainable(ARCH, flat, 2)
    start = part.start()
    assert start.numel() == trainable_count(ARCH, 2) < flat.numel() / 2
    assert torch.equal(part.full(start), flat)
    rows = on_policy([row(1, [4, 10]), row(0, [5, 10])], flat)
    out = learn(ARCH, part, TRAINING, RL, TrainState.start(start.numpy()), [rows] * 4, 0)
    batch = minibatch(rows, 2, "dr_grpo")
    before, after = (logprobs(ARCH, f, batch, 1.0) for f in (flat, part.full(out.state.theta)))
    assert after[0] > before[0]
    changed = part.full(out.state.theta) != flat
    assert changed.any()
    assert not changed[: MODEL.vocab * MODEL.dim].any()


ROWS = st.builds(
    row,
    st.floats(0, 1),
    st.lists(st.integers(0, 31), min_size=1, max_size=6),
    st.none(),
    st.integers(0, 9),
)


@given(st.lists(ROWS, max_size=5))
def test_columns_come_back_as_they_went(rows: list[Trajectory]) -> None:
    columns = Columns.of(rows)
    back = Columns.decode(columns.encode())
    assert back.encode() == columns.encode()
    assert [r.digest() for r in back.rows()] == [r.digest() for r in rows]
    assert [r.proof for r in back.rows()] == [r.proof for r in rows]


@given(st.lists(ROWS, min_size=1, max_size=3), st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_columns_are_refused_or_are_other_columns(
    rows: list[Trajectory], at: int, value: int
) -> None:
    data = bytearray(Columns.of(rows).encode())
    data[at % len(data)] = value
    try:
        back = Columns.decode(bytes(data))
    except EncodingError:
        return
    assert back.encode() == bytes(data)
    assert len(back.rows()) == len(back)


@pytest.mark.parametrize("cut", [0, 7, 39, 40, -1])
def test_truncated_columns_are_refused(cut: int) -> None:
    with pytest.raises(EncodingError):
        Columns.decode(Columns.of([row(1, [4, 5])]).encode()[:cut])


def test_every_field_is_in_the_digest() -> None:
    one = row(0.5, [4, 5])
    changes: list[dict[str, object]] = [
        {"group": 1},
        {"version": 1},
        {"key": 8},
        {"reward": 1},
        {"prompt": np.array([9], dtype=np.int32)},
        {"tokens": np.array([4, 6], dtype=np.int32)},
        {"mask": np.array([1, 0], dtype=np.uint8)},
        {"logprobs": np.array([-1, -2], dtype=np.float32)},
    ]
    assert len({replace(one, **c).digest() for c in [{}, *changes]}) == 9  # type: ignore[arg-type]
