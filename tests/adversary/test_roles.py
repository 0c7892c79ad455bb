"""Roles that do not do their duty, as processes on a real chain: each ends as the rules say, no honest party loses."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.core.state import Task, WorkState
from tests.clock import Clock
from tests.support import wait_for

from .roles import LIMIT, ended, nothing_lost, world_of

pytestmark = [pytest.mark.chain, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_lazy_validator_loses_over_decoys_while_an_honest_one_earns(tmp_path: Path) -> None:
    """Decoys are drawn by chance, one work in ten: rounds of sixteen leases until there was one."""
    roles = {"trainer-1": ["--leases", "16"], "validator-1": [], "validator-2": ["--attack", "lazy"]}
    economy = {"decoy_one_in": "10", "slots": "16", "fee_bps": "2000"}
    with world_of(tmp_path, roles, 12, {"trainer-1": 1000}, **economy) as (world, spectator, clock):
        honest, lazy = (
            next(s.id for s in spectator.state.seats.values() if s.owner == world.people[name].address)
            for name in _seated(spectator, clock)
        )

        def settled(task: Task) -> bool:
            return any(
                w.state is WorkState.DECOY
                and {honest, lazy} <= set(spectator.state.polls[r.poll or 0].settled)
                for r in task.rounds.values()
                for w in r.works.values()
            )

        task = wait_for(spectator, settled, clock, limit=LIMIT)
        decoyed = [
            r for r in task.rounds.values() if any(w.state is WorkState.DECOY for w in r.works.values())
        ]
        poll = spectator.state.polls[decoyed[0].poll or 0]
        paid, lost = poll.settled[honest]
        assert (paid > 0, lost) == (True, 0)
        paid, lost = poll.settled[lazy]
        assert lost >= poll.risk > paid
        decoys = [w for w in decoyed[0].works.values() if w.state is WorkState.DECOY]
        assert all((w.paid, w.lost, w.included) == (task.reward, 0, False) for w in decoys)


def _seated(spectator: Spectator, clock: Clock) -> tuple[str, str]:
    wait_for(spectator, lambda task: len(spectator.state.seats) == 2, clock, limit=LIMIT)
    return "validator-1", "validator-2"


def test_one_honest_member_of_a_colluding_committee_is_enough(tmp_path: Path) -> None:
    """Two seats of six are the forger's friends: they accept and acquit, and still he loses his bond."""
    roles = {
        "trainer-1": ["--attack", "random"],
        "trainer-2": [],
        "validator-1": ["--seats", "4"],
        "validator-2": ["--seats", "2", "--attack", "colluding"],
    }
    rich = {"validator-1": 3000, "validator-2": 1000}
    with world_of(tmp_path, roles, 1, rich, want="6") as (world, spectator, clock):
        task = ended(world, spectator, clock)
        forged = [w for w in task.rounds[0].works.values() if w.trainer == world.people["trainer-1"].address]
        assert [w.state for w in forged] == [WorkState.HARD]
        nothing_lost(world, spectator, task, "trainer-2", "validator-1", "publisher")


def test_a_slanderer_pays_even_when_no_juror_comes(tmp_path: Path) -> None:
    """The accused shows his leaf, the jury is empty, so he is acquitted; the false reject costs its stake."""
    roles = {
        "trainer-1": [],
        "validator-1": ["--attack", "absent-juror"],
        "validator-2": ["--attack", "slander"],
    }
    with world_of(tmp_path, roles, 1, seal="120") as (world, spectator, clock):
        task = ended(world, spectator, clock)
        assert all(
            d.answered_by == world.people["trainer-1"].address for d in spectator.state.disputes.values()
        )
        assert spectator.state.disputes
        (work,) = task.rounds[0].works.values()
        assert (work.state, work.paid) == (WorkState.VALID, task.reward)
        nothing_lost(world, spectator, task, "trainer-1", "validator-1", "publisher")
        slanderer = report.person(world, spectator.state, task, world.people["validator-2"], set())
        assert int(slanderer["gain"]) == int(slanderer["expected_gain"]) < 0


@pytest.mark.parametrize("attack", ["bad-merge", "hidden-merge"])
def test_a_bad_aggregator_loses_its_bond(tmp_path: Path, attack: str) -> None:
    """A wrong version is refuted by one lane; one that nobody can see falls to the demand to show a lane.

    An honest node may be the first to propose, so the liar has three rounds to try."""
    roles = {"relay-1": ["--attack", attack], "trainer-1": [], "validator-1": []}
    with world_of(tmp_path, roles, 3) as (world, spectator, clock):
        task = ended(world, spectator, clock)
        liar = world.people["relay-1"].address
        fines = [winner for r in task.rounds.values() for loser, winner in r.fines if loser == liar]
        assert fines
        assert set(fines) <= {world.people[n].address for n in ("trainer-1", "validator-1", "publisher")}
        assert task.latest != task.initial
        nothing_lost(world, spectator, task, "trainer-1", "validator-1", "publisher")


def test_a_silent_publisher_stops_nobody(tmp_path: Path) -> None:
    """The publisher is killed once its artifacts are with others; they are paid and the task ends."""
    roles: dict[str, list[str]] = {"trainer-1": [], "validator-1": []}
    with world_of(tmp_path, roles, 2) as (world, spectator, clock):
        wait_for(spectator, lambda t: bool(t.rounds) and t.rounds[0].poll is not None, clock, limit=LIMIT)
        publisher = world.people["publisher"].process
        assert publisher is not None
        publisher.send_signal(signal.SIGKILL)
        publisher.wait()
        task = ended(world, spectator, clock)
        assert len(task.rounds) == 2
        assert all(w.state is WorkState.VALID for r in task.rounds.values() for w in r.works.values())
        nothing_lost(world, spectator, task, "trainer-1", "validator-1")
