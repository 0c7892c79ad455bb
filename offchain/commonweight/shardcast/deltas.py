"""From version v to v+1 by the updates that were merged, in their wire codec, instead of by the whole of v+1.

The update that a trainer commits to *is* the decode of its wire bytes, so the lanes prove the wire bytes and the new
version's root proves the merge: a record that lies costs its reader some bytes and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..core import fixed
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import Lanes
from .fetch import Fetched, Library
from .merging import Part, Progress, merge_stored, require_version
from .packing import pack_update, unpack_update, wire_size
from .peer import PeerFault
from .store import Store
from .versions import KIND, Record, VersionBook, WirePart

Say = Callable[[Progress], None]


@dataclass(slots=True)
class Upgrade:
    """How a version came here: ``via`` is kept, delta or full; bytes received against those of the whole version."""

    root: bytes
    via: str
    received: int = 0
    full: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Bytes received as a part of the whole version's."""
        return self.received / self.full if self.full else 0.0


def publish_update(
    store: Store, lanes: Lanes, through: str, base: bytes, staleness: int = 0, published: bool = True
) -> WirePart:
    """Quantise an update and keep both forms; what is committed is what the wire bytes decode to.

    Raises `EncodingError` for lanes that the codec or an update cannot hold, E1518 for an unknown codec.
    """
    packed = pack_update(through, lanes)
    fixed.decode_update(packed.lanes, lanes.size)
    update = store.put(packed.lanes, published)
    wire = store.put(packed.wire, published) if packed.wire else update
    return WirePart(update, wire, through, base, staleness)


def merge_version(
    store: Store,
    book: VersionBook,
    parent: Record,
    parts: Sequence[WirePart],
    round_: int,
    trim: int = 0,
    on_progress: Say = lambda progress: None,
) -> Record:
    """Merge updates that are in the store into the next version and record it. Raises as `merge_stored`."""
    inputs = [Part(part.update, part.staleness) for part in parts]
    root = merge_stored(store, parent.root, inputs, parent.count, parent.rule, trim, on_progress)
    record = replace(
        parent, root=root, parent=parent.root, round=round_, trim=trim, parts=tuple(parts), kind=KIND
    )
    if root != parent.root:
        book.add(record)
    return record


def delta_bytes(store: Store, parts: Sequence[WirePart], count: int) -> int:
    """Bytes that the wire forms of a version's updates still take to come here. Raises E1518 for unknown codecs."""
    missing = [p for p in parts if not (store.has(p.wire) or store.has(p.update))]
    return sum(wire_size(part.codec, count) for part in missing)


@contextlib.contextmanager
def gathered(
    library: Library, parts: Sequence[WirePart], count: int, result: Upgrade, or_lanes: bool = False
) -> Iterator[None]:
    """Within the block the lanes of all updates are in the store, each proven by its root.

    What was decoded goes again afterwards: the wire form is a fraction of it, and is kept and served instead.
    ``result`` counts the bytes. Raises as `Library.ensure`, and `EncodingError` for what is not the update; with
    ``or_lanes`` the lanes themselves are fetched where the wire form is not to be had.
    """
    made: list[bytes] = []
    try:
        for part in parts:
            here = library.store.has(part.update)
            if here and part.codec != "none" and not library.store.served(part.update):
                made.append(part.update)  # decoded by a merge that was killed
            elif not here and _lanes_of(library, part, count, result, or_lanes):
                made.append(part.update)
        yield
    finally:
        for update in made:
            library.store.remove(update)


def _lanes_of(library: Library, part: WirePart, count: int, result: Upgrade, or_lanes: bool) -> bool:
    """Have the lanes of an update here; True when they were decoded and not fetched."""
    try:
        size = wire_size(part.codec, count)
        _count(result, library.ensure(part.wire, size))
        if part.codec == "none":
            return False
        unpack_update(library.store, part.codec, library.store.get(part.wire, size), count, part.update)
        return True
    except CommonweightError as error:
        if error.code == "E1404" or not or_lanes:
            raise
        result.problems.append(str(error))
    _count(result, library.ensure(part.update, wire_size("none", count)))
    return False


def upgrade(
    library: Library, book: VersionBook, record: Record, on_progress: Say = lambda progress: None
) -> Upgrade:
    """Get a version by its updates when that takes fewer bytes and its parent is here, otherwise whole.

    Raises E1502 when the sources together give neither, E1404 when the disk is full.
    """
    store = library.store
    result = Upgrade(record.root, "kept", full=record.length)
    if store.has(record.root):
        return result
    if _worth_it(store, record):
        try:
            result.via = "delta"
            with gathered(library, record.parts, record.count, result):
                _merge_to(store, record, on_progress)
            book.add(record)
            return result
        except CommonweightError as error:
            if error.code == "E1404":
                raise
            result.problems.append(str(error))
    whole(library, record.root, result)
    return result  # the version is proven, how it came about is not: such a record is not passed on


def whole(library: Library, root: bytes, result: Upgrade) -> None:
    """Get a version as it is. Raises as `Library.ensure`."""
    result.root, result.via = root, "full"
    _count(result, library.ensure(root, result.full))


def _worth_it(store: Store, record: Record) -> bool:
    try:
        cheaper = delta_bytes(store, record.parts, record.count) < record.length
        return store.has(record.parent) and bool(record.parts) and cheaper
    except CommonweightError:
        return False  # a codec that this node does not know


def _merge_to(store: Store, record: Record, on_progress: Say) -> None:
    parts = [Part(part.update, part.staleness) for part in record.parts]
    root = merge_stored(store, record.parent, parts, record.count, record.rule, record.trim, on_progress)
    try:
        require_version(root, record.root)
    except CommonweightError:
        store.remove(root)
        raise


def _count(result: Upgrade, fetched: Fetched | None) -> None:
    result.received += fetched.bytes_received if fetched else 0


def ask_record(library: Library, root: bytes) -> Record:
    """The record of a version from the first source that tells it. Raises E1409 when nobody does."""
    reasons = []
    for peer in library.peers():
        try:
            record = Record.decode(
                bytes(peer.get(f"/v1/versions/{root.hex()}", library.record_sizes, 10.0).body)
            )
            if record.root != root:
                raise EncodingError("it is of another version")
            return record
        except (PeerFault, EncodingError) as error:
            reasons.append(f"{peer.source[:100]}: {error}")
        finally:
            peer.close()
    raise CommonweightError(
        "E1409", f"nobody tells how version {root.hex()} came about ({'; '.join(reasons) or 'nobody to ask'})"
    )
