"""From runs to tables, the JSON of figures and plots."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from commonweight.diloco.plot import Series, plot
from commonweight.diloco.topology import NAMES, build

Rows = list[dict[str, Any]]
BASE, FP16, INT8 = "data parallel, AdamW", "DiLoCo fp16 (OpenDiLoCo)", "DiLoCo int8 (INTELLECT-1)"


def mean(rows: Rows, name: str, key: str = "loss", section: str | None = None) -> float:
    """Mean of a figure over seeds; NaN when nothing was run."""
    values = [r[key] for r in rows if r["name"] == name and section in (None, r["section"]) and key in r]
    return sum(values) / len(values) if values else math.nan


def ratio(rows: Rows, name: str, base: str, section: str) -> float:
    """Loss of ``name`` over that of ``base``, seed by seed, averaged over the seeds that both have."""
    losses = {(r["name"], r["seed"]): r["loss"] for r in rows if r["section"] == section}
    ratios = [
        loss / losses[base, seed]
        for (n, seed), loss in losses.items()
        if n == name and (base, seed) in losses
    ]
    return sum(ratios) / len(ratios) if ratios else math.nan


def names(rows: Rows, section: str) -> list[str]:
    """Names of a section's runs, in order."""
    return list(dict.fromkeys(r["name"] for r in rows if r["section"] == section))


def traffic(rows: Rows, name: str) -> float:
    """All bytes a worker sends, up and down."""
    return mean(rows, name, "sent", "quality")


def quality(rows: Rows) -> dict[str, Any]:
    """Loss, quality against data parallel AdamW, and bytes, by method."""
    base_bytes = traffic(rows, BASE)
    out = {}
    for name in names(rows, "quality"):
        sent = traffic(rows, name)
        seeds = {
            r["seed"]: round(r["loss"], 4) for r in rows if r["name"] == name and r["section"] == "quality"
        }
        out[name] = {
            "loss": mean(rows, name, section="quality"),
            "loss_by_seed": seeds,
            "quality": 1 / ratio(rows, name, BASE, "quality"),
            "bytes": sent,
            "times_fewer_bytes": base_bytes / sent if sent else math.inf,
            "vs_fp16_bytes": traffic(rows, FP16) / sent if sent else math.inf,
            "vs_int8_bytes": traffic(rows, INT8) / sent if sent else math.inf,
            "consensus": mean(rows, name, "consensus", "quality"),
        }
    return out


def sparse(rows: Rows) -> dict[str, Any]:
    """Neighbour-only against all-reduce DiLoCo, and whether the replicas come closer."""
    reference = mean(rows, FP16, section="quality")
    out: dict[str, Any] = {"reference_loss": reference}
    for name in ("ring, int4", "small-world, int4", "expander, int4"):
        curves = [r["curve"] for r in rows if r["name"] == name and r["section"] == "quality"]
        if curves:
            series = [point["consensus"] for point in curves[0]]
            out[name] = {
                "loss": mean(rows, name, section="quality"),
                "above_all_reduce": ratio(rows, name, FP16, "quality") - 1,
                "consensus_highest": max(series),
                "consensus_last": series[-1],
                "spectral_gap": build(name.split(",")[0], 8).gap,
            }
    return out


def asynchrony(rows: Rows) -> dict[str, Any]:
    """Tokens per tick and loss at equal tokens, against lockstep."""
    section = "asynchrony"
    ticks, tokens = (mean(rows, "lockstep", key, section) for key in ("ticks", "tokens"))
    out = {}
    for name in names(rows, section):
        mine = mean(rows, name, "tokens", section)
        # Arrivals count steps, rounds count tokens.
        unit = tokens / mine if mine < tokens / 10 else 1.0
        speed = mine * unit / mean(rows, name, "ticks", section)
        loss = mean(rows, name, section=section)
        out[name] = {
            "loss": loss,
            "above_lockstep": ratio(rows, name, "lockstep", section) - 1,
            "speed_up": speed / (tokens / ticks),
        }
    return out


def against(rows: Rows, section: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Loss of each run and how far it lies above its undisturbed twin."""
    out = {}
    for name, twin in pairs:
        loss = mean(rows, name, section=section)
        if not math.isnan(loss):
            out[name] = {"loss": loss, "above_clean": ratio(rows, name, twin, section) - 1}
    return out


def summary(rows: Rows, config: str) -> dict[str, Any]:
    """What `build/bench/diloco.json` holds: a key for each row of the table."""
    twins = {"cohort": "cohort, nobody lost", "expander": "expander, nobody lost"}
    clean = dict.fromkeys(names(rows, "byzantine"), "clean, mean")
    for name in names(rows, "byzantine"):
        if name.startswith("expander"):
            clean[name] = "expander clean, guard and clip"
        elif name.startswith("Muon"):
            clean[name] = "Muon clean, mean"
    return {
        "config": config,
        "seeds": sorted({r["seed"] for r in rows}),
        "quality_per_byte": quality(rows),
        "sparse": sparse(rows),
        "asynchrony": asynchrony(rows),
        "state": against(rows, "state", [(n, "carried") for n in names(rows, "state")]),
        "faults": against(rows, "faults", [(n, twins[n.split(",")[0]]) for n in names(rows, "faults")]),
        "byzantine": against(rows, "byzantine", list(clean.items())),
        "topologies": {name: {n: round(build(name, n).gap, 4) for n in (8, 16, 64)} for name in NAMES},
    }


def show(result: dict[str, Any]) -> None:
    """Tables for people."""
    print(f"\nconfiguration {result['config']}, seeds {result['seeds']}\n")
    print(
        f"{'quality per byte':38}{'loss':>8}{'quality':>9}{'MB sent':>9}{'fewer bytes':>12}{'vs fp16':>9}{'vs int8':>9}"
    )
    for name, row in result["quality_per_byte"].items():
        print(
            f"{name:38}{row['loss']:8.4f}{row['quality']:9.1%}{row['bytes'] / 1e6:9.2f}"
            f"{row['times_fewer_bytes']:12.0f}{row['vs_fp16_bytes']:9.2f}{row['vs_int8_bytes']:9.2f}"
        )
    for name, row in result["sparse"].items():
        if isinstance(row, dict):
            print(
                f"sparse: {name:30}{row['loss']:8.4f} {row['above_all_reduce']:+.2%} on all-reduce; replicas "
                f"{row['consensus_highest']:.2%} apart at most, {row['consensus_last']:.2%} at the end"
            )
    for name, row in result["asynchrony"].items():
        print(
            f"async: {name:42}{row['loss']:8.4f} {row['above_lockstep']:+.2%} at {row['speed_up']:.2f}x the speed"
        )
    for section in ("state", "faults", "byzantine"):
        for name, row in result[section].items():
            print(f"{section}: {name:42}{row['loss']:8.4f} {row['above_clean']:+.2%}")


def plots(rows: Rows, folder: Path) -> None:
    """The pictures of docs/diloco.md."""
    folder.mkdir(parents=True, exist_ok=True)
    methods = [n for n in names(rows, "quality") if traffic(rows, n) > 0]
    dots = [
        Series(n, ((traffic(rows, n) / 1e6, mean(rows, n, section="quality")),), dots=True) for n in methods
    ]
    _write(
        folder / "quality-per-byte.svg",
        plot("Validation loss against bytes", "MB sent by a worker", "nats per byte", dots, log_x=True),
    )
    lines = [
        Series(r["name"], tuple((p["round"], 100 * p["consensus"]) for p in r["curve"]))
        for r in rows
        if r["section"] == "quality" and r["seed"] == 0 and r["kind"] == "gossip"
    ]
    _write(
        folder / "consensus.svg",
        plot("Distance of replicas from their mean", "round", "% of the weights' norm", lines),
    )
    lines = [
        Series(r["name"], tuple((p["ticks"], p["loss"]) for p in r["curve"] if "loss" in p and p["loss"] < 3))
        for r in rows
        if r["section"] == "asynchrony" and r["seed"] == 0
    ]
    _write(
        folder / "asynchrony.svg", plot("Speeds of 1x to 4x", "ticks of virtual time", "nats per byte", lines)
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def save(result: dict[str, Any], path: Path) -> None:
    """Write the JSON; infinities become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(clean(result), indent=2) + "\n", encoding="utf-8")
