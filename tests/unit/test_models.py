"""The built-in model: canonical parameters, causal, bit-equal wherever it runs; profiles tell machines apart."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import pytest
import torch

from commonweight import models
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import ModelSpec

SMALL = ModelSpec(dim=32, layers=2, heads=4, hidden=48, context=16)


def tokens(spec: ModelSpec, batch: int = 2) -> torch.Tensor:
    return torch.arange(batch * spec.context).mul(37).remainder(spec.vocab).view(batch, spec.context)


def digest(spec: ModelSpec) -> str:
    """Hash of logits and gradient in this thread."""
    models.pin()
    weights = models.initial_parameters(spec).requires_grad_()
    logits, hidden = models.forward(spec, weights, tokens(spec))
    (gradient,) = torch.autograd.grad(logits.square().mean() + hidden.sum(), weights)
    return sha256(logits.detach().numpy().tobytes() + gradient.numpy().tobytes()).hexdigest()


def test_shapes_and_count() -> None:
    flat = models.initial_parameters(SMALL)
    logits, hidden = models.forward(SMALL, flat, tokens(SMALL))
    assert flat.dtype == torch.float32
    assert flat.shape == (models.parameter_count(SMALL),)
    assert logits.shape == (2, 16, 256)
    assert hidden.shape == (2, 16, 32)
    assert models.parameter_count(ModelSpec()) == 357_024


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = models.initial_parameters(SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(models.initial_parameters(SMALL), first)
    assert not torch.equal(models.initial_parameters(replace(SMALL, seed=2**64 - 1)), first)


def test_no_token_sees_the_future() -> None:
    flat, text = models.initial_parameters(SMALL), tokens(SMALL)
    changed = text.clone()
    changed[:, 9:] = 0
    before, after = (models.forward(SMALL, flat, t)[0] for t in (text, changed))
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_positions_matter() -> None:
    flat, same = models.initial_parameters(SMALL), torch.tensor([[5, 6, 7, 8]])
    swapped = torch.tensor([[6, 5, 7, 8]])
    last = [models.forward(SMALL, flat, t)[0][0, -1] for t in (same, swapped)]
    assert not torch.equal(*last)


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, context=8, dim=16, heads=1)])
def test_every_thread_computes_the_same_bits(spec: ModelSpec) -> None:
    here = digest(spec)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(digest, [spec] * 6)) == {here}


def test_every_process_has_the_same_profile() -> None:
    code = (
        "from commonweight.core.spec import ModelSpec; from commonweight import models;"
        f"print(models.numeric_profile({SMALL!r}, 2))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    here = models.numeric_profile(SMALL, 2)
    assert there.stdout.strip() == here
    assert here.startswith(f"torch-{torch.__version__}/")
    assert "/threads-1/probe-" in here


def test_another_instruction_set_is_another_profile() -> None:
    """The probe, not only the name, tells them apart."""
    code = (
        "from commonweight.core.spec import ModelSpec; from commonweight import models;"
        f"print(models.numeric_profile({SMALL!r}, 2))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"ATEN_CPU_CAPABILITY": "default", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    assert there.stdout.strip().rsplit("/", 1)[1] != models.numeric_profile(SMALL, 2).rsplit("/", 1)[1]


def test_a_foreign_profile_is_refused_with_a_hint() -> None:
    models.require_profile(models.numeric_profile(SMALL, 2), SMALL, 2)
    with pytest.raises(CommonweightError) as caught:
        models.require_profile("torch-1/vax", SMALL, 2)
    assert caught.value.code == "E1601"
    assert caught.value.hint
