"""Run Slither over `contracts/` in an environment of its own and compare with what was triaged.

    python scripts/static.py     install once into build/slither-venv, analyse, fail on anything without a reason

High and Medium findings fail. A Low one needs a reason below; informational ones are style, which `forge fmt` decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "slither-venv"
OUT = ROOT / "build" / "slither-out"
REPORT = ROOT / "build" / "slither.json"
PACKAGE = "slither-analyzer==0.11.6"

REASONS = {
    "timestamp": "windows are seconds by design; a producer moves a deadline by one block at most",
    "reentrancy-events": "the callee is an immutable sibling that calls nobody but siblings; events carry no decision",
    "reentrancy-benign": "the callee is an immutable sibling (Vault, Panel or Court) that never calls strangers (I19)",
    "calls-loop": "at most 64 votes, 3 appeals; every callee is an immutable sibling, and onVote is total (I18)",
    "missing-zero-check": "Protocol computes the constructor arguments, and reverts with Miswired when one is wrong",
}


def install() -> Path:
    """The slither of this checkout."""
    tool = HOME / "bin" / "slither"
    if not tool.exists():
        print(f"installing {PACKAGE} into {HOME.relative_to(ROOT)}", flush=True)
        venv.create(HOME, with_pip=True)
        subprocess.run([HOME / "bin" / "pip", "install", "-q", PACKAGE], check=True)
    return tool


def analyse(tool: Path) -> list[dict[str, str]]:
    """All findings of Low impact or more in our own sources."""
    REPORT.unlink(missing_ok=True)
    command = [
        *(str(tool), ".", "--compile-force-framework", "foundry", "--foundry-out-directory", str(OUT)),
        *("--filter-paths", "node_modules|tests", "--exclude-informational", "--exclude-optimization"),
        *("--json", str(REPORT)),
    ]
    path = os.pathsep.join([str(ROOT / "node_modules" / ".bin"), os.environ["PATH"]])
    cache = str(ROOT / "build" / "slither-cache")
    env = os.environ | {"PATH": path, "FOUNDRY_OUT": str(OUT), "FOUNDRY_CACHE_PATH": cache}
    done = subprocess.run(
        command, cwd=ROOT, check=False, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if not REPORT.exists():
        sys.exit(done.stdout.decode(errors="replace")[-3000:])
    found: list[dict[str, str]] = json.loads(REPORT.read_text())["results"].get("detectors", [])
    return found


def main() -> int:
    """Command line."""
    found = analyse(install())
    counts = Counter((f["impact"], f["check"]) for f in found)
    bad = [f for f in found if f["impact"] in ("High", "Medium") or f["check"] not in REASONS]
    for (impact, check), n in sorted(counts.items()):
        print(f"{impact:7} {n:3} {check}: {REASONS.get(check, 'NOT TRIAGED')}")
    for finding in bad:
        print(finding["description"])
    high, medium = (sum(f["impact"] == kind for f in found) for kind in ("High", "Medium"))
    print(f"{high} High, {medium} Medium, {len(found) - high - medium} Low, {len(bad)} without a reason")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
