"""``python -m tests.fuzz TARGET RUNS``: fuzz one target with atheris; findings go to ``build/fuzz/TARGET``.

An execution may take 1 s; one allocation, and the whole process beside the libraries it loads, 512 MiB.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import atheris

BASE_MB = {False: 0, True: 512}
"""torch and the fuzzer's own tables are in memory before the first input."""


def main() -> None:
    """Run one target; the last line says how many executions a second there were."""
    name, runs = sys.argv[1], int(sys.argv[2])
    with atheris.instrument_imports(include=["commonweight", "tests.fuzz"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import NEED_TORCH, TARGETS, run
    folder = Path("build/fuzz") / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds()[name]):
        (folder / "corpus" / f"seed-{i}").write_bytes(seed)
    target = TARGETS[name]
    # The first call loads what a target imports lazily, before memory and time are watched.
    run(target, seeds()[name][0])
    start, count = time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        run(target, data)
        if count == runs:
            seconds = time.monotonic() - start
            _report(name, count, seconds)

    options = [
        f"-runs={runs}",
        "-timeout=1",
        "-max_len=4096",
        "-malloc_limit_mb=512",
        f"-rss_limit_mb={512 + BASE_MB[name in NEED_TORCH]}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=0",
        "-verbosity=0",
        str(folder / "corpus"),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def _report(name: str, count: int, seconds: float) -> None:
    """Print how fast it was, and add it to what all runs of this checkout came to."""
    print(f"fuzz {name}: {count} executions in {seconds:.0f} s, {count / seconds:.0f} a second", flush=True)
    path = Path("build/fuzz/report.json")
    rows = json.loads(path.read_text()) if path.exists() else {}
    before = rows.get(name, {"executions": 0, "seconds": 0.0})
    rows[name] = {
        "executions": before["executions"] + count,
        "seconds": round(before["seconds"] + seconds, 1),
        "a_second": round(count / seconds),
    }
    path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
