"""Calibration on a tiny task: honest variants are close, every cheat is far, and what cannot separate is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from commonweight.cli.calibrate import _judge, calibrate
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import DataSpec, ModelSpec, TrainingSpec, VerificationSpec
from commonweight.models import initial_parameters, pin
from commonweight.tasks import data
from commonweight.tasks.calibration import proofs, steps
from commonweight.tasks.calibration.runs import SAVES, SAVES_RL, Setting, advance
from tests.leases import tiny

MODEL = ModelSpec(dim=32, layers=2, heads=2, hidden=64, context=32)
TASK = """
[task]
name = "tiny"
kind = "pretrain"
[model]
dim = 32
layers = 2
heads = 2
hidden = 64
context = 64
[training]
batch = 8
steps = 4
segment = 2
[verification]
{verification}
"""


def setting(loss: str = "supervised", arithmetic: str = "f32") -> Setting:
    return Setting(MODEL, TrainingSpec(batch=16), loss, arithmetic)


def text() -> bytes:
    return data.load(DataSpec(max_bytes=100_000), Path())


def measured(s: Setting, length: int) -> list[steps.Row]:
    pin()
    weights = initial_parameters(MODEL).numpy()
    return steps.measure(s, weights, text(), length, ages=(10,), elsewhere=False)


@pytest.mark.parametrize("loss", ["supervised", "rl"])
@pytest.mark.parametrize(("arithmetic", "margin"), [("f32", 1000.0), ("bf16", 5.0)])
def test_cheats_are_far_and_honest_variants_near(loss: str, arithmetic: str, margin: float) -> None:
    rows = measured(setting(loss, arithmetic), 3)
    names = {row.name for row in rows if row.sort == "saves"}
    assert names == set(SAVES) | (set(SAVES_RL) if loss == "rl" else set())
    found = steps.separation(rows)
    assert found.local >= margin, found
    assert found.honest < found.tolerance < found.cheapest
    assert [row.distance for row in rows if row.name == "run again"] == [0.0]


def test_the_measured_segment_is_the_one_that_training_runs() -> None:
    """`advance` repeats the honest inner loop bit for bit."""
    from commonweight.diloco.inner import run_segment

    pin()
    s = setting()
    (segment,) = steps.segments(s, initial_parameters(MODEL).numpy(), text(), 3, (2,))
    ours = advance(segment)
    theirs = run_segment(MODEL, s.training, segment.state, [b.tokens for b in segment.batches], 2).state
    assert steps.steps.relative(ours.theta.numpy(), theirs.theta.numpy()) < 1e-7


def test_another_instruction_set_runs_in_a_child() -> None:
    pin()
    (segment,) = steps.segments(setting(), initial_parameters(MODEL).numpy(), text(), 1, (1,))
    there = steps._run_with("default", segment)
    assert 0 < float((there.theta - advance(segment).theta).norm()) < 1e-3


def scene() -> proofs.Scene:
    pin()
    s = setting()
    (segment,) = steps.segments(s, initial_parameters(MODEL).numpy(), text(), 1, (30,))
    own, seen = (
        torch.from_numpy(steps.make_batches(s, text(), name, 1)[0].tokens[:, :-1].astype(np.int64))
        for name in ("own", "seen")
    )
    return proofs.make_scene(MODEL, "f32", segment.state.theta, segment.before.theta, own, seen)


def test_every_forger_is_rejected_and_every_honest_machine_accepted() -> None:
    s = scene()
    honest = [x for run in proofs.HONEST.values() for x in proofs.stats_of(s, run(s)) if x is not None]
    assert len(honest) == len(proofs.HONEST) * 16
    advice = proofs.thresholds(honest, VerificationSpec())
    assert all(proofs.accepted(x, advice) for x in honest)
    for name, forge in proofs.FORGERS.items():
        found = proofs.stats_of(s, forge(s))
        assert not any(proofs.accepted(x, advice) for x in found), name
    assert all(x is None for x in proofs.stats_of(s, proofs.FORGERS["null"](s)))
    assert all(x is None for x in proofs.stats_of(s, proofs.FORGERS["constant"](s)))
    # Thresholds as published accept what these reject.
    loose = replace(advice, max_exponent_mismatches=38, max_mantissa_mean=10.0, max_proof_score=256.0)
    assert any(proofs.accepted(x, loose) for x in proofs.stats_of(s, proofs.FORGERS["int4 weights"](s)))


def run_cli(tmp_path: Path, verification: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(TASK.format(verification=verification))
    calibrate(path, 0, "", "", True, True)


def test_the_command_prints_the_separation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli(tmp_path, "tolerance = 1e-4")
    found = json.loads(capsys.readouterr().out)
    assert found["local_margin"] > 1000
    assert found["honest"] < found["advice"]["tolerance"] < found["cheapest"]
    assert found["proofs"]["honest_rejected"] == 0


def test_loose_proof_thresholds_are_refused(tmp_path: Path) -> None:
    loose = "max_exponent_mismatches = 38\nmax_mantissa_mean = 10.0\nmax_proof_score = 256.0"
    with pytest.raises(CommonweightError, match="thresholds accept") as caught:
        run_cli(tmp_path, loose)
    assert caught.value.code == "E1606"


def test_fifty_bf16_steps_of_a_policy_gradient_in_one_segment_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two honest machines end further apart than honest and cheating ones; nothing is learnt from such a replay."""
    path = tmp_path / "task.toml"
    path.write_text(TASK.format(verification="").replace("context = 64", "context = 32"))
    with pytest.raises(CommonweightError, match="in segments of 50 steps") as caught:
        calibrate(path, 50, "bf16", "rl", True, True)
    assert caught.value.code == "E1606"
    found = json.loads(capsys.readouterr().out)
    assert (found["segment"], found["arithmetic"], found["loss"]) == (50, "bf16", "rl")
    assert found["local_margin"] < 3


@pytest.mark.parametrize(
    ("tolerance", "found", "what"),
    [
        (0.02, steps.Separation(0.7, 0.9, "half batch", 1.3), "in segments of 50 steps"),
        (1e-6, steps.Separation(1e-4, 0.08, "half batch", 800), "would reject honest"),
        (0.05, steps.Separation(1e-4, 0.06, "half batch", 600), "would accept half batch"),
        (1e-3, steps.Separation(1e-4, 0.06, "half batch", 600), ""),
        (0.0, steps.Separation(1e-2, 0.06, "half batch", 6), ""),
    ],
)
def test_a_tolerance_must_lie_between(tolerance: float, found: steps.Separation, what: str) -> None:
    spec = replace(tiny().spec, verification=VerificationSpec(tolerance=tolerance))
    report = {"honest_rejected": 0, "honest": 9, "forgers": {}}
    if not what:
        return _judge(spec, found, 50, report)
    with pytest.raises(CommonweightError, match=what) as caught:
        _judge(spec, found, 50, report)
    assert caught.value.code == "E1606"
