"""The inner loop: AdamW as published, states with one encoding, segments that replay bit for bit anywhere."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.spec import ModelSpec, TrainingSpec
from commonweight.diloco.inner import TrainState, _adamw, run_segment, state_bytes
from commonweight.models import initial_parameters, parameter_count, pin

MODEL = ModelSpec(dim=16, layers=1, heads=2, hidden=32, context=16)
TRAINING = TrainingSpec(steps=4, segment=2, batch=2, lr=0.01)
COUNT = parameter_count(MODEL)


def batches(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (2, 17), dtype=np.uint8) for _ in range(count)]


def start() -> TrainState:
    return TrainState.start(initial_parameters(MODEL).numpy())


def segment_root() -> str:
    pin()
    return run_segment(MODEL, TRAINING, start(), batches(3), 0).state.root.hex()


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_steps_are_those_of_torch_adamw(clip: float) -> None:
    t = TrainingSpec(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3, clip=clip)
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(50, generator=generator))
    ours, m, v = weight.detach().clone(), torch.zeros(50), torch.zeros(50)
    reference = torch.optim.AdamW(
        [weight], lr=t.lr, betas=(t.beta1, t.beta2), eps=t.eps, weight_decay=t.weight_decay, foreach=False
    )
    for step in range(1, 8):
        gradient = torch.randn(50, generator=generator)
        weight.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([weight], clip, foreach=False)
        reference.step()
        _adamw(t, ours, m, v, gradient, step)
        torch.testing.assert_close(ours, weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_segment_does_not_touch_its_input() -> None:
    state, data = start(), batches(2)
    before, copies = state.encode(), [b.copy() for b in data]
    result = run_segment(MODEL, TRAINING, state, data, 0)
    assert state.encode() == before
    assert all((a == b).all() for a, b in zip(data, copies, strict=True))
    assert result.hidden.shape == (32, 16)
    assert result.state.root != state.root


def test_two_segments_are_one_longer_segment() -> None:
    data = batches(4)
    whole = run_segment(MODEL, TRAINING, start(), data, 0).state
    first = run_segment(MODEL, TRAINING, start(), data[:2], 0).state
    shipped = TrainState.decode(first.encode(), COUNT)
    assert run_segment(MODEL, TRAINING, shipped, data[2:], 2).state.root == whole.root
    assert run_segment(MODEL, TRAINING, shipped, data[2:], 0).state.root != whole.root, (
        "the step number matters"
    )


def test_threads_and_processes_give_the_same_bits() -> None:
    here = segment_root()
    with ThreadPoolExecutor(2) as pool:
        assert {f.result() for f in [pool.submit(segment_root) for _ in range(4)]} == {here}
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import segment_root; print(segment_root())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == here


def test_training_learns() -> None:
    data = batches(1) * 30
    first = run_segment(MODEL, TRAINING, start(), data[:1], 0)
    last = run_segment(MODEL, TRAINING, start(), data, 0)
    assert last.loss < first.loss - 0.5
    first.require_finite()


def test_divergence_is_named() -> None:
    broken = TrainState(torch.full((COUNT,), 1e30), torch.zeros(COUNT), torch.zeros(COUNT))
    with pytest.raises(CommonweightError) as caught:
        run_segment(MODEL, TRAINING, broken, batches(1), 0).require_finite()
    assert caught.value.code == "E1604"


# -- the state's encoding ------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_states_round_trip_bit_by_bit(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        torch.from_numpy(rng.normal(size=count).astype(np.float32) * 10.0 ** rng.integers(-44, 38))
        for _ in "123"
    ]
    parts[0][0] = -0.0
    state = TrainState(*parts)
    raw = state.encode()
    assert len(raw) == state_bytes(count)
    assert len(raw) % 1024 == 0
    assert TrainState.decode(raw, count).encode() == raw


@settings(max_examples=100)
@given(st.binary(max_size=4000), st.integers(1, 300))
def test_decoder_is_total(raw: bytes, count: int) -> None:
    with contextlib.suppress(EncodingError):
        assert TrainState.decode(raw, count).encode() == raw


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(part: int, bad: float) -> None:
    parts = [torch.ones(300) for _ in range(3)]
    parts[part][299] = bad
    with pytest.raises(EncodingError, match="finite"):
        TrainState.decode(TrainState(*parts).encode(), 300)


def test_one_state_has_one_encoding() -> None:
    raw = TrainState(*(torch.ones(300) for _ in range(3))).encode()
    for at in (4 * 300, 2048 + 4 * 300 + 3, len(raw) - 1):
        spoilt = bytearray(raw)
        spoilt[at] = 0x80  # even a negative zero in the padding
        with pytest.raises(EncodingError, match="padding"):
            TrainState.decode(bytes(spoilt), 300)
    for wrong in (raw[:-1], raw + b"\x00", raw[: 2 * len(raw) // 3], b""):
        with pytest.raises(EncodingError):
            TrainState.decode(wrong, 300)
