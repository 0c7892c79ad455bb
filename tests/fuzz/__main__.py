"""``python -m tests.fuzz TARGET RUNS [TOTAL]``: fuzz one target with atheris; findings go to ``build/fuzz/TARGET``.

An execution may take 1 s of CPU time (on a busy machine the clock says little); one allocation, and the whole process
beside the libraries it loads, 512 MiB. With TOTAL only what ``build/fuzz/report.json`` lacks to it is run, at most
RUNS: corpus and record are kept, so a long run can be cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import atheris

BASE_MB = {False: 0, True: 512}
"""By whether a target loads large libraries: those are in memory before the first input."""
REPORT = Path("build/fuzz/report.json")
SECONDS = 1.0
NOTE_EVERY = 20_000
"""Executions that a run which is killed may leave out of the record."""


def main() -> None:
    """Run one target; the last line says how many executions a second there were."""
    name, runs = sys.argv[1], int(sys.argv[2])
    if len(sys.argv) > 3:
        done = _rows().get(name, {"executions": 0})["executions"]
        runs = min(runs, int(sys.argv[3]) - done)
        if runs <= 0:
            print(f"fuzz {name}: {done} executions before", flush=True)
            return
    # Else the compiled kernels would be loaded amid the run, which takes longer than an execution may.
    os.environ.setdefault("COMMONWEIGHT_NUMBA", "on")
    with atheris.instrument_imports(include=["commonweight", "tests.fuzz"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import SMALL, TARGETS, run
    folder = Path("build/fuzz") / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds()[name]):
        (folder / "corpus" / f"seed-{i}").write_bytes(seed)
    target = TARGETS[name]
    # The first call loads what a target imports lazily, before memory and time are watched.
    run(target, seeds()[name][0])
    begun, noted, count = time.monotonic(), time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal count, noted
        start = time.process_time()
        run(target, data)
        if time.process_time() - start > SECONDS:
            raise AssertionError(f"an execution took more than {SECONDS:g} s")
        count += 1
        if count % NOTE_EVERY == 0 or count == runs:
            now = time.monotonic()
            _note(name, (count - 1) % NOTE_EVERY + 1, now - noted)
            noted = now
        if count == runs:
            seconds = now - begun
            print(f"fuzz {name}: {count} in {seconds:.0f} s, {count / seconds:.0f} a second", flush=True)

    options = [
        f"-runs={runs}",
        "-timeout=60",
        "-max_len=4096",
        "-malloc_limit_mb=512",
        f"-rss_limit_mb={512 + BASE_MB[name not in SMALL]}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=0",
        "-verbosity=0",
        str(folder / "corpus"),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    return rows


def _note(name: str, count: int, seconds: float) -> None:
    """Add some executions to what all runs of this checkout came to."""
    with REPORT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # targets may run side by side
        rows = _rows()
        before = rows.get(name, {"executions": 0, "seconds": 0.0})
        executions, took = before["executions"] + count, before["seconds"] + seconds
        rows[name] = {
            "executions": executions,
            "seconds": round(took, 1),
            "a_second": round(executions / took),
        }
        scratch = REPORT.with_suffix(".new")
        scratch.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        scratch.replace(REPORT)


if __name__ == "__main__":
    main()
