"""From version v to v+1 by the updates that were merged, in their wire codec, instead of by the whole of v+1.

The update that a trainer commits to *is* the decode of its wire bytes, so the lanes prove the wire bytes and the new
version's root proves the merge: a record that lies costs its reader some bytes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..collectives.codecs import codec
from ..core import fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import Lanes
from .fetch import Fetched, Library
from .merging import Part, Progress, merge_stored, require_version
from .peer import PeerFault
from .store import Store
from .versions import KIND, Record, VersionBook, WirePart

LANES = "lanes"
"""In place of a codec's name: the wire bytes are the update's lanes themselves."""

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
    """Encode an update and keep both forms; what is committed is what the wire bytes decode to.

    Raises `EncodingError` for lanes that the codec or an update cannot hold, E1501 for an unknown codec.
    """
    coder = codec(through)
    wire = coder.encode_lanes(lanes)
    sent = coder.decode_lanes(wire, lanes.size)
    fixed.decode_update(fixed.to_bytes(sent), sent.size)
    update = store.put(fixed.to_bytes(sent), published)
    return WirePart(update, store.put(wire, published), coder.name, base, staleness)


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


def delta_bytes(store: Store, record: Record) -> int:
    """Bytes that the wire forms of a version's updates still take to come here."""
    missing = [p for p in record.parts if not (store.has(p.wire) or store.has(p.update))]
    return sum(_wire_size(part, record.count) for part in missing)


def _wire_size(part: WirePart, count: int) -> int:
    return 4 * fixed.padded(count) if part.codec == LANES else codec(part.codec).size(count)


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
            _by_updates(library, record, result, on_progress)
            book.add(record)
            return result
        except CommonweightError as error:
            if error.code == "E1404":
                raise
            result.problems.append(str(error))
    result.via = "full"
    _count(result, library.ensure(record.root, record.length))
    return result  # the version is proven, how it came about is not: such a record is not passed on


def _worth_it(store: Store, record: Record) -> bool:
    try:
        return store.has(record.parent) and bool(record.parts) and delta_bytes(store, record) < record.length
    except CommonweightError:
        return False  # a codec that this node does not know


def _by_updates(library: Library, record: Record, result: Upgrade, on_progress: Say) -> None:
    store, made = library.store, []
    try:
        for part in record.parts:
            if part.codec == LANES:
                _count(result, library.ensure(part.update, _wire_size(part, record.count)))
            elif not store.has(part.update):
                made.append(part.update)
                _lanes_of(library, part, record.count, result)
        parts = [Part(part.update, part.staleness) for part in record.parts]
        root = merge_stored(store, record.parent, parts, record.count, record.rule, record.trim, on_progress)
        try:
            require_version(root, record.root)
        except CommonweightError:
            store.remove(root)
            raise
    finally:
        for update in made:
            store.remove(update)  # four bytes a lane: the wire form is kept and served instead


def _lanes_of(library: Library, part: WirePart, count: int, result: Upgrade) -> None:
    coder = codec(part.codec)
    size = coder.size(count)
    _count(result, library.ensure(part.wire, size))
    lanes = fixed.to_bytes(coder.decode_lanes(library.store.get(part.wire, size), count))
    if merkle.root(lanes) != part.update:
        raise EncodingError(f"wire bytes {part.wire.hex()} are not update {part.update.hex()}")
    library.store.put(lanes, published=False)


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
