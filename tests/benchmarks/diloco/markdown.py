"""The tables of docs/diloco.md, from the figures of `build/bench/diloco.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    return {
        "topologies": _topologies(result["topologies"]),
        "quality": _quality(result["quality_per_byte"]),
        "sparse": _sparse(result["sparse"]),
        "asynchrony": _rows(
            ("rule", "loss", "on lockstep", "tokens per tick"),
            [
                (n, _loss(r["loss"]), f"{r['above_lockstep']:+.1%}", f"{r['speed_up']:.2f}x")
                for n, r in result["asynchrony"].items()
            ],
        ),
        "state": _above(result["state"], "on carried"),
        "faults": _above(result["faults"], "on undisturbed"),
        "byzantine": _byzantine(result["byzantine"]),
    }


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if loss < 5 else "diverged"


def _topologies(gaps: dict[str, dict[int, float]]) -> str:
    sizes = list(next(iter(gaps.values())))
    head = ("graph (degree 4 where it has a choice)", *(f"gap, {n} nodes" for n in sizes))
    return _rows(head, [(name, *(f"{g:.3f}" for g in row.values())) for name, row in gaps.items()])


def _quality(rows: dict[str, Any]) -> str:
    out = []
    for name, r in rows.items():
        seeds = " / ".join(f"{x:.3f}" for x in r["loss_by_seed"].values())
        few = f"1/{r['times_fewer_bytes']:.0f}" if r["bytes"] and r["times_fewer_bytes"] > 1.01 else ""
        less = (
            f"1/{r[k]:.1f}" if r["bytes"] and r[k] > 1.01 else "" for k in ("vs_fp16_bytes", "vs_int8_bytes")
        )
        out.append((name, seeds, f"{r['quality']:.1%}", f"{r['bytes'] / 1e6:.2f}", few, *less))
    head = (
        "method",
        "loss by seed",
        "quality",
        "MB sent",
        "of data parallel's bytes",
        "of fp16's",
        "of int8's",
    )
    return _rows(head, out)


def _sparse(rows: dict[str, Any]) -> str:
    head = ("graph", "gap", "loss", "on all-reduce", "replicas apart: most", "last")
    return _rows(
        head,
        [
            (
                name,
                f"{r['spectral_gap']:.3f}",
                _loss(r["loss"]),
                f"{r['above_all_reduce']:+.1%}",
                f"{r['consensus_highest']:.2%}",
                f"{r['consensus_last']:.2%}",
            )
            for name, r in rows.items()
            if isinstance(r, dict)
        ],
    )


def _above(rows: dict[str, Any], what: str) -> str:
    return _rows(
        ("run", "loss", what), [(n, _loss(r["loss"]), f"{r['above_clean']:+.1%}") for n, r in rows.items()]
    )


def _percent(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['above_clean']:+.1%}" if row["loss"] < 5 else "diverged"


def _byzantine(rows: dict[str, Any]) -> str:
    cohort = [n.split(", ") for n in rows if not n.startswith("expander")]
    rules, attacks = (list(dict.fromkeys(pair[k] for pair in cohort)) for k in (1, 0))
    one = _rows(
        ("cohort", *attacks),
        [(rule, *(_percent(rows.get(f"{a}, {rule}")) for a in attacks)) for rule in rules],
    )
    replicas = [
        (n.removeprefix("expander "), _percent(r)) for n, r in rows.items() if n.startswith("expander")
    ]
    return one + "\n\n" + _rows(("replicas on the expander", "on clean"), replicas)
