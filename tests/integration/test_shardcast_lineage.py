"""A node's versions without a chain: which residual a lease carries, and by which way a version comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from commonweight.core import codec, fixed, merkle
from commonweight.core.errors import CommonweightError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import Spec
from commonweight.core.state import Round, Task, Work, WorkState
from commonweight.core.works import NONE, Header, Meta
from commonweight.nodes.leasing import previous_of
from commonweight.nodes.lineage import Lineage
from commonweight.shardcast.fetch import Library
from commonweight.shardcast.packing import Packed, pack_update, wire_size
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store
from commonweight.shardcast.versions import VersionBook
from tests.leases import ALICE, BOB, tiny

from ..shardcast_peers import quick

COUNT = 3000
HEADS = 512


def work(slot: int, trainer: bytes, root: bytes | None = None, included: bool = True) -> Work:
    return Work(
        slot,
        trainer,
        bytes(32),
        0,
        WorkState.VALID,
        root or merkle.root(trainer + bytes([slot])),
        included=included,
    )


def round_of(index: int, *works: Work, model: bytes | None = None, base: bytes = NONE) -> Round:
    return Round(index, base, 0, 0, {w.slot: w for w in works}, model=model)


def task_of(spec: bytes, initial: bytes, *rounds: Round, lag: int = 1) -> Task:
    return Task(1, bytes(20), spec, initial, {"lag": lag}, {}, "", {r.index: r for r in rounds})


# -- residuals --------------------------------------------------------------------------------------------------


def test_a_lease_follows_the_own_work_in_the_version_that_it_trains_from() -> None:
    first = round_of(0, work(0, BOB), work(1, ALICE), work(2, ALICE), model=b"1" * 32)
    second = round_of(1, work(0, ALICE), work(1, BOB), work(2, ALICE), work(3, ALICE))
    task = task_of(NONE, NONE, first, second)
    roots = {slot: w.root for slot, w in first.works.items()}
    assert previous_of(task, 0, 1, ALICE) == NONE
    assert previous_of(task, 1, 1, BOB) == roots[0]
    assert [previous_of(task, 1, slot, ALICE) for slot in (0, 2, 3)] == [roots[1], roots[2], NONE]


def test_nothing_follows_a_rejected_work_or_a_skipped_round() -> None:
    rejected = round_of(0, work(0, ALICE, included=False), model=b"1" * 32)
    assert previous_of(task_of(NONE, NONE, rejected, round_of(1, work(0, ALICE))), 1, 0, ALICE) == NONE
    skipped = round_of(0, work(0, ALICE), model=b"1" * 32)
    skipped.skipped = True
    assert previous_of(task_of(NONE, NONE, skipped, round_of(1, work(0, ALICE))), 1, 0, ALICE) == NONE


def test_with_a_lag_of_two_a_residual_is_carried_once() -> None:
    rounds = [round_of(i, work(0, ALICE, root=bytes([i + 1]) * 32), model=b"m" * 32) for i in range(4)]
    task = task_of(NONE, NONE, *rounds, lag=2)
    carried = [previous_of(task, i, 0, ALICE) for i in range(4)]
    assert carried == [NONE, NONE, bytes([1]) * 32, bytes([2]) * 32]


# -- versions ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Scene:
    """A node that made some rounds, and one that has only the initial version."""

    theirs: Store
    ours: Store
    there: Lineage
    here: Lineage
    task: Task


def scene(folder: Path, through: str, rounds: int, server: ArtifactServer, theirs: Store) -> Scene:
    spec = replace(tiny().spec, merge=replace(tiny().spec.merge, codec=through))
    rng = np.random.default_rng(1)
    lanes = rng.integers(-(2**24), 2**24, (2, COUNT)).astype(np.int32)
    initial = ModelVersion(lanes[0], lanes[1]).encode()
    spec = replace(spec, initial_model=merkle.root(initial))
    ours = Store(folder / "ours")
    for store in (theirs, ours):
        store.put(spec.encode())
        store.put(initial)

    def lineage(store: Store, *sources: str) -> Lineage:
        library = Library(store, lambda: sources, quick(), allow_private=True)
        return Lineage(library, VersionBook(store.folder / "versions"), lambda _: COUNT)

    task = task_of(spec.root, merkle.root(initial))
    there, here = lineage(theirs), lineage(ours, server.url)
    for index in range(rounds):
        works = [work(slot, who, submit(theirs, spec, index, slot)) for slot, who in enumerate((ALICE, BOB))]
        task.rounds[index] = round_of(index, *works, base=task.model_before(index) or NONE)
        task.rounds[index].model = there.merged(task, task.rounds[index]).root
    return Scene(theirs, ours, there, here, task)


def submit(store: Store, spec: Spec, index: int, slot: int) -> bytes:
    """What a merge reads of a work: header, meta record, update and wire form; returns the work's root."""
    lanes = np.random.default_rng((index, slot)).normal(0, 500, COUNT).astype(np.int32)
    packed: Packed = pack_update(spec.merge.codec, lanes)
    store.put(packed.lanes)
    wire = store.put(packed.wire) if packed.wire else NONE
    meta = Meta(1, bytes(20), 1, index, slot, ALICE, spec.root, NONE, NONE, NONE, NONE, "", NONE, wire=wire)
    root = store.put(codec.encode(meta))
    return store.put(Header(merkle.root(packed.lanes), len(packed.lanes), NONE, 1, NONE, 1, root).encode())


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


@pytest.fixture
def server(theirs: Store) -> Iterator[ArtifactServer]:
    with ArtifactServer(theirs, "127.0.0.1", 0) as running:
        yield running


def test_a_version_comes_by_packed_updates_and_is_kept(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    s = scene(tmp_path, "int8", 1, server, theirs)
    found = s.here.merged(s.task, s.task.rounds[0])
    assert (found.via, found.root, found.problems) == ("delta", s.task.rounds[0].model, [])
    assert found.received <= 2 * wire_size("int8", COUNT) + HEADS < found.full == 8 * fixed.padded(COUNT)
    assert s.ours.roots(published=False) == []
    assert s.here.merged(s.task, s.task.rounds[0]).via == "kept"


def test_raw_lanes_cost_more_than_the_version_so_it_comes_whole(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    s = scene(tmp_path, "none", 1, server, theirs)
    s.task.rounds[0].works[2] = work(2, BOB, submit(theirs, s.there.spec(s.task), 0, 2))
    s.task.rounds[0].model = None
    model = s.there.merged(s.task, s.task.rounds[0]).root
    s.task.rounds[0].model = model
    found = s.here.merged(s.task, s.task.rounds[0])
    assert (found.via, found.root) == ("full", model)
    assert found.received <= found.full + HEADS


def test_before_the_chain_has_settled_a_round_everybody_recomputes(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    s = scene(tmp_path, "none", 1, server, theirs)
    model, s.task.rounds[0].model = s.task.rounds[0].model, None
    found = s.here.merged(s.task, s.task.rounds[0])
    assert (found.via, found.root) == ("delta", model)


def test_where_the_wire_form_is_gone_the_lanes_do(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    s = scene(tmp_path, "int8", 1, server, theirs)
    gone = s.there.meta(s.task.rounds[0].works[0]).wire
    theirs.remove(gone)
    found = s.here.merged(s.task, s.task.rounds[0])
    assert (found.via, found.root) == ("delta", s.task.rounds[0].model)
    assert len(found.problems) == 1
    assert gone.hex() in found.problems[0]


def test_a_wrong_version_that_the_chain_settled_is_not_taken_over(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    """It is here, because somebody proposed it, but it was never merged here."""
    s = scene(tmp_path, "int8", 1, server, theirs)
    right, wrong = s.task.rounds[0].model, s.ours.put(bytes(8 * fixed.padded(COUNT)))
    s.task.rounds[0].model = wrong
    assert s.here.merged(s.task, s.task.rounds[0]).root == right != wrong


def test_a_joiner_goes_by_updates_while_they_cost_less_than_the_newest_version(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    """Two int8 updates of a version of eight bytes a lane: three rounds cost less than a whole version, four more."""
    few = scene(tmp_path / "few", "int8", 3, server, theirs)
    assert [few.here.needless(few.task, i) for i in range(3)] == [False, False, False]
    many = scene(tmp_path / "many", "int8", 5, server, theirs)
    assert [many.here.needless(many.task, i) for i in range(5)] == [True, True, True, True, False]
    found = many.here.merged(many.task, many.task.rounds[4])
    assert (found.via, found.root) == ("full", many.task.rounds[4].model)
    assert [many.here.needless(many.task, i) for i in range(5)] == [True, True, True, True, False]


def test_a_full_disk_is_no_reason_to_fetch_more(
    tmp_path: Path, server: ArtifactServer, theirs: Store
) -> None:
    s = scene(tmp_path, "int8", 1, server, theirs)
    s.ours.quota = 1
    with pytest.raises(CommonweightError) as caught:
        s.here.merged(s.task, s.task.rounds[0])
    assert caught.value.code == "E1404"
