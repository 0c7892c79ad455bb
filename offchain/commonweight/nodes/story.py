"""Chain events and a node's own doings as lines a person reads: for its terminal, the demo's live view and `status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..core.events import Event
from ..core.spec import TOKEN
from ..core.state import State, WorkState
from ..core.verdict import read_vote
from ..core.works import WITHHELD

TREES = ("header", "update", "trajectory", "step")
Name = Callable[[bytes], str]


def tokens(wei: int) -> str:
    """Token wei as tokens, without trailing zeros."""
    return f"{wei / TOKEN:.6f}".rstrip("0").rstrip(".")


def _clock(timestamp: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(timestamp))


def namer(names: Mapping[bytes, str]) -> Name:
    """Names of known addresses, short hex of others."""
    return lambda who: names.get(who, f"0x{who.hex()[:4]}..{who.hex()[-4:]}")


def vote_text(vote: int) -> str:
    """A work vote in words."""
    item, tree, value = read_vote(vote)
    if value == 0:
        return f"accepts work {item}"
    if value == WITHHELD:
        return f"says work {item} is withheld"
    return f"rejects work {item}: {TREES[tree % 4]} leaf {value - 1}"


def line(event: Event, name: Name) -> str | None:
    """One line for an event, or None when it would only be noise."""
    a = event.args
    where = f"round {a['round']}" if "round" in a else ""
    match event.contract, event.name:
        case "Tasks", "Published":
            return f"task {a['task']} published by {name(a['publisher'])}, spec {a['specHash'].hex()[:12]}"
        case "Tasks", "RoundBegun":
            return f"{where} begins from model {a['base'].hex()[:12]}"
        case "Tasks", "Claimed":
            return f"{where}: {name(a['trainer'])} claims slot {a['slot']}"
        case "Tasks", "Submitted":
            return f"{where}: {name(a['trainer'])} submits {a['root'].hex()[:12]}"
        case "Court", "Filed":
            return f"{where}: work {a['slot']} is disputed at {TREES[a['tree'] % 4]} leaf {a['leaf']}"
        case "Tasks", "Opened":
            merged = "merged" if a["included"] else "not merged"
            return f"{where}: work {a['slot']} opened, {merged}, paid {tokens(a['paid'])}"
        case "Tasks", "Decoyed":
            return f"{where}: work {a['slot']} was a decoy"
        case "Tasks", "Relinquished":
            return f"{where}: the lease of slot {a['slot']} is given back"
        case "Tasks", "Deferred":
            return f"{where}: work {a['slot']} will be late"
        case "Tasks", "Late":
            return f"{where}: work {a['slot']} is late and enters the next round as {a['place']}"
        case "Tasks", "Resolved":
            verdict = WorkState(a["state"]).name
            paid = f"paid {tokens(a['paid'])}, bond lost {tokens(a['lost'])}"
            return f"{where}: work {a['slot']} judged {verdict}, {paid}"
        case "Tasks", "Expired":
            return f"{where}: work {a['slot']} expired, lost {tokens(a['lost'])}"
        case "Tasks", "Proposed":
            return f"{where}: {name(a['by'])} proposes model {a['root'].hex()[:12]}"
        case "Tasks", "Contested":
            return f"{where}: {name(a['by'])} demands to see lane {a['lane']} of leaf {a['leaf']} of it"
        case "Tasks", "Cleared":
            return f"{where}: {name(a['by'])} shows it, and it is right"
        case "Tasks", "Refuted":
            return f"{where}: {name(a['by'])} proves lane {a['lane']} of leaf {a['leaf']} of it wrong"
        case "Tasks", "ProposalDropped":
            return f"{where}: the proposed model is dropped"
        case "Tasks", "Advanced":
            return f"{where}: model is now {a['model'].hex()[:12]}{' (skipped)' if a['skipped'] else ''}"
        case "Panel", "Seated":
            return f"{name(a['owner'])} takes seat {a['seat']}"
        case "Court", "Answered":
            return f"dispute {a['dispute']}: {name(a['by'])} shows the leaf"
        case "Court", "Convened":
            return f"dispute {a['dispute']}: jury {a['level'] + 1} is called"
        case "Court", "Verdict":
            votes = f"{a['hard']} hard, {a['soft']} soft, {a['innocent']} innocent"
            return f"dispute {a['dispute']}: the jury says {WorkState(a['outcome']).name} ({votes})"
        case "Court", "Appealed":
            return f"dispute {a['dispute']}: {name(a['by'])} appeals with {tokens(a['bond'])}"
        case "Court", "Ruled":
            return f"dispute {a['dispute']}: {WorkState(a['outcome']).name}"
        case _:
            return None


MILESTONES = ("Published", "RoundBegun", "Advanced", "Closed")


def own_line(event: Event, me: bytes, state: State) -> str | None:
    """One line for an event that is about ``me`` or moves a round; ``state`` has folded it."""
    a = event.args
    seat = state.seats.get(a.get("seat", 0))
    if event.contract == "Panel" and seat is not None and seat.owner == me:
        match event.name:
            case "Sealed":
                return f"poll {a['poll']}: seat {seat.id} seals {a['n']} votes"
            case "Settled":
                return (
                    f"poll {a['poll']}: seat {seat.id} is paid {tokens(a['paid'])}, lost {tokens(a['lost'])}"
                )
            case "Forfeited":
                return (
                    f"poll {a['poll']}: seat {seat.id} did not reveal its votes and lost {tokens(a['lost'])}"
                )
    if event.name == "Drawn":
        return f"round {a['round']}: claims are closed; training until {_clock(a['trainEnd'])}"
    about_me = event.name in MILESTONES or me in a.values() or _worker(event, state) == me
    return line(event, namer({me: "this node"})) if about_me else None


def _worker(event: Event, state: State) -> bytes | None:
    """The trainer of the work that an event is about."""
    a = event.args
    if event.contract == "Court":
        dispute = state.disputes.get(a.get("dispute", 0))
        return state.accused(dispute)[2].trainer if dispute else None
    if "slot" not in a:
        return None
    work = state.tasks[a["task"]].rounds[a["round"]].works.get(a["slot"])
    return work.trainer if work else None


def record_line(event: str, fields: Mapping[str, Any]) -> str | None:
    """One line for a record of a node's metrics, or None when it would only be noise."""
    where, took = f"round {fields.get('round')}", f"{fields.get('seconds', 0.0):.1f} s"
    match event:
        case "segment":
            return f"{where}: slot {fields['slot']}: segment {fields['done']} of {fields['of']} done"
        case "train" if "loss" in fields:
            what = "rolled out" if fields.get("rollout") else "trained"
            return f"{where}: slot {fields['slot']} {what} in {took}, loss {fields['loss']:.4f}"
        case "check" if "outcome" in fields:
            return (
                f"{where}: work {fields['slot']} checked in {took}: {fields['outcome']} ({fields['reason']})"
            )
        case "judge" if "outcome" in fields:
            found = f"{fields['outcome']} ({fields['reason']})"
            return f"dispute {fields['dispute']}: leaf {fields['leaf']} judged in {took}: {found}"
        case "merge" if "root" in fields:
            got = f"{fields['received'] / 1e6:.1f} of {fields['full'] / 1e6:.1f} MB fetched"
            return f"{where}: model {fields['root'].hex()[:12]} recomputed in {took}, {got}"
        case "reorg":
            return f"the chain was reorganised below block {fields['block']}; everything is read again"
        case "effect" if fields.get("error"):
            return f"transaction {fields['id']} failed: {fields['error']}"
        case _:
            return None
