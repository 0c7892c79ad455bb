"""Run the measurements, print them, and write build/bench/rl.json with a key per row of the table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from typing import Any

from .common import ROOT
from .table import table

PARTS = ("parity", "throughput", "verifiability", "liveness", "adversaries", "asynchrony", "survival")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only these")
    chosen = parser.parse_args().only or PARTS
    path = ROOT / "build" / "bench" / "rl.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in chosen:
        print(f"== {part}", flush=True)
        begun = time.monotonic()
        found[part] = import_module(f"{__package__}.{part}").run()
        found[part]["wall_seconds"] = round(time.monotonic() - begun, 1)
        print(json.dumps(found[part], indent=1), flush=True)
        found["table"] = table(found)
        path.write_text(json.dumps(found, indent=1) + "\n")
    for name, row in found["table"].items():
        print(f"{'reached' if row['reached'] else 'MISSED '}  {name:<34} {row['must_reach']}: {row['ours']}")
    print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
