"""Line charts without a plotting library: an SVG file for people's eyes, and rows of text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Series = Mapping[str, Sequence[tuple[float, float]]]
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
WIDTH, HEIGHT, MARGIN = 720, 420, 60


def svg(series: Series, title: str, x_label: str, y_label: str, y_range: tuple[float, float]) -> str:
    """An SVG document; ``series``: points by label, x ascending."""
    points = [p for line in series.values() for p in line]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = y_range

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="28" text-anchor="middle" font-size="16">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        f"{escape(y_label)}</text>",
    ]
    for i in range(6):
        y = y_low + (y_high - y_low) * i / 5
        left, height = at(x_low, y)
        right = WIDTH - MARGIN
        parts.append(f'<line x1="{left}" y1="{height:.1f}" x2="{right}" y2="{height:.1f}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{left - 8}" y="{height + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    for i in range(5):
        x = x_low + (x_high - x_low) * i / 4
        across, _ = at(x, y_low)
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{x:g}</text>')
    for i, (label, line) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = HEIGHT - MARGIN - 16 * (len(series) - i)
        parts.append(
            f'<text x="{WIDTH - MARGIN - 8}" y="{height}" text-anchor="end" fill="{colour}">{escape(label)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def bars(line: Sequence[tuple[float, float]], label: str, width: int = 50) -> str:
    """One row per point: x, y and a bar of ``y`` between 0 and 1."""
    return "\n".join(
        f"{label} {x:>6g}  {y:6.3f}  {'#' * round(max(0.0, min(1.0, y)) * width)}" for x, y in line
    )
