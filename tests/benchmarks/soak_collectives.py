"""A swarm of real processes under kill -9, hangs and restarts for minutes: it never stops and its roots agree.

``python -m tests.benchmarks.soak_collectives [--minutes 10] [--every 10] [--seed N]``: about every ``--every``
seconds one member is killed and started again, or stopped and woken later. Ends with exit 1 when two members
settled one round on different roots, when no round passed for a minute, or when the swarm does not come together
again afterwards. Writes build/bench/collectives_soak.json.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.integration.collectives_swarm import Swarm, Worker, free_port

NAMES = ("ada", "bob", "cyd", "dan", "eve", "fay")
ROOT = Path(__file__).resolve().parents[2]


class Soak:
    """The swarm, what was done to it, and what its members said."""

    def __init__(self, swarm: Swarm, seed: int) -> None:
        self.swarm, self.random = swarm, random.Random(seed)
        self.ports = {name: free_port() for name in NAMES}
        self.workers: dict[str, Worker] = {}
        self.former: list[Worker] = []
        self.stopped: set[str] = set()
        self.kills = self.hangs = 0
        for name in NAMES:
            self.start(name, first=True)

    def start(self, name: str, first: bool = False) -> None:
        arguments = [word for port in self.ports.values() for word in ("--contact", str(port))]
        arguments += ["--port", str(self.ports[name]), "--rounds", "1000000000", "--pause", "0.2"]
        arguments += ["--expect", str(len(NAMES)) if first else "1"]
        if first and name == NAMES[0]:
            arguments.append("--founder")
        self.workers[name] = Worker(name, arguments, self.swarm.token)
        self.swarm.workers[f"{name}-{len(self.former)}"] = self.workers[name]

    def disturb(self) -> str:
        """Kill and restart, stop, or wake somebody."""
        name = self.random.choice(NAMES)
        if self.stopped and (name in self.stopped or len(self.stopped) > 1):
            name = name if name in self.stopped else sorted(self.stopped)[0]
            self.wake(name)
            return f"woke {name}"
        if self.random.random() < 0.7:
            worker = self.workers[name]
            worker.process.kill()
            worker.process.wait()
            self.former.append(worker)
            self.start(name)
            self.kills += 1
            return f"killed {name}"
        self.workers[name].process.send_signal(signal.SIGSTOP)
        self.stopped.add(name)
        self.hangs += 1
        return f"stopped {name}"

    def wake(self, name: str) -> None:
        self.stopped.discard(name)
        self.workers[name].process.send_signal(signal.SIGCONT)

    def everybody(self) -> list[Worker]:
        return [*self.former, *self.workers.values()]

    def roots(self) -> dict[int, set[str]]:
        """Roots settled on, by round."""
        out: dict[int, set[str]] = {}
        for worker in self.everybody():
            for event in worker.events("round"):
                out.setdefault(event["number"], set()).add(event["root"])
        return out

    def is_together(self) -> bool:
        last = [(w.events("round") or [{"members": []}])[-1] for w in self.workers.values()]
        return all(len(event["members"]) == len(NAMES) for event in last)


def run(soak: Soak, seconds: float, every: float) -> dict[str, Any]:
    for worker in soak.workers.values():
        worker.round(1)
    began = time.monotonic()
    problems, seen, moved = [], 1, began
    while time.monotonic() - began < seconds:
        time.sleep(soak.random.uniform(0.5, 1.5) * every)
        did, rounds = soak.disturb(), max(soak.roots())
        moved, seen = (time.monotonic(), rounds) if rounds > seen else (moved, seen)
        if time.monotonic() - moved > 60:
            problems.append(f"no round passed for a minute after round {seen}")
            break
        print(f"{time.monotonic() - began:6.0f} s  round {rounds:5}  {did}", flush=True)
    for name in sorted(soak.stopped):
        soak.wake(name)
    deadline = time.monotonic() + 60
    while not soak.is_together() and time.monotonic() < deadline:
        time.sleep(0.2)
    if not soak.is_together():
        problems.append("the swarm did not come together again")
    roots = soak.roots()
    problems += [f"round {n} was settled on {len(r)} roots" for n, r in roots.items() if len(r) > 1]
    recoveries = [e["recovery"] for w in soak.everybody() for e in w.events("reduced") if e["recovery"]]
    return {
        "minutes": round((time.monotonic() - began) / 60, 2),
        "members": len(NAMES),
        "kills": soak.kills,
        "hangs": soak.hangs,
        "rounds": max(roots),
        "interrupted_reductions": len(recoveries),
        "recovery_s": {"median": median(recoveries), "max": max(recoveries)} if recoveries else None,
        "problems": problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=20240611)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with Swarm() as swarm:
        report = run(Soak(swarm, options.seed), options.minutes * 60, options.every) | {"seed": options.seed}
    target = ROOT / "build" / "bench" / "collectives_soak.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
