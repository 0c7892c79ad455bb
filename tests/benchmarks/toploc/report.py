"""How the benchmark measures, and where it keeps what it measured: ``build/bench/toploc.json``, one key per row."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATH = Path("build/bench/toploc.json")


def interleaved(functions: Sequence[Callable[[], Any]], repeats: int = 7, inner: int = 1) -> list[float]:
    """Least CPU seconds of one call of each function; the functions take turns, so that load hits all alike."""
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.process_time()
            for _ in range(inner):
                function()
            best[i] = min(best[i], (time.process_time() - start) / inner)
    return best


def save(key: str, value: Any) -> None:
    """Write one row's figures beside those of the other rows."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    with PATH.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parts may run side by side
        rows = json.loads(PATH.read_text()) if PATH.exists() else {}
        rows["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        rows[key] = value
        PATH.write_text(json.dumps(rows, indent=1) + "\n")


def judge(name: str, got: float, wanted: float, at_least: bool = True) -> str:
    """One printed line: the figure, what it must reach, and whether it does."""
    ok = got >= wanted if at_least else got <= wanted
    return f"{'ok  ' if ok else 'MISS'} {name}: {got:.4g} (must be {'>=' if at_least else '<='} {wanted:g})"
