"""``make bench-shardcast``: every row of the comparison, printed and written to build/bench/shardcast.json.

``python -m tests.benchmarks.shardcast [ROW ...]`` runs some rows: peer, links, scale, deltas, codecs, hostile,
fuzz, merge.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import hostile, links, loopback, merging, quality
from .simulation import Swarm, bound

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "build" / "bench" / "shardcast.json"
BENCH_PYTHON = ROOT / "build" / "bench-venv" / "bin" / "python"
PEER = "shardcast==0.3.2"
SEED = 20250711
GIB = 1 << 30


def peer_python() -> Path:
    """The published package in an environment of its own."""
    if not BENCH_PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BENCH_PYTHON.parent.parent)], check=True)
    have = subprocess.run([str(BENCH_PYTHON), "-c", "import shardcast"], check=False, capture_output=True)
    if have.returncode:
        subprocess.run([str(BENCH_PYTHON), "-m", "pip", "install", "-q", PEER], check=True)
    return BENCH_PYTHON


def row_peer(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """1 GiB from an origin over 3 relays to 4 clients: ours, the package, a plain copy; in turn, best of each."""
    python, file = peer_python(), folder / "file"
    loopback.make_file(file, args.size, SEED)
    runs: dict[str, list[loopback.Outcome]] = {"ours": [], "peer": [], "copy": []}
    for _ in range(args.repeats):
        runs["ours"].append(loopback.run_ours(file, folder))
        runs["peer"].append(loopback.run_peer(file, folder, python))
        runs["copy"].append(loopback.run_copy(file, folder))
    file.unlink()
    best = {name: min(found, key=lambda o: o.seconds) for name, found in runs.items()}
    ours, peer, copy = best["ours"], best["peer"], best["copy"]
    return {
        "size": args.size, "repeats": args.repeats, **{name: asdict(o) for name, o in best.items()},
        "of_peer": ours.seconds / peer.seconds, "cpu_of_peer": ours.cpu / peer.cpu,
        "of_copy": ours.seconds / copy.seconds, "memory_of_peer": ours.memory / peer.memory,
        "all": {name: [o.seconds for o in found] for name, found in runs.items()},
    }  # fmt: skip


def row_links(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """200 MB to 11 nodes over shaped uplinks, in namespaces where permitted; ours and the package in turn."""
    python, file = peer_python(), folder / "file"
    how, lay_out, note = (
        ("rate-limited loopback", links.proxies, "asked for") if args.loopback else links.mode()
    )
    print(f"links: {how}{': ' if note else ''}{note}", flush=True)
    loopback.make_file(file, args.links_size, SEED)
    found: dict[str, Any] = {"size": args.links_size, "mode": how, "note": note}
    for name, link in (("fast", links.FAST), ("rough", links.ROUGH)):
        runs = [links.run_ours(file, folder, link, lay_out) for _ in range(args.repeats)]
        ours = min(runs, key=lambda o: o.seconds)
        peer = links.run_peer(file, folder, python, link, lay_out)
        low = link.bound(args.links_size)
        found[name] = {
            "bound": low, "bound_two_tiers": link.two_tiers(args.links_size), "ours": asdict(ours),
            "peer": asdict(peer), "of_bound": ours.seconds / low, "of_peer": ours.seconds / peer.seconds,
            "all": [o.seconds for o in runs],
        }  # fmt: skip
    file.unlink()
    return found


def row_scale(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same swarm from 4 to 64 nodes in virtual time: the real decisions on modelled links."""
    found: dict[str, Any] = {"virtual_time": True, "size": args.links_size, "uplink_mbit": 200}
    for nodes in (4, 8, 16, 32, 64):
        ups, downs = [25e6] * nodes, [1.25e9] * nodes
        swarm = Swarm(args.links_size, ups, downs, seed=SEED)
        seconds = swarm.run()
        sent = [node.sent / args.links_size for node in swarm.nodes]
        found[str(nodes)] = {
            "seconds": seconds, "of_bound": seconds / bound(args.links_size, ups, downs), "origin_copies": sent[0],
            "most_sent": max(sent[1:]),
            "received": sum(n.received for n in swarm.nodes) / (nodes - 1) / args.links_size,
        }  # fmt: skip
    found["growth_4_to_64"] = found["64"]["seconds"] / found["4"]["seconds"]
    return found


def row_deltas(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of one version by its updates, per codec."""
    return merging.deltas(folder, 1 << 20)


def row_codecs(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Loss after some rounds of training with updates in each codec, residuals carried."""
    return quality.compare()


def row_hostile(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A quarter of the relays lies or stalls; 200 half-open and 200 slow connections."""
    file = folder / "file"
    loopback.make_file(file, 64 << 20, SEED)
    calm = [hostile.swarm(file, folder, False) for _ in range(args.repeats)]
    storm = [hostile.swarm(file, folder, True) for _ in range(args.repeats)]
    file.unlink()
    best = [min(runs, key=lambda r: r["seconds"]) for runs in (calm, storm)]
    ratio = best[1]["seconds"] / best[0]["seconds"]
    return {"honest": best[0], "hostile": best[1], "ratio": ratio, "connections": hostile.connections(folder)}


def row_fuzz(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Malformed and well-formed requests in the shape of each route."""
    return {"cases_per_route": args.cases, "server_errors": hostile.fuzz(args.cases)}


def row_merge(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """64 updates merged in a process of its own."""
    return {
        "mean": merging.merge(folder, args.parameters),
        "trimmed": merging.merge(folder, min(args.parameters, 1 << 21), trim=4),
    }


ROWS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "scale": row_scale,
    "deltas": row_deltas,
    "codecs": row_codecs,
    "hostile": row_hostile,
    "merge": row_merge,
    "peer": row_peer,
    "links": row_links,
    "fuzz": row_fuzz,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-shardcast", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"rows to run: {', '.join(ROWS)}; all if none is named")
    parser.add_argument("--size", type=int, default=GIB, help="bytes of the file against the peer")
    parser.add_argument("--links-size", type=int, default=200_000_000, help="bytes over slow links")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each row that takes turns")
    parser.add_argument(
        "--loopback", action="store_true", help="rate-limited loopback even where namespaces work"
    )
    parser.add_argument("--cases", type=int, default=10_000, help="fuzzed requests per route")
    parser.add_argument("--parameters", type=int, default=1 << 24, help="parameters of the merged model")
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in args.rows or ROWS:
        base = _roomy(4 * args.size if name == "peer" else 4 * GIB)
        with tempfile.TemporaryDirectory(dir=base, prefix="bench-") as folder:
            start = time.monotonic()
            row = ROWS[name](Path(folder), args)
        row |= {
            "seed": SEED,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        }
        results[name] = {**row, "took": time.monotonic() - start}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(results, indent=1) + "\n")


def _roomy(size: int) -> str:
    """A memory file system with room for all copies, otherwise the checkout's build folder."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 * size:
        return str(memory)
    (ROOT / "build").mkdir(exist_ok=True)
    return str(ROOT / "build")


if __name__ == "__main__":
    main()
