"""The fold of the chain's events into a `State`: same events in, same state out; a node can always be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .economics import RULE
from .events import Event
from .state import (
    Appeal,
    Contest,
    Dispute,
    Phase,
    Poll,
    Proposal,
    Round,
    Seat,
    State,
    Task,
    Work,
    WorkState,
)


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """State after ``events``, in chain order, continuing from ``state`` when given."""
    state = state or State()
    for event in events:
        handler = _HANDLERS.get((event.contract, event.name))
        if handler:
            handler(state, event, event.args)
        state.events += 1
    return state


Handler = Callable[[State, Event, Mapping[str, Any]], None]
_HANDLERS: dict[tuple[str, str], Handler] = {}


def _on(contract: str, name: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _HANDLERS[contract, name] = handler
        return handler

    return register


def _round(s: State, a: Mapping[str, Any]) -> Round:
    return s.tasks[a["task"]].rounds[a["round"]]


def _work(s: State, a: Mapping[str, Any], e: Event) -> Work:
    work = _round(s, a).works[a["slot"]]
    work.changed_at = e.timestamp
    return work


def _moved(s: State, a: Mapping[str, Any], e: Event) -> Round:
    """The round, whose merge has just moved."""
    r = _round(s, a)
    r.moved_at = e.timestamp
    return r


def _credit(s: State, who: bytes, amount: int) -> None:
    s.free[who] = s.free.get(who, 0) + amount


@_on("Vault", "Deposited")
def _deposited(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["who"], a["amount"])
    s.deposits[a["who"]] = s.deposits.get(a["who"], 0) + 1


@_on("Vault", "Withdrawn")
def _withdrawn(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["who"], -a["amount"])
    s.withdrawals[a["who"]] = s.withdrawals.get(a["who"], 0) + 1


@_on("Vault", "Locked")
def _locked(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["from"], -a["amount"])


@_on("Vault", "Paid")
def _paid(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _credit(s, a["to"], a["amount"])
    s.received[a["to"]] = s.received.get(a["to"], 0) + a["amount"]


@_on("Vault", "PayoutSet")
def _payout_set(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.payouts[a["who"]] = a["cold"]


@_on("Tasks", "Published")
def _published(s: State, e: Event, a: Mapping[str, Any]) -> None:
    params = dict(a["params"])
    rule = {name: params[name] for name in RULE}
    s.tasks[a["task"]] = Task(a["task"], a["publisher"], a["specHash"], a["model"], params, rule, a["uri"])
    s.endpoints.setdefault(a["publisher"], a["uri"])


@_on("Tasks", "Endpoint")
def _endpoint(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.endpoints[a["who"]] = a["uri"]


@_on("Tasks", "RoundBegun")
def _begun(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].rounds[a["round"]] = Round(a["round"], a["base"], a["claimEnd"], e.timestamp)


@_on("Tasks", "Claimed")
def _claimed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    origin = r.late.pop(a["slot"], None)
    r.works[a["slot"]] = Work(a["slot"], a["trainer"], a["seal"], e.timestamp, origin=origin)


@_on("Tasks", "Relinquished")
def _relinquished(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.given_back = WorkState.EXPIRED, True


@_on("Tasks", "Deferred")
def _deferred(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _round(s, a).works[a["slot"]].patience = a["until"]


@_on("Tasks", "Late")
def _late(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    entered = s.tasks[a["task"]].rounds[a["round"] + 1]
    w.state, w.late_as = WorkState.EXPIRED, (entered.index, a["place"])
    entered.late[a["place"]] = (a["round"], a["slot"])


@_on("Tasks", "Drawn")
def _drawn(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    r.beacon, r.train_end = a["beacon"], a["trainEnd"]


@_on("Tasks", "Seeded")
def _task_seeded(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _round(s, a).seed = a["seed"]


@_on("Tasks", "Submitted")
def _submitted(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.root = WorkState.SUBMITTED, a["root"]


@_on("Tasks", "Checking")
def _checking(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _round(s, a)
    r.poll, r.empty = a["poll"] or None, not a["poll"]


@_on("Tasks", "Opened")
def _opened(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.opened, w.paid = True, a["paid"]
    if w.state is WorkState.SUBMITTED:
        w.state, w.included = WorkState.VALID, a["included"]


@_on("Tasks", "Decoyed")
def _decoyed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _work(s, a, e).state = WorkState.DECOY


@_on("Tasks", "Expired")
def _expired(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.lost = WorkState.EXPIRED, a["lost"]


@_on("Tasks", "Resolved")
def _resolved(s: State, e: Event, a: Mapping[str, Any]) -> None:
    w = _work(s, a, e)
    w.state, w.paid, w.lost = WorkState(a["state"]), a["paid"], a["lost"]


@_on("Tasks", "Proposed")
def _proposed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    _moved(s, a, e).proposal = Proposal(a["root"], a["by"], e.timestamp, e.timestamp)


@_on("Tasks", "Contested")
def _contested(s: State, e: Event, a: Mapping[str, Any]) -> None:
    proposal = _moved(s, a, e).proposal
    if proposal:
        proposal.contest = Contest(a["by"], a["leaf"], a["lane"], a["until"])


@_on("Tasks", "Refuted")
def _refuted(s: State, e: Event, a: Mapping[str, Any]) -> None:
    proposal = _moved(s, a, e).proposal
    if proposal:
        proposal.refuted_by = a["by"]


@_on("Tasks", "Cleared")
def _cleared(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _moved(s, a, e)
    if r.proposal and r.proposal.contest:
        r.fines.append((r.proposal.contest.by, r.proposal.by))
        r.proposal.contest, r.proposal.moved_at = None, e.timestamp


@_on("Tasks", "ProposalDropped")
def _dropped(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _moved(s, a, e)
    if r.proposal:
        r.dropped.add(r.proposal.root)
        winner = r.proposal.contest.by if r.proposal.contest else r.proposal.refuted_by
        r.fines.append((r.proposal.by, winner or bytes(20)))
    r.proposal = None


@_on("Tasks", "Advanced")
def _advanced(s: State, e: Event, a: Mapping[str, Any]) -> None:
    r = _moved(s, a, e)
    r.model, r.mask, r.skipped = a["model"], a["mask"], a["skipped"]


@_on("Tasks", "Closed")
def _closed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].closed = True


@_on("Tasks", "Reclaimed")
def _reclaimed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.tasks[a["task"]].reclaimed = a["amount"]


@_on("Panel", "Seated")
def _seated(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]] = Seat(a["seat"], a["owner"], e.block)


@_on("Panel", "Exiting")
def _exiting(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]].exit_at = a["exitAt"]


@_on("Panel", "Left")
def _left(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.seats[a["seat"]].left = True


@_on("Panel", "PollOpened")
def _poll_opened(s: State, e: Event, a: Mapping[str, Any]) -> None:
    members = tuple(i for i, seat in sorted(s.seats.items()) if seat.exit_at is None)
    s.polls[a["poll"]] = Poll(
        id=a["poll"],
        asker=a["asker"],
        opened_at=e.timestamp,
        seal_end=a["sealEnd"],
        reveal_end=a["revealEnd"],
        want=a["want"],
        risk=a["risk"],
        seats=a["seats"],
        beacon=a["beacon"],
        members=members,
    )


@_on("Panel", "Armed")
def _armed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].beacon = a["beacon"]


@_on("Panel", "Seeded")
def _poll_seeded(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].seed = a["seed"]


@_on("Panel", "Sealed")
def _sealed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].sealed[a["seat"]] = a["n"]


@_on("Panel", "PollPhase")
def _phase(s: State, e: Event, a: Mapping[str, Any]) -> None:
    poll = s.polls[a["poll"]]
    poll.seal_end, poll.reveal_end = a["sealEnd"], a["revealEnd"]


@_on("Panel", "Voted")
def _voted(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].revealed.setdefault(a["seat"], []).append((a["vote"], a["counted"]))


@_on("Panel", "Settled")
def _settled(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].settled[a["seat"]] = (a["paid"], a["lost"])


@_on("Panel", "Forfeited")
def _forfeited(s: State, e: Event, a: Mapping[str, Any]) -> None:
    s.polls[a["poll"]].settled[a["seat"]] = (0, a["lost"])


@_on("Panel", "Leaked")
def _leaked(s: State, e: Event, a: Mapping[str, Any]) -> None:
    poll = s.polls[a["poll"]]
    poll.sealed[a["seat"]] = 0
    poll.leaked[a["seat"]] = (a["by"], a["lost"])


@_on("Court", "Filed")
def _filed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    place = (a["task"], a["round"], a["slot"], a["tree"], a["leaf"])
    s.disputes[a["dispute"]] = Dispute(a["dispute"], *place)
    w = _work(s, a, e)
    w.state = WorkState.DISPUTED
    w.disputes.append(a["dispute"])


@_on("Court", "Answered")
def _answered(s: State, e: Event, a: Mapping[str, Any]) -> None:
    # Without a jury in the same transaction the accusation was void: the work has no such leaf.
    d = s.disputes[a["dispute"]]
    d.answered_by, d.phase, d.ruling, d.ruled_at = a["by"], Phase.RULED, WorkState.VALID, None


@_on("Court", "Convened")
def _convened(s: State, e: Event, a: Mapping[str, Any]) -> None:
    d = s.disputes[a["dispute"]]
    d.phase, d.level, d.poll = Phase.JURY, a["level"], a["poll"]
    d.ruling = d.ruled_at = None
    s.juries[a["poll"]] = d.id


@_on("Court", "Verdict")
def _verdict(s: State, e: Event, a: Mapping[str, Any]) -> None:
    d = s.disputes[a["dispute"]]
    d.phase, d.ruling, d.ruled_at = Phase.RULED, WorkState(a["outcome"]), e.timestamp
    d.counts = (a["hard"], a["soft"], a["innocent"])


@_on("Court", "Appealed")
def _appealed(s: State, e: Event, a: Mapping[str, Any]) -> None:
    d = s.disputes[a["dispute"]]
    d.appeals.append(Appeal(a["level"], a["by"], a["bond"], d.ruling or WorkState.NONE))


@_on("Court", "Ruled")
def _ruled(s: State, e: Event, a: Mapping[str, Any]) -> None:
    d = s.disputes[a["dispute"]]
    d.phase, d.outcome = Phase.FINAL, WorkState(a["outcome"])
