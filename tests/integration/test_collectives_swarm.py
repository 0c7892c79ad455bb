"""Real processes: rounds, late joiners, deaths, hangs; the survivors go on and agree by root."""

from __future__ import annotations

import signal

import pytest

from tests.integration.collectives_swarm import Swarm, Worker, expected_sum

COUNT = 200_000


def agree(workers: list[Worker], number: int) -> str:
    """The one root that all of them settled on in a round."""
    roots = {w.round(number)["root"] for w in workers}
    assert len(roots) == 1, {w.name: w.round(number)["root"] for w in workers}
    return roots.pop()


def test_a_late_joiner_recovers_the_state_and_takes_part() -> None:
    with Swarm() as swarm:
        until = ("--rounds", "4", "--together", "3", "--pause", "0.05")
        first = [swarm.spawn(n, "--expect", "2", *until) for n in ("ada", "bob")]
        first[0].round(2)
        late = swarm.spawn("cyd", *until, "--start-with", "5")
        for worker in [*first, late]:
            worker.finish()
        rounds = late.events("round")
        assert rounds[0]["recovered"]
        assert rounds[0]["number"] > 2
        assert rounds[0]["members"] == ["ada", "bob", "cyd"]
        last = rounds[-1]["number"]
        for number in {rounds[0]["number"], last}:
            agree([*first, late], number)
        recovered = late.events("recovered")[0]
        assert recovered["bytes"] == 4 * COUNT
        value = expected_sum(["ada", "bob", "cyd"], last, COUNT)[0]
        assert abs(late.round(last)["first"] - value) < 0.2


@pytest.mark.parametrize("victim", ["ada", "bob"], ids=["leader", "member"])
def test_kill_9_in_a_reduction_leaves_the_survivors_agreeing(victim: str) -> None:
    names = ["ada", "bob", "cyd", "dan"]
    with Swarm() as swarm:
        for name in names:
            extra = ("--fault", "DiesInReduce") if name == victim else ()
            swarm.spawn(name, "--expect", "4", "--rounds", "4", *extra)
        survivors = swarm.all(*(n for n in names if n != victim))
        for worker in survivors:
            worker.finish()
        assert swarm.workers[victim].process.wait(timeout=10) == -signal.SIGKILL
        assert swarm.workers[victim].events("round")[-1]["number"] == 1
        for number in range(1, 5):
            agree(survivors, number)
        broken = survivors[0].round(2)
        assert broken["members"] == [w.name for w in survivors]
        assert abs(broken["first"] - expected_sum(broken["members"], 2, COUNT)[0]) < 0.2
        reduced = [w.events("reduced")[1] for w in survivors]
        assert max(r["attempts"] for r in reduced) > 1
        assert 0 < max(r["recovery"] for r in reduced) < 10


@pytest.mark.parametrize("victim", ["ada", "bob"], ids=["leader", "member"])
def test_a_member_that_hangs_is_left_behind_and_rejoins_when_it_wakes(victim: str) -> None:
    names = ["ada", "bob", "cyd"]
    with Swarm() as swarm:
        for name in names:
            extra = ("--fault", "HangsInReduce") if name == victim else ()
            until = ("--rounds", "4", "--together", "3", "--pause", "0.05")
            swarm.spawn(name, "--expect", "3", *until, *extra)
        survivors = swarm.all(*(n for n in names if n != victim))
        for worker in survivors:
            worker.round(3)
        assert survivors[0].round(2)["members"] == [w.name for w in survivors]
        hung = swarm.workers[victim]
        hung.process.send_signal(signal.SIGCONT)
        for worker in swarm.workers.values():
            worker.finish()
        assert hung.events("rejoining")
        again = hung.events("round")[-1]
        assert again["members"] == names
        agree(list(swarm.workers.values()), again["number"])


def test_members_may_leave_one_after_the_other_without_stopping_the_rest() -> None:
    with Swarm() as swarm:
        for name, rounds in (("ada", "2"), ("bob", "3"), ("cyd", "4"), ("dan", "5")):
            swarm.spawn(name, "--expect", "4", "--rounds", rounds)
        for worker in swarm.workers.values():
            worker.finish()
        names = ["ada", "bob", "cyd", "dan"]
        gone_by = {1: 0, 2: 0, 3: 1, 4: 2, 5: 3}
        seen = {number: swarm.workers["dan"].round(number)["members"] for number in gone_by}
        assert seen == {number: names[gone:] for number, gone in gone_by.items()}
        assert not swarm.workers["dan"].events("rejoining")


def test_a_replica_that_strays_is_found_and_gets_the_agreed_state() -> None:
    with Swarm() as swarm:
        for name in ("ada", "bob", "cyd"):
            extra = ("--fault", "Strays") if name == "cyd" else ()
            swarm.spawn(name, "--expect", "3", "--rounds", "4", *extra)
        for worker in swarm.workers.values():
            worker.finish()
        stray = swarm.workers["cyd"].events("strayed")
        assert len(stray) == 1
        assert stray[0]["agreed"] == swarm.workers["ada"].round(2)["root"]
        agree(list(swarm.workers.values()), 4)
