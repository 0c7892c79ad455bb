"""Who is away for a while, as suspended or stopped processes on a real chain: late work, leases given back, juries
without half of the seats, and others who stand in.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from commonweight.cli.demo import report
from commonweight.core.duties import defer_at
from commonweight.core.state import Phase, WorkState
from tests.support import wait_for

from .roles import LIMIT, ended, freeze, nothing_lost, run, thaw, world_of

pytestmark = [pytest.mark.chain, pytest.mark.soak, pytest.mark.timeout(900)]


def test_late_work_enters_the_next_round_at_half_its_price(tmp_path: Path) -> None:
    """trainer-2 hangs until his round is nearly over, says that he will be late, hangs again, delivers afterwards."""
    roles = {"trainer-1": [], "trainer-2": [], "validator-1": [], "validator-2": []}
    with world_of(tmp_path, roles, 2, {"trainer-2": 100}, steps=100, merge="6") as (world, spectator, clock):
        who = world.people["trainer-2"].address
        step = "claims"

        def hang() -> None:
            nonlocal step
            task = next(iter(spectator.state.tasks.values()), None)
            first = task.rounds.get(0) if task else None
            work = next((w for w in first.works.values() if w.trainer == who), None) if first else None
            if task is None or first is None or work is None:
                return clock()
            now = world.chain.head().timestamp
            if step == "claims":
                freeze(world, clock, "trainer-2")  # before the beacon's block, so that nothing is trained yet
                step = "hangs"
            elif step == "hangs" and first.train_end is not None and now >= defer_at(task, first):
                thaw(world, clock, "trainer-2")
                step = "defers"
            elif step == "defers" and int(world.chain.rpc.call("txpool_status")["pending"], 16):
                freeze(world, clock, "trainer-2")  # training takes seconds, and has just begun
                step = "hangs again"
            elif step == "hangs again" and first.poll is not None:
                thaw(world, clock, "trainer-2")
                step = "is back"
            elif step == "defers":
                return None  # no block until he has said it
            return clock()

        task = wait_for(spectator, lambda t: t.finished and not world.running(), hang, limit=LIMIT)
        assert step == "is back"
        lease = next(w for w in task.rounds[0].works.values() if w.trainer == who)
        assert (lease.state, lease.lost, lease.late_as) == (WorkState.EXPIRED, 0, (1, 255))
        late = task.rounds[1].works[255]
        assert (late.state, late.paid, late.included) == (WorkState.VALID, task.reward // 2, True)
        nothing_lost(
            world, spectator, task, "trainer-1", "trainer-2", "validator-1", "validator-2", "publisher"
        )
        finals = {(report.result(p) or {}).get("final") for p in world.people.values()}
        assert finals == {task.latest.hex()}


def test_a_lease_given_back_is_somebody_elses(tmp_path: Path) -> None:
    """trainer-1 stops his node and gives his lease back by the command; trainer-2 and trainer-3 fill the round."""
    roles = {"trainer-1": [], "trainer-2": None, "trainer-3": None, "validator-1": [], "validator-2": []}
    with world_of(tmp_path, roles, 1, slots="2", claim="240") as (world, spectator, clock):
        who = world.people["trainer-1"]
        claimed = wait_for(
            spectator, lambda t: bool(t.rounds) and bool(t.rounds[0].works), clock, limit=LIMIT
        )
        assert claimed.rounds[0].works[0].trainer == who.address
        assert who.process is not None
        who.process.send_signal(signal.SIGINT)
        wait_for(spectator, lambda t: who.process is not None and who.process.poll() is not None, clock)
        words = ["trainer", "relinquish", "0", "--task", "1", "--key", str(who.key), "--home", str(who.home)]
        words += ["--password-file", str(world.password), "--network", world.devnet.url]
        words += ["--deployment", str(world.deployment)]
        who.process = world.launch(words, who.home / "relinquish.log", {})
        wait_for(spectator, lambda t: who.process is not None and who.process.poll() is not None, clock)
        said = (who.home / "relinquish.log").read_text()
        assert "the lease of slot 0 is given back" in said, said
        clock.away.add("trainer-1")
        for name in ("trainer-2", "trainer-3"):
            run(world, name)
        task = ended(world, spectator, clock)
        given, *others = (w for _, w in sorted(task.rounds[0].works.items()))
        assert (given.state, given.lost, given.given_back) == (WorkState.EXPIRED, 0, True)
        assert {w.trainer for w in others} == {world.people[n].address for n in ("trainer-2", "trainer-3")}
        assert all(w.state is WorkState.VALID for w in others)
        nothing_lost(
            world, spectator, task, "trainer-1", "trainer-2", "trainer-3", "validator-1", "publisher"
        )


def test_a_friendly_jury_is_overruled_by_everybody(tmp_path: Path) -> None:
    """The forger's friend answers for him and, with the honest seats away, acquits him; the appeal calls all seats."""
    roles = {
        "trainer-1": ["--attack", "random"],
        "trainer-2": [],
        "validator-1": ["--seats", "5"],
        "validator-2": ["--seats", "4", "--attack", "colluding"],
    }
    rich = {"validator-1": 5000, "validator-2": 4000}
    with world_of(tmp_path, roles, 1, rich, want="9", open="120") as (world, spectator, clock):
        frozen = False

        def be_away_at_first() -> None:
            nonlocal frozen
            dispute = spectator.state.disputes.get(1)
            if dispute is not None and dispute.level == 0 and not frozen and dispute.phase is Phase.JURY:
                freeze(world, clock, "validator-1")  # before the jury's beacon
                frozen = True
            elif frozen and "validator-1" in clock.away and dispute and dispute.phase is Phase.RULED:
                thaw(world, clock, "validator-1")
            clock()

        task = wait_for(
            spectator, lambda t: t.finished and not world.running(), be_away_at_first, limit=LIMIT
        )
        (dispute,) = spectator.state.disputes.values()
        friend, honest = world.people["validator-2"].address, world.people["validator-1"].address
        assert dispute.answered_by == friend
        (appeal,) = dispute.appeals
        assert (appeal.level, appeal.by, appeal.against) == (1, honest, WorkState.VALID)
        assert (dispute.outcome, dispute.counts) == (WorkState.SOFT, (5, 0, 4))
        forged = next(
            w for w in task.rounds[0].works.values() if w.trainer == world.people["trainer-1"].address
        )
        assert (forged.state, forged.paid, forged.included) == (WorkState.SOFT, 0, False)
        nothing_lost(world, spectator, task, "trainer-2", "validator-1", "publisher")


def test_a_watchtower_answers_for_a_trainer_who_is_away(tmp_path: Path) -> None:
    """trainer-1 is suspended when he is slandered; an honest validator shows the leaf, and he is back for his seal."""
    roles = {"trainer-1": [], "validator-1": [], "validator-2": ["--attack", "slander"]}
    with world_of(tmp_path, roles, 1, {"validator-1": 100}, open="120") as (world, spectator, clock):
        step = "works"

        def be_away_when_accused() -> None:
            nonlocal step
            poll, dispute = spectator.state.polls.get(1), spectator.state.disputes.get(1)
            if step == "works" and poll is not None and len(poll.sealed) == 2:
                freeze(world, clock, "trainer-1")  # no vote is revealed yet
                step = "is away"
            elif step == "is away" and dispute is not None and dispute.answered_by is not None:
                thaw(world, clock, "trainer-1")
                step = "is back"
            clock()

        task = wait_for(
            spectator, lambda t: t.finished and not world.running(), be_away_when_accused, limit=LIMIT
        )
        (dispute,) = spectator.state.disputes.values()
        assert (dispute.answered_by, dispute.outcome) == (
            world.people["validator-1"].address,
            WorkState.VALID,
        )
        (work,) = task.rounds[0].works.values()
        assert (work.state, work.paid, work.opened) == (WorkState.VALID, task.reward, True)
        nothing_lost(world, spectator, task, "trainer-1", "validator-1", "publisher")
