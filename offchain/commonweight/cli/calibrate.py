"""`commonweight calibrate`: measure what a task's thresholds must tell apart, and refuse those that cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import fixed
from ..core.errors import CommonweightError
from ..core.spec import Spec, TaskFile, VerificationSpec
from ..models import pin
from ..tasks.calibration import proofs, steps
from ..tasks.calibration.runs import Setting
from ..tasks.kinds import task_kind
from .commands import read_task

LEAST_MARGIN = 3.0
"""A tolerance between honest and cheating needs room on both sides: a sketch errs by up to a third."""
SUPERVISED = ("pretrain", "lora")


def calibrate(path: Path, segment: int, arithmetic: str, loss: str, quick: bool, as_json: bool) -> None:
    """Run honest variants and cheats for a task file, print the separation. Raises E1606 when there is none."""
    pin()
    task = read_task(path)
    kind = task_kind(task.kind)
    data = kind.load_data(task, path.resolve().parent)
    version = kind.initial_version(task, path.resolve().parent)
    spec = kind.build_spec(task, data, version)
    weights = fixed.dequantise_weights(version.weights, spec.merge.weight_bits)
    setting = Setting(
        spec.model,
        spec.training,
        loss or ("supervised" if task.kind in SUPERVISED else "rl"),
        arithmetic or spec.verification.arithmetic,
    )
    if setting.loss not in ("supervised", "rl") or setting.arithmetic not in ("f32", "bf16"):
        raise CommonweightError("E1907", "--loss is supervised or rl, --arithmetic f32 or bf16")
    length = segment or spec.training.segment
    rows = _steps(setting, weights, data, length, quick)
    found = steps.separation(rows)
    advice, report = _proofs(setting, weights, data, spec.verification)
    result = _result(task, setting, length, rows, found, advice, report)
    print(json.dumps(result) if as_json else _text(result))
    _judge(spec, found, length, report)


def _steps(setting: Setting, weights: np.ndarray, data: bytes, length: int, quick: bool) -> list[steps.Row]:
    count = 0

    def progress(name: str) -> None:
        nonlocal count
        count += 1
        if sys.stderr.isatty():
            print(f"\r{count:3} {name:40}", end="", file=sys.stderr, flush=True)

    rows = steps.measure(
        setting,
        weights,
        data,
        length,
        ages=(20,) if quick else (20, 100),
        elsewhere=not quick,
        progress=progress,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return rows


def _proofs(
    setting: Setting, weights: np.ndarray, data: bytes, v: VerificationSpec
) -> tuple[VerificationSpec, dict[str, Any]]:
    """Thresholds that honest machines need, and how honest ones and forgers fare under them and under the spec's."""
    (segment,) = steps.segments(setting, weights, data, 1, (60,))
    tokens = _tokens(setting, data, "own")
    scene = proofs.make_scene(
        setting.model,
        setting.arithmetic,
        segment.state.theta,
        segment.before.theta,
        tokens,
        _tokens(setting, data, "seen"),
    )
    honest = [
        s for run in proofs.HONEST.values() for s in proofs.stats_of(scene, run(scene)) if s is not None
    ]
    advice = proofs.thresholds(honest, v)
    forgers: dict[str, Any] = {}
    for name, forge in proofs.FORGERS.items():
        found = proofs.stats_of(scene, forge(scene))
        scores = [s.score for s in found if s is not None]
        forgers[name] = {
            "least_score": min(scores) if scores else None,
            "accepted": sum(proofs.accepted(s, v) for s in found),
            "accepted_calibrated": sum(proofs.accepted(s, advice) for s in found),
            "of": len(found),
        }
    report = {
        "honest_score": max(s.score for s in honest),
        "honest_rejected": sum(not proofs.accepted(s, v) for s in honest),
        "honest": len(honest),
        "forgers": forgers,
    }
    return advice, report


def _tokens(setting: Setting, data: bytes, name: str) -> torch.Tensor:
    batches = steps.make_batches(setting, data, name, -(-16 // setting.training.batch))
    return torch.from_numpy(np.concatenate([b.tokens for b in batches])[:, :-1].astype(np.int64))


def _result(
    task: TaskFile,
    setting: Setting,
    length: int,
    rows: list[steps.Row],
    found: steps.Separation,
    advice: VerificationSpec,
    report: dict[str, Any],
) -> dict[str, Any]:
    names = ("max_exponent_mismatches", "max_mantissa_mean", "max_sign_mismatches", "max_proof_score")
    return {
        "task": task.name,
        "loss": setting.loss,
        "arithmetic": setting.arithmetic,
        "segment": length,
        "steps": [asdict(row) for row in rows],
        "honest": found.honest,
        "cheapest": found.cheapest,
        "cheat": found.cheat,
        "margin": found.margin,
        "local_margin": found.local,
        "proofs": report,
        "advice": {"tolerance": float(f"{found.tolerance:.1g}")} | {n: getattr(advice, n) for n in names},
    }


def _text(r: dict[str, Any]) -> str:
    lines = [f"{r['task']}: {r['loss']} loss, {r['arithmetic']}, segments of {r['segment']} steps", ""]
    for sort, title in (("honest", "honest machines"), ("saves", "cheats"), ("slight", "slight deviations")):
        lines.append(f"{title} (distance of the end state, by age)")
        ages = sorted({row["age"] for row in r["steps"]})
        for name in dict.fromkeys(row["name"] for row in r["steps"] if row["sort"] == sort):
            values = {row["age"]: row["distance"] for row in r["steps"] if row["name"] == name}
            lines.append(f"  {name:34}" + "".join(f"{values[age]:10.1e}" for age in ages if age in values))
    lines += [
        "",
        f"honest at most {r['honest']:.2g}, cheapest cheat {r['cheapest']:.2g} ({r['cheat']})",
        f"margin {r['margin']:.3g} over all ages, {r['local_margin']:.3g} at one age",
        "",
        f"activation proofs: honest score at most {r['proofs']['honest_score']:.3g}",
    ]
    for name, f in r["proofs"]["forgers"].items():
        score = "refused" if f["least_score"] is None else f"{f['least_score']:.3g}"
        lines.append(f"  {name:34}least score {score:>8}, accepted {f['accepted']} of {f['of']}")
    lines += ["", "[verification]  # measured on this machine"]
    lines += [f"{name} = {value}" for name, value in r["advice"].items()]
    alike = [name for name, f in r["proofs"]["forgers"].items() if f["accepted_calibrated"]]
    if alike:
        lines.append(
            f"# these proof thresholds, which other machines need, would let through: {', '.join(alike)}"
        )
    lines.append(
        "# tolerance: only if other numeric profiles may take part; 0 keeps replays equal bit for bit"
    )
    return "\n".join(lines)


def _judge(spec: Spec, found: steps.Separation, length: int, report: dict[str, Any]) -> None:
    """Refuse what cannot separate. Raises E1606."""
    v = spec.verification
    wrong = []
    if found.local < LEAST_MARGIN:
        wrong.append(
            f"in segments of {length} steps the cheapest cheat ({found.cheat}) is only {found.local:.2g} times "
            "as far away as honest machines"
        )
    elif v.tolerance and v.tolerance < 1.5 * found.honest:
        wrong.append(
            f"tolerance {v.tolerance:g} would reject honest machines, which differ by {found.honest:.2g}"
        )
    elif v.tolerance and v.tolerance > found.cheapest / 1.5:
        wrong.append(f"tolerance {v.tolerance:g} would accept {found.cheat} at {found.cheapest:.2g}")
    if report["honest_rejected"] and v.tolerance:
        wrong.append(f"{report['honest_rejected']} of {report['honest']} honest proofs exceed the thresholds")
    passed = [name for name, f in report["forgers"].items() if f["accepted"]]
    if passed:
        wrong.append(f"the proof thresholds accept: {', '.join(passed)}")
    if wrong:
        raise CommonweightError(
            "E1606",
            f"this task cannot be verified: {'; '.join(wrong)}",
            "use the measured values, or shorter segments",
        )
