"""Line and scatter plots as SVG text, small enough to need no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 210, 34, 46
COLOURS = (
    "#0b6e99",
    "#c4512d",
    "#3a7d44",
    "#7b4fa3",
    "#a67c00",
    "#555555",
    "#b03a6a",
    "#2a9d8f",
    "#8d6e63",
    "#5c6bc0",
)
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or loose points if ``dots``."""

    name: str
    points: tuple[Point, ...]
    dots: bool = False


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        first, last = math.floor(low), math.ceil(high)
        return [float(d) for d in range(first, last + 1) if low - 1e-9 <= d <= high + 1e-9] or [low, high]
    raw = (high - low) / 5
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw * 0.999)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def plot(title: str, x: str, y: str, series: Sequence[Series], *, log_x: bool = False) -> str:
    """SVG of the series; points that are not finite are left out, a chart without points says so."""
    scale = math.log10 if log_x else float
    cleaned = [
        (
            s,
            [
                (scale(a), b)
                for a, b in s.points
                if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)
            ],
        )
        for s in series
    ]
    everything = [p for _, points in cleaned for p in points]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    if not everything:
        return "\n".join([*out, f'<text x="{LEFT}" y="{HEIGHT // 2}">no points yet</text>', "</svg>\n"])
    (x0, x1), (y0, y1) = _range([p[0] for p in everything]), _range([p[1] for p in everything])

    def at(p: Point) -> tuple[float, float]:
        return (
            LEFT + (p[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (p[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    for value in _ticks(y0, y1, False):
        _, py = at((x0, value))
        out.append(f'<path d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in _ticks(x0, x1, log_x):
        px, _ = at((value, y0))
        label = f"{10**value:g}" if log_x else f"{value:.4g}"
        out.append(f'<path d="M{px:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        out.append(f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>'
    )
    out.append(f'<text x="{LEFT}" y="{TOP - 2}" fill="#555">{escape(y)}</text>')
    for k, (s, points) in enumerate(cleaned):
        out += _series(s, [at(p) for p in points], COLOURS[k % len(COLOURS)], TOP + 14 + 18 * k)
    return "\n".join([*out, "</svg>\n"])


def _series(series: Series, places: list[tuple[float, float]], colour: str, legend: int) -> list[str]:
    out = []
    if series.dots:
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>' for a, b in places]
    elif places:
        line = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        out.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    edge = WIDTH - RIGHT + 14
    out.append(f'<rect x="{edge}" y="{legend - 9}" width="10" height="10" fill="{colour}"/>')
    out.append(f'<text x="{edge + 16}" y="{legend}">{escape(series.name[:34])}</text>')
    return out
