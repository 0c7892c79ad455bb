"""Versions by their updates: every codec, every lie, and how many bytes it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commonweight.core import fixed, merkle
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import MergeSpec
from commonweight.shardcast.deltas import ask_record, merge_version, publish_update, upgrade
from commonweight.shardcast.fetch import Library
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store
from commonweight.shardcast.versions import Record, Tensor, VersionBook, WirePart, initial

from ..shardcast_peers import quick

COUNT = 40_000
RULE = MergeSpec()


class Place:
    """A node's store, book, server and library."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.book = VersionBook(folder / "store" / "versions")
        self.server = ArtifactServer(self.store, "127.0.0.1", 0, book=self.book).start()
        self.library = Library(self.store, lambda: self.sources, quick(), allow_private=True)
        self.sources: list[str] = []


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    one, two = Place(tmp_path / "one"), Place(tmp_path / "two")
    one.sources, two.sources = [two.server.url], [one.server.url]
    yield one, two
    one.server.stop()
    two.server.stop()


def start(*places: Place, count: int = COUNT) -> Record:
    """The same initial version everywhere."""
    rng = np.random.default_rng(1)
    lanes = rng.integers(-(2**24), 2**24, (2, count)).astype(np.int32)
    version = ModelVersion(lanes[0], lanes[1])
    for place in places:
        root = place.store.put(version.encode())
        record = initial(root, count, 1, RULE, (Tensor("w", (count // 100, 100)),))
        place.book.add(record)
    return record


def work(
    place: Place, record: Record, codec: str, trainers: int = 4, round_: int = 1, late: int = 0
) -> Record:
    """One round: each trainer's update through the codec, then the merge."""
    rng = np.random.default_rng(round_)
    parts = []
    for i in range(trainers):
        lanes = np.clip(rng.normal(0, 500, record.count), -30000, 30000).astype(np.int32)
        parts.append(publish_update(place.store, lanes, codec, record.root, late if i == 0 else 0))
    return merge_version(place.store, place.book, record, parts, round_)


@pytest.mark.parametrize("codec", ["none", "int8", "int4", "2bit", "topk8", "topk"])
def test_a_version_comes_by_its_updates(places: tuple[Place, Place], codec: str) -> None:
    ours, theirs = places
    base = start(ours, theirs)
    made = work(theirs, base, codec)
    told = ask_record(ours.library, made.root)
    assert told == made
    found = upgrade(ours.library, ours.book, told)
    if codec == "none":
        assert found.via == "full"  # four times four bytes a lane are more than eight
    else:
        assert found.via == "delta"
        assert found.received < found.full
    assert ours.store.get(made.root) == theirs.store.get(made.root)
    assert ours.book.get(made.root) == (None if codec == "none" else made)
    assert not any(ours.store.has(part.update) for part in made.parts)
    assert upgrade(ours.library, ours.book, told).via == "kept"


def test_the_committed_update_is_the_decode_of_the_wire_bytes(places: tuple[Place, Place]) -> None:
    place, _ = places
    lanes = np.arange(-500, 500, dtype=np.int32)
    part = publish_update(place.store, lanes, "int8", bytes(32))
    from commonweight.collectives.codecs import codec

    decoded = codec("int8").decode_lanes(place.store.get(part.wire), 1000)
    assert part.update == merkle.root(fixed.to_bytes(decoded))


def test_what_a_killed_merge_had_decoded_does_not_stay(places: tuple[Place, Place]) -> None:
    """Found in review: decoded lanes are not served and so are never evicted; a kill would have left them for good."""
    ours, theirs = places
    made = work(theirs, start(ours, theirs), "int8")
    ours.store.put(theirs.store.get(made.parts[0].update), published=False)
    assert upgrade(ours.library, ours.book, made).via == "delta"
    assert ours.store.roots(published=False) == []


def test_a_chain_of_versions_and_a_late_part(places: tuple[Place, Place]) -> None:
    ours, theirs = places
    record = start(ours, theirs)
    for round_ in range(1, 4):
        record = work(theirs, record, "2bit", round_=round_, late=round_)
        assert upgrade(ours.library, ours.book, ask_record(ours.library, record.root)).via == "delta"
    assert [r.round for r in ours.book.line(record.root)] == [3, 2, 1, 0]
    assert ours.book.heads() == [record]
    assert ours.book.path([bytes(32)], record.root) is not None


def test_without_the_parent_the_whole_version_comes(places: tuple[Place, Place]) -> None:
    ours, theirs = places
    base = start(theirs)
    made = work(theirs, base, "topk")
    found = upgrade(ours.library, ours.book, ask_record(ours.library, made.root))
    assert (found.via, found.received >= made.length) == ("full", True)


def swapped_update(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(replace(part, update=merkle.root(b"other")), *record.parts[1:]))


def dropped_update(record: Record, part: WirePart) -> Record:
    return replace(record, parts=record.parts[1:])


def repeated_update(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(part, *record.parts))


def another_codec(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(replace(part, codec="int8"), *record.parts[1:]))


def unknown_codec(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(replace(part, codec="zip"), *record.parts[1:]))


def missing_wire(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(replace(part, wire=merkle.root(b"nowhere")), *record.parts[1:]))


def wrong_staleness(record: Record, part: WirePart) -> Record:
    return replace(record, parts=(replace(part, staleness=3), *record.parts[1:]))


def wrong_rule(record: Record, part: WirePart) -> Record:
    return replace(record, rule=replace(record.rule, lr_num=8))


def over_trimmed(record: Record, part: WirePart) -> Record:
    return replace(record, trim=9)


@pytest.mark.parametrize(
    "lie",
    [
        swapped_update,
        dropped_update,
        repeated_update,
        another_codec,
        unknown_codec,
        missing_wire,
        wrong_staleness,
        wrong_rule,
        over_trimmed,
    ],
)
def test_a_lying_record_costs_bytes_and_nothing_else(places: tuple[Place, Place], lie: object) -> None:
    ours, theirs = places
    base = start(ours, theirs)
    made = work(theirs, base, "2bit")
    forged = lie(made, made.parts[0])  # type: ignore[operator]
    found = upgrade(ours.library, ours.book, forged)
    assert found.via == "full"
    assert ours.store.get(made.root) == theirs.store.get(made.root)
    assert bool(found.problems) == (lie is not unknown_codec)
    assert ours.book.get(made.root) is None  # an unproven record is not passed on
    assert ours.store.roots(published=False) == []


def test_damaged_and_foreign_records_are_forgotten(places: tuple[Place, Place]) -> None:
    ours, _ = places
    base = start(ours)
    path = ours.book.folder / base.root.hex()
    raw = path.read_bytes()
    (ours.book.folder / merkle.root(b"x").hex()).write_bytes(raw)
    (ours.book.folder / "README").write_bytes(b"hello")
    assert VersionBook(ours.book.folder).all() == [base]
    path.write_bytes(raw[:-1])
    assert VersionBook(ours.book.folder).all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "x"},
        {"length": 8},
        {"count": COUNT + 1},
        {"tensors": (Tensor("w", (3,)),)},
        {"rule": replace(RULE, lr_den=0)},
    ],
)
def test_records_are_strict(places: tuple[Place, Place], change: dict[str, object]) -> None:
    base = start(places[0])
    assert Record.decode(base.encode()) == base
    with pytest.raises(EncodingError):
        Record.decode(replace(base, **change).encode())  # type: ignore[arg-type]


def test_a_window_of_versions_is_retained(tmp_path: Path, places: tuple[Place, Place]) -> None:
    ours, _ = places
    record = start(ours)
    roots = [record.root]
    for round_ in range(1, 5):
        record = work(ours, record, "topk", trainers=1, round_=round_)
        roots.append(record.root)
    assert ours.book.retain(ours.store, 2) == sorted(roots[-2:])
    ours.store.quota = 1
    with pytest.raises(CommonweightError):
        ours.store.put(bytes(10**6))
    ours.store.quota = sum(ours.store.length(r) for r in roots[-2:]) + 1000
    ours.store.put(b"new")
    assert [ours.store.has(root) for root in roots] == [False, False, False, True, True]


def test_a_joiner_finds_the_current_version_from_one_live_node(places: tuple[Place, Place]) -> None:
    ours, theirs = places
    made = work(theirs, start(theirs), "int8")
    (peer,) = ours.library.peers()
    assert bytes(peer.get("/v1/versions", range(0, 2049), 5).body) == made.root
    peer.close()
