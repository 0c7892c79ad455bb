"""Line and branch coverage of `contracts/` by the forge suite, without the random lives.

    python scripts/coverage.py           run, print a table, fail below 100 % of lines or 95 % of branches

Works offline: forge instruments the sources itself. Whatever is not covered is listed with its line.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "build" / "lcov.info"
MIN_LINES, MIN_BRANCHES = 1.0, 0.95


def run() -> None:
    """Instrument, test, write the report. Sizes are meaningless here: coverage builds are not optimised."""
    command = [
        str(ROOT / "node_modules" / ".bin" / "forge"),
        *("coverage", "--report", "lcov", "--report-file", str(REPORT)),
        *("--no-match-contract", "InvariantsTest", "--no-match-test", "test_sizes|test_numpy|test_python"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(done.stdout[-4000:])


def read(report: str) -> dict[str, dict[str, dict[str, int]]]:
    """File to ``{"DA": {line: hits}, "BRDA": {branch: hits}}`` of an lcov report."""
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: {"DA": {}, "BRDA": {}})
    name = ""
    for line in report.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            name = rest
        elif kind == "DA":
            at, hits = rest.split(",")[:2]
            found[name]["DA"][at] = found[name]["DA"].get(at, 0) + int(hits)
        elif kind == "BRDA":
            at, block, branch, hits = rest.split(",")
            key = f"{at} ({block}.{branch})"
            found[name]["BRDA"][key] = found[name]["BRDA"].get(key, 0) + int(hits.replace("-", "0"))
    return found


def main() -> int:
    """Command line."""
    run()
    totals = {"DA": [0, 0], "BRDA": [0, 0]}
    for name, kinds in sorted(read(REPORT.read_text()).items()):
        if not name.startswith("contracts/"):
            continue
        for kind, hits in kinds.items():
            missed = [at for at, n in hits.items() if n == 0]
            totals[kind][0] += len(hits) - len(missed)
            totals[kind][1] += len(hits)
            if missed:
                print(f"{name}: {'line' if kind == 'DA' else 'branch'} {', '.join(missed)}")
    lines, branches = (done / all_ for done, all_ in (totals["DA"], totals["BRDA"]))
    print(f"lines {lines:.2%} of {totals['DA'][1]}, branches {branches:.2%} of {totals['BRDA'][1]}")
    return 0 if lines >= MIN_LINES and branches >= MIN_BRANCHES else 1


if __name__ == "__main__":
    sys.exit(main())
