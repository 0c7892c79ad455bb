"""`make faults-diloco`: a swarm of real processes loses a member by kill -9 every few seconds, and goes on.

A killed member is started again and rejoins with the state it recovers from a neighbour. Then the same swarm runs
undisturbed for as many rounds. Passes if training never stopped, all roots agreed and the loss is within 2 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from commonweight.cli.swarm.plan import LocalSwarm, free_ports
from commonweight.cli.swarm.supervisor import Supervisor

POLL_S = 0.1
RESTART_S = 1.0


def run(folder: Path, swarm: LocalSwarm, every: float, seconds: float, rounds: int) -> dict[str, Any]:
    """One run until ``seconds`` have passed since the first round, or ``rounds`` are done; ``every`` 0: no kills."""
    names = [name for name, _ in swarm.members]
    supervisor = Supervisor(folder, swarm)
    kills: list[tuple[float, str]] = []
    events: list[tuple[str, dict[str, Any]]] = []
    lives, dead_since = dict.fromkeys(names, 0), {}
    began, killed_at, limit = 0.0, 0.0, time.monotonic() + 2 * seconds + 600
    try:
        for name in names:
            supervisor.start(name)
        while time.monotonic() < limit:
            events += supervisor.poll()
            now, reached = time.monotonic(), max(k.round for k in supervisor.known.values())
            began = began or (now if reached >= 1 else 0.0)
            killed_at = killed_at or began
            over = bool(began) and (now - began >= seconds or reached >= rounds)
            if over:
                supervisor.finish()
                if not supervisor.alive:
                    break
            for name, since in list(dead_since.items()):
                if now - since > RESTART_S and not over:
                    supervisor.start(name)
                    del dead_since[name]
            training = [n for n in names if supervisor.known[n].state == "training"]
            # The next one in turn. The last one that holds the state is spared, and that is not made up for.
            if every and began and not over and now - killed_at > every and len(training) > 1:
                name = min(training, key=lambda n: (lives[n], n))
                lives[name] += 1
                supervisor.kill(name)
                killed_at = now
                kills.append((time.time(), name))
                dead_since[name] = now
            time.sleep(POLL_S)
        events += supervisor.poll()
    finally:
        supervisor.close()
    return judge(supervisor, kills, events)


def judge(
    supervisor: Supervisor, kills: list[tuple[float, str]], events: list[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Figures of a run from its logs."""
    rounds = sorted(e["at"] for _, e in events if e["event"] == "round")
    anchors: dict[int, set[str]] = {}
    losses = {}
    for _, e in events:
        if e["event"] == "anchor":
            anchors.setdefault(e["round"], set()).add(e["root"])
            losses[e["round"]] = e["loss"]
    gaps = [next((r - at for r in rounds if r > at), float("inf")) for at, _ in kills]
    adopted = [e["seconds"] for _, e in events if e["event"] == "adopted"]
    tail = [losses[r] for r in sorted(losses)[-3:]]
    return {
        "kills": len(kills),
        "rounds": len({e["round"] for _, e in events if e["event"] == "round"}),
        "roots_agree": bool(anchors) and all(len(r) == 1 for r in anchors.values()),
        "finished": sorted(n for n, k in supervisor.known.items() if k.state == "finished"),
        "models": sorted({k.model for k in supervisor.known.values() if k.model}),
        "final_loss": statistics.mean(tail) if tail else None,
        "next_round_after_kill_s": {"median": statistics.median(gaps), "longest": max(gaps)}
        if gaps
        else None,
        "recoveries": len(adopted),
        "recovery_s": {"median": statistics.median(adopted), "longest": max(adopted)} if adopted else None,
    }


def main() -> int:
    """Run both, print, write ``build/bench/diloco-faults.json``; 0 if the swarm kept its promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between kills")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument(
        "--pace", type=float, default=1.5, help="seconds that a disturbed round takes at least"
    )
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    names = [f"w{i}" for i in range(options.members)]
    seconds = options.minutes * 60

    def swarm(pace: float) -> LocalSwarm:
        members = tuple(zip(names, free_ports(len(names)), strict=True))
        return LocalSwarm(
            members,
            rounds=int(seconds / options.pace),
            steps=3,
            seed=options.seed,
            pace=pace,
            open_ended=True,
            expect=options.members,
        )

    base = Path("runs") / time.strftime("faults-%Y%m%d-%H%M%S")
    hurt = run(base / "disturbed", swarm(options.pace), options.every, seconds, 10**9)
    print("disturbed", json.dumps(hurt, indent=2), flush=True)
    calm = run(base / "undisturbed", swarm(0.0), 0, 10 * seconds, hurt["rounds"])
    print("undisturbed", json.dumps(calm, indent=2))
    ratio = hurt["final_loss"] / calm["final_loss"] - 1
    result = {"seed": options.seed, "undisturbed": calm, "disturbed": hurt, "loss_above_undisturbed": ratio}
    out = Path("build/bench/diloco-faults.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"loss {ratio:+.2%} on undisturbed after {hurt['kills']} kills; figures {out}")
    good = hurt["roots_agree"] and len(hurt["models"]) == 1 and hurt["finished"] and ratio <= 0.02
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
