"""What the run came to: `summary.json`, the checks that decide the exit status, and the closing table.

The checks compare what everybody should have got by the rules (see `rules`) with balances read from the chain.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...core.state import State, Task, WorkState
from ...nodes import metrics
from ...nodes.story import tokens
from . import rules
from .spectator import Spectator
from .view import spark
from .world import DemoPlan, Participant, World

MIN_LOSS_FALL = 0.15
Json = dict[str, Any]


def summarise(plan: DemoPlan, world: World, spectator: Spectator, seconds: float) -> Json:
    """Everything worth knowing about a finished run, as JSON values; token amounts are decimal strings of wei."""
    state = spectator.state
    task = next(iter(state.tasks.values()))
    losses = spectator.losses(task)
    cheated = cheated_works(world)
    people = {p.name: person(world, state, task, p, cheated) for p in world.people.values()}
    ledger = vault(world)
    results = {name: result(p) for name, p in world.people.items()}
    summary: Json = {
        "attack": plan.attack,
        "seed": plan.seed,
        "task": task.id,
        "spec": task.spec.hex(),
        "rounds": [round_row(task, i, losses) for i in sorted(task.rounds)],
        "bond": str(world.task.economy.bond),
        "loss": {"initial": losses[0], "final": losses[-1], "fall": 1 - losses[-1] / losses[0]},
        "participants": people,
        "vault": ledger,
        "versions": [task.initial.hex(), *((r.model or b"").hex() for _, r in sorted(task.rounds.items()))],
        "final_roots": {name: (r or {}).get("final") for name, r in results.items()},
        "gas": gas(world),
        "training_share": training_share(people),
        "checking_cost": checking_cost(people),
        "version_bytes": version_bytes(people),
        "wall_seconds": round(seconds, 1),
    }
    summary["checks"] = checks(plan, task, summary, results)
    summary["ok"] = all(summary["checks"].values())
    return summary


def result(who: Participant) -> Json | None:
    """The participant's own ``result.json``."""
    path = who.home / "result.json"
    loaded: Json | None = json.loads(path.read_text()) if path.exists() else None
    return loaded


def cheated_works(world: World) -> set[tuple[int, int]]:
    """(round, slot) of the works that the cheater says it forged."""
    records = metrics.read(world.people["trainer-1"].home / "metrics.jsonl")
    return {(r["round"], r["slot"]) for r in records if r["event"] == "train" and r.get("cheated")}


def round_row(task: Task, index: int, losses: list[float]) -> Json:
    """One round: losses before and after, and how its works ended."""
    round_ = task.rounds[index]
    states = [w.state for w in round_.works.values() if w.carried_out]
    return {
        "round": index,
        "loss_before": losses[index],
        "loss_after": losses[index + 1],
        "model": (round_.model or b"").hex(),
        "merged": len(round_.included),
        "accepted": states.count(WorkState.VALID) + states.count(WorkState.DECOY),
        "rejected": states.count(WorkState.HARD) + states.count(WorkState.SOFT),
        "expired": states.count(WorkState.EXPIRED),
        "skipped": round_.skipped,
    }


def person(world: World, state: State, task: Task, who: Participant, cheated: set[tuple[int, int]]) -> Json:
    """One participant: what it did, what the rules give, what the chain shows."""
    economy = world.task.economy
    works = [(r.index, w) for r in task.rounds.values() for w in r.works.values() if w.trainer == who.address]
    seats = [s.id for s in state.seats.values() if s.owner == who.address]
    works = [(i, w) for i, w in works if w.carried_out]
    merges = sum(
        r.proposal is not None and not r.skipped and r.proposal.by == who.address
        for r in task.rounds.values()
    )
    expected = rules.Rules(state, task, economy).gain(who.address, seats)
    if who.role == "publisher":
        expected -= rules.Rules(state, task, economy).spent()
    chain = world.chain
    staked = sum(
        int(chain.view("Vault", "pot", chain.addresses["Panel"], seat.to_bytes(32, "big"))) for seat in seats
    )
    holds = chain.token_balance(who.address) + int(chain.view("Vault", "free", who.address)) + staked
    states = [w.state for _, w in works]
    forged = [w for i, w in works if (i, w.slot) in cheated and who.name == "trainer-1"]
    return {
        "role": who.role,
        "address": "0x" + who.address.hex(),
        "leases": len(works),
        "accepted": states.count(WorkState.VALID) + states.count(WorkState.DECOY),
        "rejected": states.count(WorkState.HARD) + states.count(WorkState.SOFT),
        "expired": states.count(WorkState.EXPIRED),
        "decoys": states.count(WorkState.DECOY),
        "late": sum(w.origin is not None for _, w in works),
        "merges_proposed": merges,
        "forged": len(forged),
        "paid_for_forged": str(sum(w.paid for w in forged)),
        "paid": str(sum(w.paid for _, w in works) + fees_paid(state, seats) + merges * economy.merge_reward),
        "bond_lost": str(sum(w.lost for _, w in works)),
        "bond_lost_forged": str(sum(w.lost for w in forged)),
        "expected_gain": str(expected),
        "gain": str(holds - who.minted),
        **timings(who),
    }


def fees_paid(state: State, seats: list[int]) -> int:
    """Fees and finders' shares that the chain says were paid to these seats."""
    return sum(poll.settled[s][0] for poll in state.polls.values() for s in seats if s in poll.settled)


def timings(who: Participant) -> Json:
    """Seconds of a process: alive, training, checking (wall; of which CPU)."""
    records = metrics.read(who.home / "metrics.jsonl")
    if not records:
        return {}
    spans: dict[str, list[Json]] = defaultdict(list)
    for record in records:
        spans[record["event"]].append(record)
    alive = records[-1]["time"] - records[0]["time"]
    out: Json = {"alive_seconds": round(alive, 1)}
    for event in ("train", "check", "judge", "merge"):
        if spans[event]:
            out[f"{event}_seconds"] = round(sum(r["seconds"] for r in spans[event]), 2)
            out[f"{event}_cpu_seconds"] = round(
                sum(r["cpu"] + r.get("child_cpu", 0.0) for r in spans[event]), 2
            )
    moved = [r for r in spans["merge"] if "via" in r]
    if moved:
        out["bytes_per_version"] = sum(r["received"] for r in moved) // len(moved)
        out["full_version_bytes"] = max(r["full"] for r in moved)
        out["versions_via"] = dict(Counter(r["via"] for r in moved))
    return out


def version_bytes(people: dict[str, Json]) -> Json:
    """Bytes that a participant received for a version, at most and on average, beside those of a whole one."""
    each = [p["bytes_per_version"] for p in people.values() if "bytes_per_version" in p]
    full = max((p["full_version_bytes"] for p in people.values() if "full_version_bytes" in p), default=0)
    return {"mean": sum(each) // max(1, len(each)), "most": max(each, default=0), "full": full}


def training_share(people: dict[str, Json]) -> float:
    """Share of the honest trainers' lives that was spent training."""
    honest = [
        p for p in people.values() if p["role"] == "trainer" and not p["forged"] and "train_seconds" in p
    ]
    alive = sum(p["alive_seconds"] for p in honest)
    return round(sum(p["train_seconds"] for p in honest) / alive, 4) if alive else 0.0


def checking_cost(people: dict[str, Json]) -> float:
    """CPU of one validator's checks as a share of the CPU of all training it checked."""
    trained = sum(p.get("train_cpu_seconds", 0.0) for p in people.values())
    checkers = [p.get("check_cpu_seconds", 0.0) for p in people.values() if p["role"] == "validator"]
    return round(sum(checkers) / len(checkers) / trained, 4) if checkers and trained else 0.0


def vault(world: World) -> Json:
    """The Vault's ledger against its token balance."""
    chain = world.chain
    owed, holds = int(chain.view("Vault", "owed")), chain.token_balance(chain.addresses["Vault"])
    burnt = int(chain.view("Vault", "free", bytes(18) + b"\xde\xad"))
    return {"owed": str(owed), "balance": str(holds), "burnt": str(burnt), "balances": owed == holds}


def gas(world: World) -> Json:
    """Gas per contract call over every transaction of the chain."""
    used: dict[str, list[int]] = defaultdict(list)
    for tx in world.chain.transactions(0, world.chain.head().number):
        if tx.contract and tx.function and tx.status:
            used[f"{tx.contract}.{tx.function}"].append(tx.gas_used)
    return {
        name: {"calls": len(v), "min": min(v), "mean": sum(v) // len(v), "max": max(v)}
        for name, v in sorted(used.items())
    }


def checks(plan: DemoPlan, task: Task, summary: Json, results: dict[str, Json | None]) -> dict[str, bool]:
    """What must hold for exit status 0."""
    people = summary["participants"].items()
    cheater = "trainer-1" if plan.attack != "none" else None
    honest = [p for name, p in people if name != cheater]
    out = {
        "loss_fell_15_percent": summary["loss"]["fall"] >= MIN_LOSS_FALL,
        "honest_paid_exactly": all(p["gain"] == p["expected_gain"] for _, p in people),
        "honest_work_accepted": all(
            p["accepted"] == p["leases"] > 0 for p in honest if p["role"] == "trainer"
        ),
        "no_honest_bond_shrank": all(p["bond_lost"] == "0" for p in honest),
        "same_final_root": {r["final"] if r and r["agrees"] else None for r in results.values()}
        == {task.latest.hex()},
        "ledger_balances": bool(summary["vault"]["balances"]),
        "all_rounds_ran": len(task.rounds) == plan.rounds
        and not any(r.skipped for r in task.rounds.values()),
    }
    if cheater is not None:
        out |= cheat_checks(summary["participants"][cheater], plan, summary)
    return out


def cheat_checks(cheater: Json, plan: DemoPlan, summary: Json) -> dict[str, bool]:
    """The cheater was found each time, paid nothing for it and lost its bonds."""
    bond = int(summary["bond"])
    forged = cheater["forged"]
    lost = int(cheater["bond_lost_forged"])
    possible = plan.rounds if plan.attack != "stale" else plan.rounds - 1
    return {
        "cheater_cheated": forged > 0 or possible == 0,
        "cheater_unpaid_for_forged": cheater["paid_for_forged"] == "0",
        "cheater_lost_its_bonds": lost == forged * bond,
    }


def render(console: Console, summary: Json) -> None:
    """The closing table."""
    losses = [summary["loss"]["initial"], *(r["loss_after"] for r in summary["rounds"])]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("who", no_wrap=True)
    for column in ("leases", "ok", "bad", "paid", "bond lost", "gain", "by rules"):
        table.add_column(column, justify="right")
    for name, p in summary["participants"].items():
        numbers = (str(p[k]) if p["role"] == "trainer" else "" for k in ("leases", "accepted", "rejected"))
        amounts = (tokens(int(p[k])) for k in ("paid", "bond_lost", "gain", "expected_gain"))
        label = f"{name} ({summary['attack']})" if p["forged"] else name
        table.add_row(label, *numbers, *amounts, style="red" if p["forged"] else "")
    console.print(table)
    path = " > ".join(f"{loss:.3f}" for loss in losses)
    console.print(f"validation loss {spark(losses)}  {path}  (-{summary['loss']['fall']:.1%})")
    console.print(
        f"model {summary['versions'][-1][:16]}   vault owes and holds {tokens(int(summary['vault']['owed']))}"
    )
    moved = summary["version_bytes"]
    console.print(
        f"a version took {moved['mean']:,} bytes per node ({moved['most']:,} at most), {moved['full']:,} whole"
    )
    for name, ok in summary["checks"].items():
        console.print(
            f"  {'ok  ' if ok else 'FAIL'} {name.replace('_', ' ')}", style="" if ok else "bold red"
        )
    console.print(
        f"{summary['wall_seconds']:.0f} s; honest trainers trained {summary['training_share']:.0%} of their time; "
        f"one validator's checks cost {summary['checking_cost']:.0%} of the training",
        soft_wrap=True,
    )
