"""The table of training cheats in ``docs/verification.md``, written between its two markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- cheats: begin -->", "<!-- cheats: end -->"
SORTS = {"honest": "honest machines", "saves": "cheats", "slight": "slight deviations"}
SHORT = {"supervised": "sup.", "rl": "RL"}


def write(path: Path, settings: list[dict[str, Any]]) -> None:
    """Put the table of these settings in place of the one before."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(settings)}\n{END}{after}")


def table(settings: list[dict[str, Any]]) -> str:
    """One line a variant: its worst distance over all ages if it is honest, its least one otherwise."""
    heads = [f"{SHORT[s['loss']]} {s['arithmetic']} c={s['length']}" for s in settings]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for sort, title in SORTS.items():
        lines.append(f"| **{title}** |" + " |" * len(heads))
        names = dict.fromkeys(r["name"] for s in settings for r in s["rows"] if r["sort"] == sort)
        for name in names:
            cells = [_cell([r for r in s["rows"] if r["name"] == name], sort) for s in settings]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| **margin over all ages** | " + " | ".join(f"{s['margin']:.3g}" for s in settings) + " |")
    lines.append(
        "| **least margin at one age** | " + " | ".join(f"{s['local']:.3g}" for s in settings) + " |"
    )
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], sort: str) -> str:
    if not rows:
        return ""
    distances = [r["distance"] for r in rows]
    return f"{max(distances) if sort == 'honest' else min(distances):.1e}"
