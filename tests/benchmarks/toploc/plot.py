"""An SVG of distances on a logarithmic axis: one strip a setting, honest machines against cheats."""

from __future__ import annotations

import math
from typing import Any

LEFT, WIDTH, STRIP, TOP = 190, 560, 46, 54
LOW, HIGH = -8.0, 1.0
COLOURS = {"honest": "#2a7de1", "saves": "#d6402b", "slight": "#9a9a9a"}
NAMES = {"honest": "honest machines", "saves": "cheats that save work", "slight": "slight deviations"}


def _x(distance: float) -> float:
    place = (math.log10(max(distance, 10**LOW)) - LOW) / (HIGH - LOW)
    return LEFT + WIDTH * min(max(place, 0.0), 1.0)


def draw(settings: list[dict[str, Any]]) -> str:
    """One SVG document; the line in each strip is the tolerance that was recommended."""
    height = TOP + STRIP * len(settings) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 30} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{LEFT + WIDTH + 30}" height="{height}" fill="white"/>',
        '<text x="12" y="20" font-size="14">How far a segment ends from its replay (relative, logarithmic)</text>',
    ]
    for i, (sort, name) in enumerate(NAMES.items()):
        x = 12 + 190 * i
        out.append(f'<circle cx="{x + 5}" cy="38" r="4" fill="{COLOURS[sort]}" fill-opacity="0.6"/>')
        out.append(f'<text x="{x + 14}" y="42">{name}</text>')
    for power in range(int(LOW), int(HIGH) + 1):
        x = _x(10.0**power)
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 34}" stroke="#e4e4e4"/>')
        label = "0" if power == int(LOW) else f"1e{power}"
        out.append(f'<text x="{x:.1f}" y="{height - 16}" text-anchor="middle">{label}</text>')
    for i, setting in enumerate(settings):
        out += _strip(setting, TOP + STRIP * i)
    return "\n".join([*out, "</svg>"]) + "\n"


def _strip(setting: dict[str, Any], y: float) -> list[str]:
    name = f"{setting['loss']}, {setting['arithmetic']}, c = {setting['length']}"
    out = [f'<text x="12" y="{y + 20}">{name}</text>']
    out.append(f'<text x="12" y="{y + 35}" fill="#777">margin {setting["margin"]:.3g}</text>')
    lanes = {"honest": 12, "slight": 22, "saves": 32}
    for row in setting["rows"]:
        sort = row["sort"]
        title = f"{row['name']}, after {row['age']} steps: {row['distance']:.2g}"
        out.append(
            f'<circle cx="{_x(row["distance"]):.1f}" cy="{y + lanes[sort]}" r="4" fill="{COLOURS[sort]}" '
            f'fill-opacity="0.6"><title>{title}</title></circle>'
        )
    x = _x(setting["tolerance"])
    out.append(
        f'<line x1="{x:.1f}" y1="{y + 4}" x2="{x:.1f}" y2="{y + 40}" stroke="#222" stroke-dasharray="3 3"/>'
    )
    return out
