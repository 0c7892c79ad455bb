"""The published package's bytes, from golden vectors it made; its crashes as regressions; numpy and numba agree."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight import toploc
from commonweight.core.errors import EncodingError
from commonweight.toploc import field, noise, sampling
from commonweight.toploc.topk import injective_moduli, select, select_on_device

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "toploc-parity.json").read_text())
K, CHUNK = 128, 32


@pytest.fixture(params=["off", "on"], ids=["numpy", "numba"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything below holds with the compiled kernels and without."""
    monkeypatch.setenv("COMMONWEIGHT_NUMBA", request.param)
    return str(request.param)


def hidden_of(case: dict[str, Any]) -> torch.Tensor:
    if "bits" in case:
        bits = np.frombuffer(bytes.fromhex(case["bits"]), dtype=">u2").astype(np.uint16)
    else:
        bits = np.zeros(case["tokens"] * case["dim"], dtype=np.uint16)
        bits[[i for i, _ in case["values"]]] = [v for _, v in case["values"]]
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).view(-1, case["dim"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_vectors_of_the_package(case: dict[str, Any], engine: str) -> None:
    hidden = hidden_of(case)
    proofs = toploc.build_proofs_bytes(hidden, case["chunk"], case["topk"], True)
    assert [p.hex() for p in proofs] == case["package"]
    assert toploc.encode(toploc.build(hidden, case["topk"], case["chunk"])).hex() == case["canonical"]
    results = toploc.verify_proofs_bytes(hidden, proofs, case["chunk"], case["topk"], True)
    assert {(r.exp_mismatches, r.mant_err_mean, r.mant_err_median) for r in results} == {(0, 0.0, 0.0)}


def test_vectors_hold_what_is_hard() -> None:
    assert any(p[:4] != "ffd9" for case in CASES for p in case["package"]), "a reduced modulus"
    assert any("".join(case["package"]) != case["canonical"] for case in CASES), (
        "ties that the orders break apart"
    )


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 400), st.integers(1, 6), st.integers(0, 2**32))
def test_selection_is_by_the_book(chunks: int, k: int, extra: int, spread: int, seed: int) -> None:
    """Canonical: by magnitude, then index. torch-cpu: what torch says. In both engines and on a device."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(0, spread * 40, (chunks, k + extra)) * (0x7F00 // (spread * 40))).astype(np.uint16)
    rows |= (rng.integers(0, 2, rows.shape) << 15).astype(np.uint16)
    book = [sorted(sorted(range(r.size), key=lambda i: (-int(r[i] & 0x7FFF), i))[:k]) for r in rows]
    theirs = [
        sorted(torch.from_numpy(r.view(np.int16)).view(torch.bfloat16).abs().topk(k).indices.tolist())
        for r in rows
    ]
    before = os.environ.get("COMMONWEIGHT_NUMBA", "auto")
    try:
        for mode in ("off", "on"):
            os.environ["COMMONWEIGHT_NUMBA"] = mode
            assert select(rows, k).tolist() == book
            assert select(rows, k, "torch-cpu").tolist() == theirs
    finally:
        os.environ["COMMONWEIGHT_NUMBA"] = before
    assert select_on_device(torch.from_numpy(rows.view(np.int16)), k).tolist() == book


def test_selection_of_wide_rows(engine: str) -> None:
    rng = np.random.default_rng(2)
    rows = torch.from_numpy(rng.standard_normal((3, 70_000)).astype(np.float32)).bfloat16()
    bits = rows.view(torch.int16).numpy().view(np.uint16)
    ranked = (bits & 0x7FFF).astype(np.int64) * 70_000 + np.arange(70_000)[::-1]
    assert (select(bits, K) == np.sort(np.argsort(-ranked, axis=1)[:, :K], axis=1)).all()
    assert (select(bits, K, "torch-cpu") == np.sort(rows.abs().topk(K, dim=1).indices.numpy(), axis=1)).all()


@pytest.mark.parametrize("size", [1000, 8192, 8193, 20_001, 32_768, 40_000])
@pytest.mark.parametrize("distinct", [3, 40, 30_000])
def test_selection_among_many_equals(size: int, distinct: int, engine: str) -> None:
    """Short, middling and long rows go different ways; where most values are equal the smaller index counts."""
    rng = np.random.default_rng(size)
    rows = (rng.integers(0, distinct, (2, size)) + (rng.integers(0, 2, (2, size)) << 15)).astype(np.uint16)
    rows[1, : size // 2] &= 0x8000
    ranked = (rows & 0x7FFF).astype(np.int64) * size + np.arange(size)[::-1]
    for k in (1, K, 500):
        assert (select(rows, k) == np.sort(np.argsort(-ranked, axis=1)[:, :k], axis=1)).all()


def test_proofs_of_activations_on_a_device_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from commonweight.toploc import proofs

    hidden = torch.randn((70, 24), generator=torch.Generator().manual_seed(1))
    on_cpu = toploc.encode(toploc.build(hidden, K, CHUNK))
    monkeypatch.setattr(proofs, "_top", proofs._top_on_device)
    assert toploc.encode(toploc.build(hidden, K, CHUNK)) == on_cpu
    assert toploc.verify(hidden, toploc.decode(on_cpu, K, 3), K, CHUNK).score == 0


@pytest.mark.parametrize("k", [1, 5, 128, 200])
def test_field_arithmetic_of_both_engines(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(k)
    x = np.stack([rng.choice(field.P, k, replace=False) for _ in range(40)])
    x[0] = np.arange(field.P - k, field.P)
    y = rng.integers(0, 65_536, (40, k))
    y[0] = field.P - 1
    points = rng.integers(0, field.P, (40, 3))
    found = []
    for mode in ("off", "on"):
        monkeypatch.setenv("COMMONWEIGHT_NUMBA", mode)
        coefficients = field.interpolate(x, y)
        assert (field.evaluate(coefficients, x) == y % field.P).all()
        found.append((coefficients.tolist(), field.evaluate(coefficients, points).tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("rows", "vocab", "scale", "temperature"), [(300, 29, 3, 1), (40, 5000, 0.01, 0.5), (9, 1, 1, 9)]
)
def test_sampling_of_both_engines(
    rows: int, vocab: int, scale: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(rows)
    logits = (scale * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[:, vocab // 2 :: 3] = -np.inf if vocab > 1 else 0
    keys = noise.row_keys(np.array([noise.sequence_key(b"both")], dtype=np.uint64), np.arange(rows))
    found = []
    for mode in ("off", "on"):
        monkeypatch.setenv("COMMONWEIGHT_NUMBA", mode)
        found.append(sampling.choose(logits, keys, sampling.Sampling(temperature)))
        for bad in (np.nan, np.inf):
            spoilt = logits.copy()
            spoilt[rows // 2, 0] = bad
            with pytest.raises(Exception, match="not finite"):
                sampling.choose(spoilt, keys, sampling.Sampling(temperature))
    assert (found[0][0] == found[1][0]).all()
    assert np.abs(found[0][1] - found[1][1]).max() < 1e-11


def test_without_numba_everything_runs_in_numpy() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import importlib.util as u\nf = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'numba' else f(name, *a)\n"
        "import torch\nfrom commonweight import toploc\n"
        "h = torch.arange(32.0 * 64).view(32, 64)\n"
        "print(toploc.verify(h, toploc.build(h, 64, 32), 64, 32).score)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "COMMONWEIGHT_NUMBA": "on"},
    )
    assert run.stdout.strip() == "0.0"


# -- the package's face ------------------------------------------------------------------------------------------


def states(tokens: int = 96, dim: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn((tokens, dim), generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_prefill_and_lists_are_chunked_as_the_package_does() -> None:
    prefill, steps = states(10), [states(1, seed=i) for i in range(40)]
    proofs = toploc.build_proofs_bytes([prefill, *steps], CHUNK, K)
    assert len(proofs) == 3
    assert proofs[0] == toploc.build_proofs_bytes([prefill], 1, K, True)[0]
    assert proofs[1:] == toploc.build_proofs_bytes(torch.cat(steps), CHUNK, K, True)
    assert [base64.b64encode(p).decode() for p in proofs] == toploc.build_proofs_base64(
        [prefill, *steps], CHUNK, K
    )
    results = toploc.verify_proofs_base64(
        [prefill, *steps], [base64.b64encode(p).decode() for p in proofs], CHUNK, K
    )
    assert results == [toploc.VerificationResult(0, 0.0, 0.0)] * 3


def test_half_floats_build() -> None:
    half = states().half()
    assert len(toploc.build_proofs_bytes(half, CHUNK, K, True)) == 3


def test_another_model_fails_in_the_package_terms() -> None:
    (proof,) = toploc.build_proofs_bytes(states(32, 512), CHUNK, K, True)
    (result,) = toploc.verify_proofs_bytes(states(32, 512, seed=1), [proof], CHUNK, K, True)
    assert result.exp_mismatches > 38


GOOD = toploc.build_proofs_bytes(states(), CHUNK, K, True)


@pytest.mark.parametrize(
    "proofs",
    [
        [],
        GOOD[:1],
        [*GOOD, GOOD[0]],
        [b"\x00" * 258, *GOOD[1:]],
        [b"\x00\x00" + GOOD[0][2:], *GOOD[1:]],
        [b"\xff\xd9", *GOOD[1:]],
        [b"", *GOOD[1:]],
        [GOOD[0] + b"\x00", *GOOD[1:]],
        [GOOD[0] + GOOD[1][2:], *GOOD[1:]],
        [b"\xff\xda" + GOOD[0][2:], *GOOD[1:]],
        [GOOD[0][:2] + b"\xff\xd9" + GOOD[0][4:], *GOOD[1:]],
    ],
    ids=[
        "R16 empty list",
        "R16 fewer proofs than chunks",
        "R15 more proofs than chunks",
        "R14 null proof",
        "R14 modulus zero",
        "R15 two bytes",
        "no bytes",
        "R18 odd trailing byte",
        "more coefficients",
        "modulus beyond the field",
        "coefficient beyond the field",
    ],
)
def test_what_crashes_or_fools_the_package_is_an_encoding_error(proofs: list[bytes]) -> None:
    for activations in (states(), list(states())):
        with pytest.raises(EncodingError):
            toploc.verify_proofs_bytes(activations, proofs, CHUNK, K, True)


def test_r15_a_short_tail_and_half_floats_are_refused() -> None:
    with pytest.raises(EncodingError):
        toploc.verify_proofs_bytes(states(33, 24), [*GOOD[:1], GOOD[0]], CHUNK, K, True)
    with pytest.raises(EncodingError):
        toploc.verify_proofs_bytes(states().half(), GOOD, CHUNK, K, True)
    with pytest.raises(EncodingError):
        toploc.build_proofs_bytes(states().float(), CHUNK, K, True)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_r18_activations_that_are_not_finite_are_refused(bad: float) -> None:
    spoilt = states()
    spoilt[5, 5] = bad
    with pytest.raises(EncodingError):
        toploc.build_proofs_bytes(spoilt, CHUNK, K, True)
    with pytest.raises(EncodingError):
        toploc.verify_proofs_bytes(torch.full_like(spoilt, bad), GOOD, CHUNK, K, True)


@pytest.mark.parametrize(
    "spoil", [lambda s: s + "=", lambda s: s[:-1] + "!", lambda s: " " + s, lambda s: s[:-4], lambda s: 7]
)
def test_r18_base64_has_one_form(spoil: Any) -> None:
    proofs = toploc.build_proofs_base64(states(), CHUNK, K, True)
    with pytest.raises(EncodingError):
        toploc.verify_proofs_base64(states(), [spoil(proofs[0]), *proofs[1:]], CHUNK, K, True)


def test_r17_constant_forgeries_are_rejected_at_every_width() -> None:
    """Gaussian activations of a wide model: the published thresholds accept most of these."""
    from commonweight.core.spec import VerificationSpec

    for dim in (256, 1024, 4096):
        hidden = states(32, dim, seed=dim)
        typical = int(np.median(np.sort(hidden.view(torch.int16).numpy().ravel() & 0x7FFF)[-K:]))
        coefficients = np.zeros((1, K), dtype=np.int64)
        coefficients[0, 0], coefficients[0, -1] = typical, 1
        for sign in (0, 0x8000):
            coefficients[0, 0] = (typical | sign) % field.P
            for one in ({-1: 0}, {}):
                forged = coefficients.copy()
                for at, value in one.items():
                    forged[0, at] = value
                found = toploc.verify(hidden, toploc.Proofs(np.array([field.P]), forged), K, CHUNK)
                assert toploc.fault(found, K, VerificationSpec())


def test_moduli_of_many_rows() -> None:
    indices = np.array([[0, 5, 9], [0, 7, field.P], [1, 2, 3 * field.P]])
    assert injective_moduli(indices).tolist() == [field.P, field.P - 1, field.P]
