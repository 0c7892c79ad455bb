"""Rounds on a real chain whose updates travel in int8: what moves, what is merged, and what a full store lets go."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonweight.cli.demo.world import DemoPlan, World, add_person
from commonweight.core import codec, fixed
from commonweight.core.spec import Spec
from commonweight.core.state import Task, WorkState
from commonweight.core.works import NONE, Header, Meta
from commonweight.nodes import metrics
from commonweight.shardcast.packing import wire_size
from commonweight.shardcast.store import Store
from commonweight.tasks.kinds import parameters
from tests.support import small_world, wait_for

pytestmark = [pytest.mark.chain, pytest.mark.slow, pytest.mark.timeout(600)]
ROUNDS = 2
ROOM_GIB = 0.0005
HEADS = 256
"""Bytes of manifests and of what sources say that they have."""


def merges(world: World, name: str) -> list[dict[str, object]]:
    """How each version came to a participant."""
    records = metrics.read(world.people[name].home / "metrics.jsonl")
    return [r for r in records if r["event"] == "merge"]


def test_rounds_with_int8_updates_move_packed_bytes_and_carry_what_was_dropped(tmp_path: Path) -> None:
    """Everybody recomputes each version from a few packed bytes; a relay that comes later catches up."""
    plan = DemoPlan("none", rounds=ROUNDS, trainers=2, validators=1, seed=5, runs=tmp_path)
    with small_world(tmp_path, plan, codec="int8", merge="6") as (world, spectator):
        add_person(world, "relay-1", "relay", world.task.economy.merge_bond)
        wait_for(spectator, lambda task: True)
        options = {"validator-1": ["--store-gib", str(ROOM_GIB)]}
        for name in plan.names:
            who = world.people[name]
            world.spawn(who, who.role, "run", "--task", "1", *options.get(name, []))
        wait_for(spectator, lambda t: 0 in t.rounds and t.rounds[0].settled)
        world.spawn(world.people["relay-1"], "relay", "run", "--task", "1")
        task = wait_for(spectator, lambda t: t.finished and not world.running())
        assert not world.failed()
        assert all(w.state is WorkState.VALID for r in task.rounds.values() for w in r.works.values())
        check_versions(world, task, [*plan.names, "publisher", "relay-1"])


def check_versions(world: World, task: Task, names: list[str]) -> None:
    """From the nodes' own folders, after they have gone."""
    first = Store(world.people["trainer-1"].home / "store")
    count = parameters(Spec.decode(first.get(task.spec)))
    full, packed = 8 * fixed.padded(count), wire_size("int8", count)
    for name in names:
        store = Store(world.people[name].home / "store")
        assert store.has(task.latest), name
        rows = [r for r in merges(world, name) if "root" in r]
        assert rows, name
        assert rows[-1]["root"] == task.latest.hex()
        assert all(not r["problems"] for r in rows), name
        assert all(r["full"] == full for r in rows)
        for row in rows:
            most = 2 * packed if row["via"] == "delta" else full
            assert row["received"] <= most + HEADS, (name, row)
        assert store.task_of(task.latest) == task.id
        assert task.latest in store.pinned
    assert all(r["via"] == "delta" for r in merges(world, "publisher"))
    assert all(
        0 < int(str(r["received"])) <= packed + HEADS for r in merges(world, "trainer-1")
    )  # its own is at home
    assert carried(first, task, world.people["trainer-1"].address) == ROUNDS - 1
    last = metrics.read(world.people["validator-1"].home / "metrics.jsonl")[-1]
    assert last["event"] == "stop"
    assert last["stored"] <= ROOM_GIB * (1 << 30)
    assert last["evicted"] > 0


def carried(store: Store, task: Task, trainer: bytes) -> int:
    """Works of a trainer that took up the residual of its work before."""
    found = 0
    for round_ in task.rounds.values():
        for work in round_.works.values():
            if work.trainer == trainer and work.root is not None:
                header = Header.decode(store.get(work.root))
                found += codec.decode(Meta, store.get(header.meta_root)).previous != NONE
    return found
