"""Our all-reduce beside gloo's and PCCL's in one run, its error beside PCCL's, and codecs on a 100 Mbit/s link.

``python -m tests.benchmarks.bench_collectives [--quick]`` prints the table and writes build/bench/collectives.json.
All sides run in turn inside the same processes; a repetition's time is its slowest peer's, and a figure is the best
of the repetitions (the median stands beside it), because load on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.collectives.links import shaped
from tests.benchmarks.collectives.peers import Missing, pccl_site
from tests.benchmarks.collectives.quiet import undisturbed

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SEED = 20240611
RATE = "100mbit"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Bench:
    """Starts peers and gathers what they measured."""

    def __init__(self, site: Path | None) -> None:
        self.site = site
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PCCL_LOG_LEVEL": "ERROR"}
        path = [str(ROOT), *([str(site)] if site else [])]
        self.environment["PYTHONPATH"] = os.pathsep.join(path)

    def run(
        self,
        size: int,
        count: int,
        sides: list[str],
        repetitions: int,
        seal: str,
        spaces: list[str] | None = None,
        errors: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """Per side: best and median seconds, CPU seconds of all peers, bytes sent by peer 0, error."""
        hosts = [f"10.77.0.{i + 1}" if spaces else "127.0.0.1" for i in range(size)]
        master = self._master() if any(s.startswith("pccl") for s in sides) else None
        config: dict[str, Any] = {
            "size": size,
            "count": count,
            "sides": sides,
            "repetitions": repetitions,
            "seal": seal,
            "seed": SEED,
            "errors": errors,
            "leader": hosts[0],
            "port": 29500 if spaces else free_port(),
            "gloo_port": 29501 if spaces else free_port(),
            "pccl_master": master[1] if master else "",
        }
        peers = []
        try:
            for rank in range(size):
                inside = ["ip", "netns", "exec", spaces[rank]] if spaces else []
                own = json.dumps({**config, "rank": rank, "host": hosts[rank]})
                command = [*inside, sys.executable, "-m", "tests.benchmarks.collectives.peer", own]
                peers.append(self._start(command))
            outputs = [self._output(p) for p in peers]
        finally:
            for peer in [*peers, *([master[0]] if master else [])]:
                peer.kill()
                peer.wait()
        return {side: self._combine([o[side] for o in outputs]) for side in sides}

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=tempfile.TemporaryFile(),  # lives as long as the process
            env=self.environment,
            cwd=ROOT,
        )

    def _output(self, peer: subprocess.Popen[bytes]) -> dict[str, Any]:
        out, _ = peer.communicate(timeout=900)
        lines = [line for line in out.decode().splitlines() if line.startswith('{"')]
        if not lines:
            raise SystemExit(f"a peer ended without a result (exit {peer.returncode}): {out.decode()[-500:]}")
        return dict(json.loads(lines[-1]))

    def _master(self) -> tuple[subprocess.Popen[bytes], str]:
        address = f"127.0.0.1:{free_port()}"
        code = f"import pccl, time; m = pccl.MasterNode('{address}'); m.run(); time.sleep(3600)"
        return self._start([sys.executable, "-c", code]), address

    @staticmethod
    def _combine(parts: list[dict[str, Any]]) -> dict[str, Any]:
        walls = [max(times) for times in zip(*(p["wall"] for p in parts), strict=True)]
        cpus = [sum(times) for times in zip(*(p["cpu"] for p in parts), strict=True)]
        return {
            "best_s": round(min(walls), 4),
            "median_s": round(median(walls), 4),
            "cpu_s": round(min(cpus), 4),
            "sent_mb": round(parts[0]["sent"] / 1e6, 2),
            "error": parts[0]["error"],
        }


def ratio(theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, float]:
    """How many times our throughput is theirs, by best and by median time, and by CPU time."""
    return {key: round(theirs[key] / mine[key], 3) for key in ("best_s", "median_s", "cpu_s")}


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}")
    print(f"  {'side':18} {'best s':>8} {'median s':>9} {'CPU s':>7} {'sent MB':>8} {'error':>8}")
    for side, row in rows.items():
        error = "" if row["error"] is None else f"{row['error']:.4f}"
        print(
            f"  {side:18} {row['best_s']:8.3f} {row['median_s']:9.3f} {row['cpu_s']:7.2f} "
            f"{row['sent_mb']:8.1f} {error:>8}"
        )


def throughput(bench: Bench, report: dict[str, Any], counts: list[int], repetitions: int) -> None:
    peer_sides = ["gloo", *(["pccl"] if bench.site else [])]
    for count in counts:
        for size in (2, 4):
            sides = ["none", *peer_sides]
            rows = bench.run(size, count, sides, repetitions if count < 50_000_000 else 5, "sum")
            show(f"all-reduce, {count / 1e6:.0f} M float32, {size} peers, uncompressed", rows)
            key = f"speed_{count // 1_000_000}m_{size}peers"
            report[key] = {"ours": rows["none"], "count": count, "peers": size}
            for side in peer_sides:
                report[key][side] = rows[side]
                report[key][f"ratio_to_{side}"] = got = ratio(rows[side], rows["none"])
                print(
                    f"  throughput, ours / {side}: {got['best_s']:.2f} (best), {got['median_s']:.2f} (median)"
                )


def errors(bench: Bench, report: dict[str, Any], repetitions: int) -> None:
    for size in (2, 4):
        sides = ["int8", "int4", *(["pccl:zero-point", "pccl:min-max"] if bench.site else [])]
        rows = bench.run(size, 25_000_000, sides, repetitions, "sum", errors=True)
        show(f"compressed all-reduce, 25 M float32, {size} peers: relative error", rows)
        report[f"error_int8_{size}peers"] = {"ours": rows, "count": 25_000_000, "peers": size}
        if bench.site:
            best = min(rows["pccl:zero-point"]["error"], rows["pccl:min-max"]["error"])
            share = round(rows["int8"]["error"] / best, 3)
            report[f"error_int8_{size}peers"]["ratio_to_pccl"] = share
            print(f"  int8 error, ours / PCCL's better one: {share:.2f} (target at most 0.50)")


def slow_link(bench: Bench, report: dict[str, Any], count: int) -> None:
    for size in (2, 4):
        with shaped(size, RATE) as spaces:
            if spaces is None:
                print("\nslow link: not measured; it needs root, `ip netns` and `tc`")
                report["slow_link"] = {"missing": "needs root, ip netns and tc"}
                return
            rows = bench.run(size, count, ["none", "int8", "int4"], 4, "hmac", spaces)
        show(
            f"{RATE} uplinks in network namespaces, {count / 1e6:.0f} M float32, {size} peers, tiles sealed",
            rows,
        )
        gains = {c: round(rows["none"]["best_s"] / rows[c]["best_s"], 2) for c in ("int8", "int4")}
        middle = {c: round(rows["none"]["median_s"] / rows[c]["median_s"], 2) for c in ("int8", "int4")}
        print(
            f"  faster than float32: int8 {gains['int8']}x (target 3.5), int4 {gains['int4']}x (target 7); "
            f"by medians {middle['int8']}x and {middle['int4']}x"
        )
        report[f"slow_link_{size}peers"] = {
            "rows": rows,
            "gain": gains,
            "median_gain": middle,
            "rate": RATE,
            "count": count,
        }


def measure(options: argparse.Namespace, report: dict[str, Any]) -> None:
    try:
        site: Path | None = pccl_site(BUILD)
    except Missing as reason:
        site = None
        report["pccl"] = f"not measured: {reason}"
        print(f"PCCL is NOT part of this run: {reason}")
    bench = Bench(site)
    with undisturbed() as how:
        report["scheduling"] = how
        print(f"seed {SEED}; scheduling of all sides: {how}")
        if options.only in (None, "speed"):
            counts = [25_000_000] if options.quick else [25_000_000, 100_000_000]
            throughput(bench, report, counts, 3 if options.quick else 7)
        if options.only in (None, "error"):
            errors(bench, report, 2)
        if options.only in (None, "link"):
            slow_link(bench, report, 25_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="25 M only, fewer repetitions")
    parser.add_argument("--only", choices=["speed", "error", "link"], help="one part")
    options = parser.parse_args()
    target = BUILD / "bench" / "collectives.json"
    report: dict[str, Any] = {}
    if options.only and target.exists():
        report = json.loads(target.read_text())
    report |= {"seed": SEED, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    measure(options, report)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2))
    print(f"\nwritten to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
