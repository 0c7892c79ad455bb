"""Draw the README's picture: the closing report of a real run, as `commonweight demo` prints it.

python scripts/demo_picture.py runs/ID        writes docs/demo.svg
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console

from commonweight.cli.demo import report

TARGET = Path(__file__).parents[1] / "docs" / "demo.svg"


def main(run: Path) -> None:
    """Render ``run/summary.json``."""
    console = Console(record=True, width=88, file=io.StringIO(), force_terminal=True)
    console.print("$ make demo", style="bold")
    report.render(console, json.loads((run / "summary.json").read_text()))
    TARGET.parent.mkdir(exist_ok=True)
    # No font is fetched: whoever looks at the file uses a font of their own.
    svg = console.export_svg(title="commonweight demo")
    TARGET.write_text("\n".join(line.rstrip() for line in _without_fonts(svg).splitlines()) + "\n")
    print(f"wrote {TARGET.relative_to(Path.cwd())}")


def _without_fonts(svg: str) -> str:
    """Drop the @font-face rules, which name a host."""
    while (start := svg.find("@font-face")) >= 0:
        svg = svg[:start] + svg[svg.index("}", start) + 1 :].lstrip()
    return svg


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
