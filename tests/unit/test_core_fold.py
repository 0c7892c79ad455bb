"""Folding the rarer events: late works, decoys, disputes through their juries, contested merges, leaks."""

from __future__ import annotations

from typing import Any

from commonweight.core import duties
from commonweight.core.duties import Duty
from commonweight.core.economics import RULE
from commonweight.core.events import Event
from commonweight.core.fold import fold
from commonweight.core.state import Phase, State, WorkState

ANN, BOB, EVE = b"a" * 20, b"b" * 20, b"e" * 20
ROOT, SEAL = b"r" * 32, b"s" * 32
PARAMS = {
    "reward": 10,
    "bond": 10,
    "slots": 2,
    "rounds": 3,
    "lag": 1,
    "want": 3,
    "decoyOneIn": 0,
    "claimT": 10,
    "trainT": 80,
    "openT": 50,
    "aggT": 20,
}


class Tale:
    """Events told one after another, one second apart."""

    def __init__(self, **params: int) -> None:
        self.state = State()
        self.now = 100
        what = {
            "specHash": ROOT,
            "model": ROOT,
            "params": PARAMS | dict.fromkeys(RULE, 1) | params,
            "uri": "",
        }
        self.tell("Tasks", "Published", publisher=ANN, **what)

    def tell(self, contract: str, name: str, **args: Any) -> None:
        """One more event; task 1 unless it says otherwise."""
        self.now += 1
        event = Event(contract, name, {"task": 1, **args}, self.now, b"", 0, self.now, b"")
        fold([event], self.state)

    def claimed(self, round_: int, *trainers: bytes) -> None:
        """A round whose claims are closed."""
        self.tell("Tasks", "RoundBegun", round=round_, base=ROOT, claimEnd=self.now + 10)
        for slot, who in enumerate(trainers):
            self.tell("Tasks", "Claimed", round=round_, slot=slot, trainer=who, seal=SEAL)
        self.tell("Tasks", "Drawn", round=round_, beacon=self.now + 2, trainEnd=self.now + 80)

    def checking(self, round_: int, poll: int, seats: tuple[bytes, ...] = (EVE,)) -> None:
        """A round whose works are being checked."""
        for seat, owner in enumerate(seats, 1):
            self.tell("Panel", "Seated", seat=seat, owner=owner)
        self.opened(poll, 3, len(seats))
        self.tell("Tasks", "Checking", round=round_, poll=poll)

    def opened(self, poll: int, want: int, seats: int, risk: int = 1) -> None:
        """A poll of ten seconds of sealing and ten of revealing."""
        ends = {"sealEnd": self.now + 10, "revealEnd": self.now + 20}
        self.tell(
            "Panel", "PollOpened", poll=poll, asker=EVE, want=want, risk=risk, seats=seats, beacon=1, **ends
        )

    def kinds(self, who: bytes, now: int | None = None) -> set[Duty]:
        """What a trainer has to do."""
        task = self.state.tasks[1]
        return {todo.duty for todo in duties.trainer(self.state, who, task, now or self.now)}


def test_a_lease_that_was_given_back_makes_room() -> None:
    tale = Tale()
    tale.tell("Tasks", "RoundBegun", round=0, base=ROOT, claimEnd=1000)
    for slot, who in enumerate((ANN, BOB)):
        tale.tell("Tasks", "Claimed", round=0, slot=slot, trainer=who, seal=SEAL)
    task = tale.state.tasks[1]
    assert duties.claimable(tale.state, task, tale.now) is None
    tale.tell("Tasks", "Relinquished", round=0, slot=0)
    assert duties.claimable(tale.state, task, tale.now) == 0
    gone = task.rounds[0].works[0]
    assert (gone.state, gone.lost, gone.carried_out) == (WorkState.EXPIRED, 0, False)
    assert Duty.CLAIM in tale.kinds(EVE)
    assert Duty.CLAIM not in tale.kinds(ANN)


def test_a_late_work_enters_the_next_round_under_its_old_lease() -> None:
    tale = Tale()
    tale.claimed(0, ANN, BOB)
    tale.tell("Tasks", "Submitted", round=0, slot=1, trainer=BOB, root=ROOT)
    first = tale.state.tasks[1].rounds[0]
    assert Duty.DEFER not in tale.kinds(ANN)
    assert Duty.DEFER in tale.kinds(ANN, (first.train_end or 0) - 5)
    tale.tell("Tasks", "Deferred", round=0, slot=0, until=tale.now + 500)
    tale.now = (first.train_end or 0) + 1
    assert Duty.TRAIN in tale.kinds(ANN)
    crank = {t.duty for t in duties.cranks(tale.state, ANN, tale.now + 100, 10)}
    assert Duty.EXPIRE not in crank
    tale.checking(0, 1)
    tale.claimed(1, BOB)
    assert duties.enterable(tale.state.tasks[1], 0, tale.now)
    tale.tell("Tasks", "Late", round=0, slot=0, place=255)
    tale.tell("Tasks", "Claimed", round=1, slot=255, trainer=ANN, seal=SEAL)
    tale.tell("Tasks", "Submitted", round=1, slot=255, trainer=ANN, root=ROOT)
    old, new = first.works[0], tale.state.tasks[1].rounds[1].works[255]
    assert (old.state, old.late_as, old.lost) == (WorkState.EXPIRED, (1, 255), 0)
    assert (new.state, new.origin, new.root) == (WorkState.SUBMITTED, (0, 0), ROOT)
    assert tale.state.tasks[1].rounds[1].claimed == 1


def test_a_decoy_is_paid_even_when_it_was_disputed() -> None:
    tale = Tale(decoyOneIn=10)
    tale.claimed(0, ANN)
    tale.tell("Tasks", "Submitted", round=0, slot=0, trainer=ANN, root=ROOT)
    tale.checking(0, 1)
    tale.tell("Court", "Filed", dispute=1, round=0, slot=0, tree=3, leaf=2)
    tale.tell("Tasks", "Opened", round=0, slot=0, included=False, paid=10)
    tale.tell("Tasks", "Decoyed", round=0, slot=0, index=2)
    work = tale.state.tasks[1].rounds[0].works[0]
    assert (work.state, work.paid, work.included) == (WorkState.DECOY, 10, False)
    assert work.state.final
    assert work.resolved


def accused() -> Tale:
    """Ann's work, rejected by Eve, in a panel of nine seats."""
    tale = Tale()
    tale.claimed(0, ANN)
    tale.tell("Tasks", "Submitted", round=0, slot=0, trainer=ANN, root=ROOT)
    tale.checking(0, 1, (EVE,) * 9)
    tale.tell("Court", "Filed", dispute=1, round=0, slot=0, tree=3, leaf=2)
    return tale


def test_a_dispute_goes_from_jury_to_jury() -> None:
    tale = accused()
    d = tale.state.disputes[1]
    assert Duty.ANSWER in tale.kinds(ANN)
    assert Duty.ANSWER not in tale.kinds(BOB)
    assert duties.rule_due(tale.state, d) == tale.state.answer_end(d)
    tale.opened(2, 7, 9, 0)
    tale.tell("Court", "Answered", dispute=1, by=ANN)
    tale.tell("Court", "Convened", dispute=1, level=0, poll=2)
    assert d.phase is Phase.JURY
    assert tale.state.jury_dispute(2) is d
    # Nine seats for seven jurors: what they say can be appealed, so it need not wait for the accusing poll.
    assert duties.rule_due(tale.state, d) == tale.state.polls[2].reveal_end
    tale.now = tale.state.polls[2].reveal_end
    tale.tell("Court", "Verdict", dispute=1, level=0, outcome=5, hard=2, soft=1, innocent=1)
    assert (d.phase, d.ruling) == (Phase.RULED, WorkState.SOFT)
    assert Duty.APPEAL in tale.kinds(ANN)
    assert duties.rule_due(tale.state, d) == tale.now + PARAMS["openT"]
    tale.tell("Court", "Appealed", dispute=1, level=1, by=ANN, bond=5)
    tale.opened(3, 15, 9)
    tale.tell("Court", "Convened", dispute=1, level=1, poll=3)
    assert (d.phase, d.level, d.ruling) == (Phase.JURY, 1, None)
    assert [(a.by, a.against) for a in d.appeals] == [(ANN, WorkState.SOFT)]
    poll = tale.state.polls[3]
    poll.sealed[1] = 1
    assert not duties.items_final(tale.state, poll)
    assert duties.unsettled(tale.state, EVE)
    tale.tell("Court", "Verdict", dispute=1, level=1, outcome=4, hard=0, soft=0, innocent=5)
    tale.tell("Court", "Ruled", dispute=1, outcome=4, guilty=0, innocent=5)
    assert (d.phase, d.outcome) == (Phase.FINAL, WorkState.VALID)
    assert duties.items_final(tale.state, poll)
    assert not duties.items_final(tale.state, tale.state.polls[2])  # a first jury stakes nothing
    assert duties.rule_due(tale.state, d) is None


def test_an_accusation_without_a_leaf_is_void_at_once() -> None:
    tale = accused()
    tale.tell("Court", "Answered", dispute=1, by=ANN)
    d = tale.state.disputes[1]
    assert (d.phase, d.ruling, tale.state.appeal_end(d)) == (Phase.RULED, WorkState.VALID, 0)
    assert duties.rule_due(tale.state, d) == tale.state.polls[1].reveal_end


def test_a_watchtower_waits_for_half_of_the_trainers_time() -> None:
    tale = accused()
    end = tale.state.answer_end(tale.state.disputes[1])
    early = {t.duty for t in duties.validator(tale.state, EVE, end - PARAMS["openT"] // 2 - 1)}
    late = {t.duty for t in duties.validator(tale.state, EVE, end - 1)}
    assert Duty.ANSWER not in early
    assert Duty.ANSWER in late
    assert Duty.ANSWER not in {t.duty for t in duties.validator(tale.state, BOB, end - 1)}


def test_contests_of_a_merge_and_who_pays_for_them() -> None:
    tale = Tale()
    tale.claimed(0, ANN)
    tale.tell("Tasks", "Submitted", round=0, slot=0, trainer=ANN, root=ROOT)
    tale.checking(0, 1)
    tale.now = tale.state.polls[1].reveal_end
    tale.tell("Tasks", "Opened", round=0, slot=0, included=True, paid=10)
    r = tale.state.tasks[1].rounds[0]
    tale.tell("Tasks", "Proposed", round=0, root=ROOT, by=EVE)
    tale.tell("Tasks", "Contested", round=0, by=BOB, leaf=1, lane=2, until=tale.now + 21)
    assert r.proposal is not None
    assert r.proposal.contest is not None
    late = tale.now + 15
    assert Duty.CLEAR in {t.duty for t in duties.cranks(tale.state, ANN, late, 10)}
    assert Duty.ADVANCE not in {t.duty for t in duties.cranks(tale.state, ANN, late, 10)}
    assert Duty.ADVANCE in {t.duty for t in duties.cranks(tale.state, ANN, late + 100, 10)}
    tale.tell("Tasks", "Cleared", round=0, by=EVE)
    assert r.fines == [(BOB, EVE)]
    assert r.proposal.contest is None
    tale.tell("Tasks", "Refuted", round=0, leaf=0, lane=0, by=ANN)
    tale.tell("Tasks", "ProposalDropped", round=0)
    assert r.fines == [(BOB, EVE), (EVE, ANN)]
    assert (r.proposal, r.dropped) == (None, {ROOT})
    crank = {t.duty for t in duties.cranks(tale.state, ANN, tale.now + 10, 10)}
    assert Duty.PROPOSE in crank
    assert Duty.ADVANCE not in crank
    skip = tale.now + duties.SKIP_AFTER * PARAMS["aggT"]
    assert Duty.ADVANCE in {t.duty for t in duties.cranks(tale.state, ANN, skip, 10)}


def test_a_leaked_batch_is_neither_revealed_nor_sealed_again() -> None:
    tale = accused()
    poll = tale.state.polls[1]
    tale.tell("Panel", "Sealed", poll=1, seat=1, n=1)
    tale.tell("Panel", "Leaked", poll=1, seat=1, by=BOB, lost=1)
    mine = {t.subject for t in duties.validator(tale.state, EVE, poll.seal_end - 1) if t.duty is Duty.CHECK}
    assert (1, 1) not in mine
    assert (1, 2) in mine
    assert not duties.unsettled(tale.state, EVE)
    assert poll.leaked == {1: (BOB, 1)}


def test_withdrawals_may_go_to_a_cold_address() -> None:
    tale = Tale()
    tale.tell("Vault", "PayoutSet", who=ANN, cold=BOB)
    assert tale.state.payouts == {ANN: BOB}
