"""The demo: six processes over a small-world graph, two killed with -9, one that comes late; they must end agreed."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ...diloco.topology import build
from .plan import LocalSwarm, free_ports
from .supervisor import Supervisor
from .view import SwarmView, picture

POLL_S = 0.1


@dataclass(slots=True)
class Deed:
    """Something the demo does once the swarm has reached a round."""

    round: int
    what: str
    name: str
    after: str = ""  # a member that must take part by then
    done: bool = False


@dataclass(frozen=True, slots=True)
class SwarmDemo:
    """Options of `demo-diloco`."""

    members: int = 6
    rounds: int = 48
    topology: str = "small-world"
    seed: int = 7
    pace: float = 0.5  # a round takes milliseconds, and a person wants to see it
    deadline: float = 420.0
    runs: Path = Path("runs")
    deeds: tuple[Deed, ...] = field(default_factory=tuple)


def default_deeds(rounds: int, members: int) -> list[Deed]:
    """Kill an ordinary member, let one join, kill the member that leads the session."""
    return [
        Deed(rounds // 8, "kill", f"w{members - 2}"),
        Deed(rounds // 6, "join", f"w{members}"),
        Deed(rounds // 2, "kill", "w0", after=f"w{members}"),
    ]


def run_swarm_demo(plan: SwarmDemo, json_: bool) -> int:
    """Run it; 0 if everything that was promised happened."""
    names = [f"w{i}" for i in range(plan.members + 1)]
    ports = free_ports(len(names))
    swarm = LocalSwarm(
        tuple(zip(names, ports, strict=True)),
        rounds=plan.rounds,
        topology=plan.topology,
        seed=plan.seed,
        pace=plan.pace,
        open_ended=True,
        expect=plan.members,
    )
    folder = plan.runs / time.strftime("diloco-%Y%m%d-%H%M%S")
    supervisor = Supervisor(folder, swarm)
    console = Console(file=sys.stderr if json_ else sys.stdout)
    graph = build(plan.topology, plan.members, degree=swarm.degree, seed=1)
    deeds = list(plan.deeds) or default_deeds(plan.rounds, plan.members)
    with SwarmView(console, f"seed {plan.seed}   {graph.describe()}") as view:
        view.say(f"run folder {folder}; seed {plan.seed}; {graph.describe()}")
        try:
            for name in names[: plan.members]:
                supervisor.start(name)
            watch(supervisor, view, deeds, plan.deadline)
        finally:
            supervisor.close()
    result = judge(supervisor, deeds)
    (folder / "swarm.svg").write_text(picture(supervisor.known), encoding="utf-8")
    (folder / "swarm.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    report(console, result, folder)
    if json_:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


def watch(
    supervisor: Supervisor,
    view: SwarmView,
    deeds: list[Deed],
    deadline_s: float,
) -> None:
    """Follow the swarm until every living member has finished; do the deeds when their round comes, then end it."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        view.events(supervisor.poll())
        reached = max(k.round for k in supervisor.known.values())
        for deed in deeds:
            ready = not deed.after or supervisor.known[deed.after].round >= 0
            if not deed.done and reached >= deed.round and ready:
                perform(supervisor, view, deed)
        if reached >= supervisor.swarm.rounds and all(deed.done for deed in deeds):
            supervisor.finish()
        view.show(supervisor)
        if not supervisor.alive:
            view.events(supervisor.poll())
            return
        time.sleep(POLL_S)
    view.say(f"not finished within {deadline_s:.0f} s")


def perform(supervisor: Supervisor, view: SwarmView, deed: Deed) -> None:
    """Kill or start a member."""
    deed.done = True
    if deed.what == "join":
        supervisor.start(deed.name)
        view.say(f"{deed.name} joins late")
    elif deed.name in supervisor.alive:
        supervisor.kill(deed.name)
        view.say(f"kill -9 {deed.name}")


def judge(supervisor: Supervisor, deeds: list[Deed]) -> dict[str, Any]:
    """What happened, and whether it is what was promised."""
    known = supervisor.known
    finished = {name: k for name, k in known.items() if k.state == "finished"}
    models = {k.model for k in finished.values()}
    anchors = {a["round"]: a for k in known.values() for a in k.anchors}
    by_round: dict[int, set[str]] = {}
    for k in known.values():
        for anchor in k.anchors:
            by_round.setdefault(anchor["round"], set()).add(anchor["root"])
    joiners = [d.name for d in deeds if d.what == "join"]
    losses = [anchors[r]["loss"] for r in sorted(anchors)]
    checks = {
        "survivors_finished": len(finished) >= 2 and not [n for n, k in known.items() if k.state == "failed"],
        "final_models_agree": len(models) == 1,
        "anchors_agree": bool(by_round) and all(len(roots) == 1 for roots in by_round.values()),
        "joiners_recovered": all(known[n].recovered is not None for n in joiners),
        "deeds_done": all(d.done for d in deeds),
        "loss_fell": len(losses) > 1 and losses[-1] < losses[0] - 0.2,
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "model": next(iter(models), ""),
        "first_loss": losses[0] if losses else None,
        "final_loss": losses[-1] if losses else None,
        "finished": sorted(finished),
        "killed": sorted(n for n, k in known.items() if k.state == "killed"),
        "joined": joiners,
        "recoveries": {n: k.recovered for n, k in known.items() if k.recovered},
        "longest_round_s": round(longest_round(supervisor), 2),
        "bytes_sent": {n: k.sent for n, k in known.items()},
    }


def longest_round(supervisor: Supervisor) -> float:
    """The longest time any member needed for a round: what a death costs the others."""
    longest = 0.0
    for name in supervisor.known:
        path = supervisor.folder / f"{name}.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if '"event": "round"' in line:
                    longest = max(longest, json.loads(line)["seconds"])
    return longest


def report(console: Console, result: dict[str, Any], folder: Path) -> None:
    """The closing lines."""
    for name, passed in result["checks"].items():
        console.print(f"{'ok ' if passed else 'NOT'} {name.replace('_', ' ')}", highlight=False)
    if result["final_loss"] is not None:
        console.print(
            f"validation loss {result['first_loss']:.4f} to {result['final_loss']:.4f}; longest round "
            f"{result['longest_round_s']} s; killed {', '.join(result['killed']) or 'nobody'}; "
            f"joined {', '.join(result['joined']) or 'nobody'}",
            highlight=False,
        )
    console.print(f"plot {folder / 'swarm.svg'}, figures {folder / 'swarm.json'}", highlight=False)
