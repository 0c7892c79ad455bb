"""The merge of many updates in bounded memory, and versions by their updates: bytes against the whole."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from commonweight.core import fixed
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec
from commonweight.shardcast.deltas import merge_version, publish_update, upgrade
from commonweight.shardcast.fetch import Library
from commonweight.shardcast.merging import SPAN, Part, memory_bound, merge_stored
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store
from commonweight.shardcast.versions import VersionBook, initial

RULE = MergeSpec()
HERE = Path(__file__).resolve().parent


def random_lanes(count: int, limit: int, seed: int) -> fixed.Lanes:
    """Lanes of ``count`` parameters, the same on every machine."""
    return np.random.default_rng(seed).integers(-limit, limit, count).astype(np.int32)


def deltas(folder: Path, count: int, trainers: int = 4) -> dict[str, Any]:
    """Bytes that a node receives for one version, per codec, against the canonical version and float32 weights."""
    found: dict[str, Any] = {"parameters": count, "trainers": trainers}
    for name in ("int8", "int4", "2bit", "topk8", "topk"):
        theirs, ours = Store(folder / f"{name}-a"), Store(folder / f"{name}-b")
        books = VersionBook(folder / f"{name}-a" / "versions"), VersionBook(folder / f"{name}-b" / "versions")
        version = ModelVersion(random_lanes(count, 1 << 24, 1), random_lanes(count, 1 << 20, 2))
        for store in (theirs, ours):
            base = initial(store.put(version.encode()), count, 1, RULE)
        rng = np.random.default_rng(3)
        parts = [
            publish_update(theirs, np.rint(rng.normal(0, 400, count)).astype(np.int32), name, base.root)
            for _ in range(trainers)
        ]
        made = merge_version(theirs, books[0], base, parts, 1)
        with ArtifactServer(theirs, "127.0.0.1", 0) as server:
            library = Library(ours, lambda server=server: [server.url], allow_private=True)
            start = time.monotonic()
            done = upgrade(library, books[1], made)
            seconds = time.monotonic() - start
        if done.via != "delta" or not ours.has(made.root):
            raise RuntimeError(f"{name}: came {done.via}, {done.problems}")
        found[name] = {
            "received": done.received,
            "of_canonical": done.received / made.length,
            "of_float32": done.received / (4 * count),
            "seconds": seconds,
        }
    return found


def merge(folder: Path, count: int, updates: int = 64, distinct: int = 8, trim: int = 0) -> dict[str, Any]:
    """Merge in a process of its own, once per thread count; ``distinct`` update artifacts stand for all of them."""
    store = Store(folder / "merge")
    base = store.put(ModelVersion(random_lanes(count, 1 << 24, 1), random_lanes(count, 1 << 20, 2)).encode())
    roots = [
        store.put(fixed.to_bytes(random_lanes(count, fixed.UPDATE_LIMIT, 10 + i))) for i in range(distinct)
    ]
    runs = [_merge_in(folder, base, roots, count, updates, trim, threads) for threads in (1, 4)]
    if len({run["root"] for run in runs}) != 1:
        raise RuntimeError(f"roots differ: {runs}")
    moved = 4.0 * count * (updates + 4)
    best = min(run["seconds"] for run in runs)
    bandwidth, cpu = _bandwidth(), min(run["cpu"] for run in runs)
    return {
        "parameters": count, "updates": updates, "distinct_updates": distinct, "root": runs[0]["root"], "runs": runs,
        "bound": memory_bound(updates, trim), "seconds": best, "bytes_per_second": moved / best,
        "memory_bandwidth": bandwidth, "of_bandwidth": moved / best / bandwidth,
        "bytes_per_cpu_second": moved / cpu, "cpu_of_bandwidth": moved / cpu / bandwidth,
    }  # fmt: skip


def _merge_in(
    folder: Path, base: bytes, roots: list[bytes], count: int, updates: int, trim: int, threads: int
) -> dict[str, Any]:
    job = {
        "store": str(folder / "merge"),
        "base": base.hex(),
        "roots": [r.hex() for r in roots],
        "count": count,
    }
    root = HERE.parents[2]
    env = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    env |= {"PYTHONPATH": f"{root}:{root / 'offchain'}", "PATH": "/usr/bin:/bin"}
    code = "from tests.benchmarks.shardcast.merging import work; work()"
    text = json.dumps({**job, "updates": updates, "trim": trim, "threads": threads})
    done = subprocess.run(
        [sys.executable, "-c", code, text], env=env, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def work() -> None:
    """In a process of its own: one merge; says its root, its time and how much memory it took beyond the start."""
    job = json.loads(sys.argv[1])
    store = Store(Path(job["store"]))
    roots = [bytes.fromhex(text) for text in job["roots"]]
    parts = [Part(roots[i % len(roots)]) for i in range(job["updates"])]
    base = bytes.fromhex(job["base"])
    for root in (base, *roots):  # verified as a fetch does it, so that the time is that of merging
        for at in range(0, store.length(root), 4 * SPAN):
            store.read_range(root, at, min(4 * SPAN, store.length(root) - at))
    before = _peak()
    start, cpu = time.monotonic(), time.process_time()
    made = merge_stored(store, base, parts, job["count"], RULE, job["trim"])
    facts = {"root": made.hex(), "seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    print(json.dumps({**facts, "threads": job["threads"], "memory": _peak() - before}))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _bandwidth() -> float:
    """Bytes per second read and written by a large copy on one core, best of five."""
    source = np.ones(1 << 25, dtype=np.int32)
    target, best = np.empty_like(source), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best
