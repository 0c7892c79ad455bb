"""Training cheats of every sort against honest machines: c = 1 and 10, both arithmetics, both losses; and the plot."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from commonweight.core.spec import DataSpec, ModelSpec, TrainingSpec
from commonweight.models import initial_parameters, pin
from commonweight.tasks import data
from commonweight.tasks.calibration import steps
from commonweight.tasks.calibration.runs import Setting

from .plot import draw
from .report import PATH, judge, save
from .table import table, write

MODEL = ModelSpec(dim=64, layers=2, heads=4, hidden=172, context=64)
TRAINING = TrainingSpec(batch=16)
AGES = (20, 100)
SEEDS = (101, 102, 103)
LOSSES = ("supervised", "rl")
LEAST = {"f32": 100.0, "bf16": 10.0}
PLOT = Path("docs/verification.svg")
PAGE = Path("docs/verification.md")


def cheats() -> None:
    """Measure, print the margins, draw the distances.

    CHEATS=quick leaves out instruction sets and the older state; CHEATS="rl bf16" measures these settings only and
    keeps what was saved of the others.
    """
    pin()
    words = set(os.environ.get("CHEATS", "").split())
    text = data.load(DataSpec(max_bytes=400_000), Path())
    weights = initial_parameters(MODEL).numpy()
    for setting in _settings(words):
        for length in (1, 10):
            _measured(setting, length, weights, text, "quick" in words)
    redraw()


def _settings(words: set[str]) -> list[Setting]:
    losses = words & set(LOSSES) or set(LOSSES)
    kinds = words & set(LEAST) or set(LEAST)
    return [Setting(MODEL, TRAINING, x, y) for x in LOSSES if x in losses for y in LEAST if y in kinds]


def _measured(setting: Setting, length: int, weights: np.ndarray, text: bytes, quick: bool) -> None:
    ages = AGES[:1] if quick else AGES
    rows = steps.measure(setting, weights, text, length, ages=ages, elsewhere=not quick)
    found = steps.separation(rows)
    tolerance = found.tolerance
    missed = sorted({r.name for r in rows if r.sort == "saves" and r.distance <= tolerance})
    own = {"loss": setting.loss, "arithmetic": setting.arithmetic, "length": length, "margin": found.margin}
    row = asdict(found) | own | {"tolerance": tolerance, "missed": missed, "rows": [asdict(r) for r in rows]}
    save(_key(setting.loss, setting.arithmetic, length), row)
    name = (
        f"cheats {setting.loss} {setting.arithmetic} c={length}: cheapest ({found.cheat}) over worst honest"
    )
    print(judge(name, found.margin, LEAST[setting.arithmetic]), f"; at one age {found.local:.3g}", flush=True)
    print(judge(f"  cheats missed at tolerance {tolerance:.2g}", len(missed), 0, at_least=False))


def _key(loss: str, arithmetic: str, length: int) -> str:
    return f"training_cheats_{loss}_{arithmetic}_{length}"


def _saved() -> list[dict[str, Any]]:
    rows = json.loads(PATH.read_text())
    keys = [_key(x, y, c) for x in LOSSES for y in LEAST for c in (1, 10)]
    return [rows[key] for key in keys if key in rows]


def heldout() -> None:
    """Tolerances and margins on models and text that had no say in them: other initial weights, the other half of text.

    Each setting's tolerance is that of `cheats`, saved before; CHEATS names settings as there.
    """
    pin()
    text = data.load(DataSpec(max_bytes=800_000), Path())[400_000:]
    saved = {(r["loss"], r["arithmetic"], r["length"]): r for r in _saved()}
    words = set(os.environ.get("CHEATS", "").split())
    for setting in _settings(words):
        for length in (1, 10):
            before = saved.get((setting.loss, setting.arithmetic, length))
            if before is None:
                sys.exit(
                    f"no tolerance of {setting.loss} {setting.arithmetic} c={length} is saved: run cheats first"
                )
            _held_out(setting, length, before["tolerance"], text)


def _held_out(setting: Setting, length: int, tolerance: float, text: bytes) -> None:
    found = []
    for seed in SEEDS:
        weights = initial_parameters(replace(MODEL, seed=seed)).numpy()
        rows = steps.measure(setting, weights, text, length, ages=AGES, elsewhere=False)
        own = steps.separation(rows)
        rejected = sum(r.distance > tolerance for r in rows if r.sort == "honest")
        missed = sorted({r.name for r in rows if r.sort == "saves" and r.distance <= tolerance})
        found.append(
            asdict(own) | {"seed": seed, "margin": own.margin, "rejected": rejected, "missed": missed}
        )
    key = f"heldout_{setting.loss}_{setting.arithmetic}_{length}"
    save(key, {"tolerance": tolerance, "seeds": found})
    name = f"held out, {setting.loss} {setting.arithmetic} c={length}, {len(SEEDS)} models"
    least = min(f["local"] for f in found)
    print(judge(f"{name}: least margin at one age", least, LEAST[setting.arithmetic]), flush=True)
    print(f"       over both ages {min(f['margin'] for f in found):.3g}; tolerance {tolerance:.2g}")
    print(judge("  honest machines rejected", sum(f["rejected"] for f in found), 0, at_least=False))
    print(judge("  cheats missed", sum(len(f["missed"]) for f in found), 0, at_least=False))


def refuse() -> None:
    """`commonweight calibrate` on 50 bf16 steps of the policy gradient in one segment: no tolerance can separate."""
    from commonweight.cli.calibrate import LEAST_MARGIN

    pin()
    text = data.load(DataSpec(max_bytes=400_000), Path())
    model = ModelSpec(dim=32, layers=2, heads=2, hidden=64, context=32)
    setting = Setting(model, TrainingSpec(batch=8), "rl", "bf16")
    rows = steps.measure(setting, initial_parameters(model).numpy(), text, 50, ages=AGES, elsewhere=False)
    found = steps.separation(rows)
    save("refused_50_bf16_rl", asdict(found))
    print(judge("50 bf16 RL steps: margin (refused below)", found.local, LEAST_MARGIN, at_least=False))


def redraw() -> None:
    """Plot and table of the documentation, from the saved figures."""
    rows = _saved()
    print(table(rows))
    PLOT.write_text(draw(rows))
    write(PAGE, rows)
    print(f"wrote {PLOT} and the table in {PAGE}")
