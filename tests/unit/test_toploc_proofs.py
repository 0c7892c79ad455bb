"""Activation proofs: canonical bytes, a total decoder, honest ones accepted, each forgery rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight import toploc
from commonweight.core import fixed
from commonweight.core.errors import EncodingError
from commonweight.core.spec import ModelSpec, TrainingSpec, VerificationSpec
from commonweight.diloco.inner import TrainState, run_segment
from commonweight.models import forward, initial_parameters, pin
from commonweight.tasks.lease import batch
from commonweight.toploc.field import P
from commonweight.toploc.proofs import bf16_bits
from commonweight.toploc.topk import injective_modulus
from tests.leases import Tiny, make

K, CHUNK = 128, 32
VECTORS = Path(__file__).parent.parent / "vectors" / "toploc.json"


def states(tokens: int = 70, dim: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn((tokens, dim), generator=torch.Generator().manual_seed(seed))


def stats(own: torch.Tensor, forged: torch.Tensor) -> toploc.ProofStats:
    return toploc.verify(own, toploc.build(forged, K, CHUNK), K, CHUNK)


def rejected(s: toploc.ProofStats) -> bool:
    """By the default thresholds of a spec."""
    return bool(toploc.fault(s, K, VerificationSpec()))


def test_honest_proofs_show_nothing() -> None:
    own = states()
    found = stats(own, own)
    assert (found.chunks, found.exponent_mismatches, found.mantissa_mean, found.sign_mismatches) == (
        3,
        0,
        0.0,
        0,
    )
    assert found.score == 0
    assert found.control_hits <= 4


@pytest.mark.parametrize("k", [1, 4, 100, 128])
@pytest.mark.parametrize("tokens", [32, 33, 70, 96])
def test_bytes_round_trip(k: int, tokens: int) -> None:
    own = states(tokens, 128)
    proofs = toploc.build(own, k, CHUNK)
    raw = toploc.encode(proofs)
    count = toploc.chunk_count(tokens, CHUNK)
    assert len(raw) == count * (2 + 2 * k)
    again = toploc.decode(raw, k, count)
    assert toploc.encode(again) == raw
    assert toploc.verify(own, again, k, CHUNK).exponent_mismatches == 0


def test_golden_vectors() -> None:
    """Raw bfloat16 patterns and the bytes of their proof, so that another implementation can be held to ours."""
    for case in json.loads(VECTORS.read_text()):
        bits = np.frombuffer(bytes.fromhex(case["bits"]), dtype=">u2").astype(np.uint16).view(np.int16)
        hidden = torch.from_numpy(bits.copy()).view(torch.bfloat16).view(-1, case["dim"])
        assert toploc.encode(toploc.build(hidden.float(), case["topk"], case["chunk"])).hex() == case["proof"]


def test_ties_go_to_the_smaller_index() -> None:
    own = torch.ones((CHUNK, 8))
    own[3, 2] = -2.0
    proofs = toploc.build(own, 4, CHUNK)
    modulus, coefficients = int(proofs.moduli[0]), proofs.coefficients[0]
    values = [int(np.polyval(coefficients[::-1].astype(object), i)) % P for i in (0, 1, 2, 26)]
    assert modulus == P
    assert values == [0x3F80, 0x3F80, 0x3F80, 0xC000]


def test_modulus_is_the_largest_injective_one() -> None:
    assert injective_modulus(np.array([0, 5, P - 1])) == P
    assert injective_modulus(np.array([0, P])) == P - 1
    assert injective_modulus(np.array([0, P, P - 1, 7])) == P - 2


def test_reduced_modulus_verifies() -> None:
    own = states(CHUNK, 2200)
    own[:] *= 0.01
    flat = own.view(-1)
    flat[torch.arange(126) * 3] = 5.0
    flat[70_000], flat[70_000 - P] = 6.0, -7.0
    proofs = toploc.build(own, K, CHUNK)
    assert proofs.moduli[0] < P
    assert toploc.verify(own, proofs, K, CHUNK).score == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3.4e38])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    own = states()
    own[40, 3] = bad
    with pytest.raises(EncodingError):
        toploc.build(own, K, CHUNK)
    with pytest.raises(EncodingError):
        toploc.verify(own, toploc.build(states(), K, CHUNK), K, CHUNK)


def test_a_short_last_chunk_needs_k_values() -> None:
    assert len(toploc.build(states(38), K, CHUNK)) == 2
    with pytest.raises(EncodingError):
        toploc.build(states(37), K, CHUNK)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 8), st.integers(1, 4))
def test_decoder_is_total(raw: bytes, k: int, count: int) -> None:
    try:
        proofs = toploc.decode(raw, k, count)
    except EncodingError:
        return
    assert toploc.encode(proofs) == raw
    assert toploc.verify(states(4 * count), proofs, k, 4).chunks == count


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw + b"\x00",
        lambda raw: raw[: len(raw) // 3],
        lambda raw: raw + raw,
        lambda raw: b"\x00\x00" + raw[2:],
        lambda raw: b"\xff\xda" + raw[2:],
        lambda raw: raw[:2] + b"\xff\xd9" + raw[4:],
        lambda raw: bytes(len(raw)),
        lambda raw: b"\xff\xd9",
    ],
    ids=[
        "empty",
        "cut",
        "longer",
        "one",
        "twice",
        "null",
        "big-modulus",
        "big-coefficient",
        "zeros",
        "two-bytes",
    ],
)
def test_malformed_proofs_are_named(spoil: Callable[[bytes], bytes]) -> None:
    """Each of these crashes or fools the published verifier."""
    raw = toploc.encode(toploc.build(states(), K, CHUNK))
    with pytest.raises(EncodingError):
        toploc.decode(spoil(raw), K, 3)


def test_the_number_of_proofs_is_checked() -> None:
    own = states()
    proofs = toploc.build(own, K, CHUNK)
    for rows in ([], [0, 1], [0, 1, 2, 0]):
        wrong = toploc.Proofs(proofs.moduli[rows], proofs.coefficients[rows])
        with pytest.raises(EncodingError):
            toploc.verify(own, wrong, K, CHUNK)


# -- forgeries, on a model that was trained a little --------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Tiny, TrainState, TrainState, np.ndarray]:
    """A small task, its state after 12 steps, the state one step before, and a batch."""
    pin()
    model = ModelSpec(dim=32, layers=2, heads=2, hidden=64, context=64)
    task = make(model, TrainingSpec(steps=12, segment=2, batch=4), VerificationSpec())
    state = before = TrainState.start(
        fixed.dequantise_weights(task.base.weights, task.spec.merge.weight_bits)
    )
    for step in range(12):
        before = state
        one = batch(task.spec, task.text, b"s" * 32, step)
        state = run_segment(model, task.spec.training, state, [one], step).state
    return task, state, before, batch(task.spec, task.text, b"s" * 32, 99)


def observe(task: Tiny, theta: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        _, hidden = forward(task.spec.model, theta, torch.from_numpy(tokens[:, :-1].astype(np.int64)))
    return hidden.reshape(-1, task.spec.model.dim)


def test_forgeries_are_rejected(trained: tuple[Tiny, TrainState, TrainState, np.ndarray]) -> None:
    task, state, before, tokens = trained
    own = observe(task, state.theta, tokens)
    other_seed = ModelSpec(**{**{f: getattr(task.spec.model, f) for f in ModelSpec.__slots__}, "seed": 99})
    forged = {
        "negated": -own,
        "shuffled": own[torch.randperm(len(own), generator=torch.Generator().manual_seed(1))],
        "scaled": own * 1.01,
        "other model": observe(task, initial_parameters(other_seed), tokens),
        "other prompt": observe(task, state.theta, batch(task.spec, task.text, b"s" * 32, 98)),
        "previous version": observe(
            task, TrainState.start(fixed.dequantise_weights(task.base.weights, 24)).theta, tokens
        ),
        "one step old": observe(task, before.theta, tokens),
        "token table": own[tokens[:, :-1].reshape(-1).argsort(kind="stable")],
    }
    assert not rejected(stats(own, own))
    passed = [name for name, hidden in forged.items() if not rejected(stats(own, hidden))]
    assert passed == []


@pytest.mark.parametrize("pattern", ["typical", "zero", "one"])
def test_constant_polynomials_are_rejected(
    trained: tuple[Tiny, TrainState, TrainState, np.ndarray], pattern: str
) -> None:
    task, state, _, tokens = trained
    own = observe(task, state.theta, tokens)
    typical = int(np.median(bf16_bits(own.abs().flatten().topk(K).values)))
    count = toploc.chunk_count(len(own), CHUNK)
    constant = np.zeros((count, K), dtype=np.int64)
    constant[:, 0] = {"typical": typical, "zero": 0, "one": 0x3F80}[pattern]
    proofs = toploc.Proofs(np.full(count, P), constant)
    found = toploc.verify(own, proofs, K, CHUNK)
    assert rejected(found)
    assert pattern != "typical" or found.control_hits == K // 4
    with pytest.raises(EncodingError, match="constant"):
        toploc.decode(toploc.encode(proofs), K, count)


def test_scale_of_errors_is_reported() -> None:
    """The worst chunk counts: one bad chunk among good ones is not averaged away."""
    own, bad = states(96), states(96)
    bad[40] *= 4
    found = stats(own, bad)
    assert found.exponent_mismatches > 4


def test_kernels_round_float32_as_torch_does() -> None:
    """Ties to even, overflow to infinity, subnormal numbers, signed zeros; NaN comes out as NaN."""
    kernels = pytest.importorskip("commonweight.toploc.kernels")
    patterns = np.random.default_rng(1).integers(0, 2**32, 40_000, dtype=np.uint32)
    edges = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000])
    odd = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800000, 0x80000000])
    patterns = np.concatenate((patterns, edges.astype(np.uint32), odd.astype(np.uint32)))
    want = bf16_bits(torch.from_numpy(patterns.view(np.float32).copy()))
    indices, values = np.empty((1, 16), dtype=np.int64), np.empty((1, 16), dtype=np.int64)
    for at in range(0, patterns.size, 16):
        wide = np.resize(patterns[at : at + 16], (1, 16))
        kernels.tops(np.empty((0, 0), dtype=np.uint16), wide, 16, indices, values)
        expected = np.resize(want[at : at + 16], 16)
        nan = (expected & 0x7FFF) > 0x7F80
        assert ((values[0] == expected) | (nan & ((values[0] & 0x7FFF) > 0x7F80))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [32, 70, 256])
def test_both_engines_see_the_same(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn((tokens, 96), generator=torch.Generator().manual_seed(tokens)).to(dtype)
    near = (hidden.float() + 0.05 * torch.randn(hidden.shape)).to(dtype)
    found = []
    for engine in ("off", "on"):
        monkeypatch.setenv("COMMONWEIGHT_NUMBA", engine)
        built = toploc.build(near, 128, 32)
        stats = toploc.verify(hidden, toploc.decode(toploc.encode(built), 128, len(built)), 128, 32)
        found.append((toploc.encode(built), stats))
    assert found[0][0] == found[1][0]
    assert found[0][1].exponent_mismatches > 0
    assert replace(found[0][1], score=0) == replace(found[1][1], score=0)
    assert found[0][1].score == pytest.approx(found[1][1].score)
