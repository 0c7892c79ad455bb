"""Fetching from peers that lie, stall, truncate, redirect, compress, vanish or die: nothing wrong is ever used."""

from __future__ import annotations

import errno
import gzip
import os
import random
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from commonweight.core import merkle
from commonweight.core.errors import CommonweightError
from commonweight.shardcast import files, partial
from commonweight.shardcast.fetch import Fetched, Library, Unavailable, fetch
from commonweight.shardcast.limits import Limits
from commonweight.shardcast.manifest import Manifest
from commonweight.shardcast.peer import Fault
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store

from ..shardcast_peers import LOCAL, Node, Raw, blob, honest, nodes, quick, reply

DATA = blob(3 * merkle.SHARD + 5)
ROOT = merkle.root(DATA)
SMALL = blob(5000, seed=1)
SMALL_ROOT = merkle.root(SMALL)


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    return Store(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


def get(
    store: Store, *sources: str, root: bytes = ROOT, limits: Limits | None = None, patience: float = 0
) -> Fetched:
    return fetch(root, sources, store, limits or quick(), LOCAL, rng=random.Random(1), patience=patience)


def faults(found: Fetched | Unavailable) -> dict[Fault, str]:
    blames = found.blames if isinstance(found, Unavailable) else found.left
    return {blame.kind: blame.reason for blame in blames}


# -- several sources ------------------------------------------------------------------------------------------


def test_two_sources_share_the_work(ours: Store, theirs: Store, tmp_path: Path) -> None:
    third = Store(tmp_path / "third")
    for store in (theirs, third):
        store.put(DATA)
    with ArtifactServer(theirs, "127.0.0.1", 0) as one, ArtifactServer(third, "127.0.0.1", 0) as two:
        found = get(ours, one.url, two.url)
    assert found.data == DATA
    assert set(found.bytes_by_source) == {one.url, two.url}
    assert found.blamed == ()
    assert found.bytes_received - found.bytes_repeated < len(DATA) + 4096


def test_a_download_is_served_while_it_runs(ours: Store, theirs: Store, tmp_path: Path) -> None:
    """The client may ask the relay only, and the relay has its last shard only when the client has had its first."""
    theirs.put(DATA)
    relay, first = Store(tmp_path / "relay"), threading.Event()

    def slow(line: socket.socket, index: int, shard: bytes) -> bool:
        if len(relay_shards()) == 3:
            assert first.wait(10)
        return False

    def relay_shards() -> set[int]:
        held = relay.holdings(ROOT)
        return {i for i in range(4) if held and held[1] >> i & 1}

    def client() -> None:
        results.append(get(ours, server.url, patience=10, limits=quick(read_seconds=10)))

    results: list[Fetched] = []
    with Raw(honest(DATA, slow)) as origin, ArtifactServer(relay, "127.0.0.1", 0, limits=quick()) as server:
        ours.listeners.append(lambda root: first.set())
        thread = threading.Thread(target=client)
        thread.start()
        found = get(relay, origin.url, limits=quick(read_seconds=15, shard_seconds=15, hedge_seconds=10))
        thread.join(20)
    assert found.data == DATA
    assert results[0].data == DATA
    assert results[0].bytes_by_source == {server.url: results[0].bytes_received}


def test_at_most_four_shards_are_asked_for_at_a_time(ours: Store) -> None:
    data = blob(12 * merkle.SHARD)
    gate, lock, now, most = threading.Event(), threading.Lock(), [0], [0]

    def count(line: socket.socket, index: int, shard: bytes) -> bool:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 4:
                gate.set()
        gate.wait(2)
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return False

    peers = [Raw(honest(data, count)) for _ in range(8)]
    try:
        found = get(ours, *(p.url for p in peers), root=merkle.root(data), limits=quick(hedge_seconds=20))
    finally:
        for peer in peers:
            peer.__exit__()
    assert found.data == data
    assert most[0] == 4


def test_a_source_that_comes_late_is_used(ours: Store, theirs: Store) -> None:
    with ArtifactServer(theirs, "127.0.0.1", 0) as server:
        timer = threading.Timer(0.4, lambda: theirs.put(DATA))
        timer.start()
        assert get(ours, server.url, patience=10).data == DATA
        timer.join()


# -- hostile peers --------------------------------------------------------------------------------------------


def lying(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, bytes(len(shard)), shard=str(index))
    return True


def truncating(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, shard[:1000], shard=str(index), content_length=str(len(shard)))
    line.shutdown(socket.SHUT_RDWR)
    return True


def redirecting(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, b"", "302 Found", location="http://169.254.169.254/latest")
    return True


def compressing(line: socket.socket, index: int, shard: bytes) -> bool:
    body = gzip.compress(bytes(1 << 24))
    reply(line, body, content_encoding="gzip", shard=str(index))
    return True


def announcing_more(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, shard, shard=str(index), content_length=str(1 << 40))
    return True


def chunking(line: socket.socket, index: int, shard: bytes) -> bool:
    line.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nshard: %d\r\n\r\n" % index)
    return True


def another_shard(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, shard, shard="999")
    return True


def nonsense_about_itself(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, shard, shard=str(index), have="zz")
    return True


def stalling(line: socket.socket, index: int, shard: bytes) -> bool:
    line.sendall(b"HTTP/1.1 200 OK\r\n")
    return True


def stalling_in_the_body(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, shard[:1000], shard=str(index), content_length=str(len(shard)))
    return True


def dripping(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, b"", shard=str(index), content_length=str(len(shard)))
    for at in range(100):
        line.sendall(shard[at : at + 1])
        time.sleep(0.1)
    return True


def endless_head(line: socket.socket, index: int, shard: bytes) -> bool:
    line.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000)
    return True


def speaking_gibberish(line: socket.socket, index: int, shard: bytes) -> bool:
    line.sendall(os.urandom(200) + b"\r\n\r\n")
    return True


def failing(line: socket.socket, index: int, shard: bytes) -> bool:
    reply(line, b"", "500 Oops")
    return True


HOSTILE = {
    lying: Fault.LIED,
    truncating: Fault.UNREACHABLE,
    redirecting: Fault.LIED,
    compressing: Fault.LIED,
    announcing_more: Fault.LIED,
    chunking: Fault.LIED,
    another_shard: Fault.LIED,
    nonsense_about_itself: Fault.LIED,
    stalling: Fault.SLOW,
    stalling_in_the_body: Fault.SLOW,
    dripping: Fault.SLOW,
    endless_head: Fault.UNREACHABLE,
    speaking_gibberish: Fault.UNREACHABLE,
    failing: Fault.UNREACHABLE,
}


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda f: f.__name__)
def test_alone_it_gives_nothing_and_is_named(ours: Store, spoil: object) -> None:
    with Raw(honest(SMALL, spoil)) as peer, pytest.raises(Unavailable) as caught:  # type: ignore[arg-type]
        get(ours, peer.url, root=SMALL_ROOT)
    (blame,) = caught.value.blames
    assert (blame.source, blame.kind) == (peer.url, HOSTILE[spoil])  # type: ignore[index]
    assert not ours.has(SMALL_ROOT)


def test_an_honest_one_among_the_hostile_is_enough(ours: Store, theirs: Store) -> None:
    theirs.put(DATA)
    peers = [Raw(honest(DATA, spoil)) for spoil in HOSTILE]
    try:
        with ArtifactServer(theirs, "127.0.0.1", 0) as server:
            found = get(ours, server.url, *(p.url for p in peers))
    finally:
        for peer in peers:
            peer.__exit__()
    assert found.data == DATA
    assert server.url not in {blame.source for blame in found.left}


def test_a_forged_manifest_is_a_lie(ours: Store) -> None:
    def handle(line: socket.socket, path: str) -> None:
        reply(line, Manifest.of(b"something else").encode())

    with Raw(handle) as peer, pytest.raises(Unavailable) as caught:
        get(ours, peer.url)
    assert faults(caught.value) == {Fault.LIED: "sent a manifest that does not match the root"}


def test_an_eclipsed_node_says_who_kept_it_waiting(ours: Store) -> None:
    def mute(line: socket.socket, path: str) -> None:
        time.sleep(5)

    peers = [Raw(mute) for _ in range(3)]
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable) as caught:
            get(ours, *(p.url for p in peers))
    finally:
        for peer in peers:
            peer.__exit__()
    assert time.monotonic() - started < 20
    assert {b.source for b in caught.value.blames} == {p.url for p in peers}


def test_a_source_that_claims_shards_and_withholds_them_is_left(ours: Store) -> None:
    def withhold(line: socket.socket, index: int, shard: bytes) -> bool:
        line.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        return True

    with Raw(honest(SMALL, withhold)) as peer, pytest.raises(Unavailable) as caught:
        get(ours, peer.url, root=SMALL_ROOT, limits=quick(refusals=8, refusal_pause=0.01))
    assert faults(caught.value) == {Fault.UNREACHABLE: "does not give what it says it has"}
    assert len(peer.paths) < 30


def test_a_version_that_vanishes_while_it_is_fetched(ours: Store, theirs: Store) -> None:
    theirs.put(DATA)
    gone = threading.Event()

    def handler(line: socket.socket, path: str) -> None:
        if gone.is_set():
            reply(line, b"", "404 Not Found")
        else:
            if "/any/" in path:
                gone.set()
            honest(DATA)(line, path)

    with Raw(handler) as first, pytest.raises(Unavailable) as caught:
        get(ours, first.url)
    assert faults(caught.value) == {Fault.ABSENT: "does not have it"}
    assert "1 of its shards are kept" in str(caught.value)
    with ArtifactServer(theirs, "127.0.0.1", 0) as server:
        found = get(ours, server.url)
    assert found.data == DATA
    assert found.resumed_shards == 1
    assert found.bytes_received < 3 * merkle.SHARD + 1000


def test_a_library_stops_asking_who_lied_three_times(ours: Store, theirs: Store) -> None:
    blamed = []
    roots = [theirs.put(blob(3000, seed)) for seed in range(10, 16)]

    def handle(line: socket.socket, path: str) -> None:
        reply(line, bytes(72))

    with Raw(handle) as liar, ArtifactServer(theirs, "127.0.0.1", 0) as server:
        library = Library(
            ours, lambda: [liar.url, server.url], quick(), allow_private=True, on_blame=blamed.append
        )
        for root in roots * 10:  # the honest one may be done before the liar is heard
            library.get(root)
            ours.remove(root)
            if len([b for b in blamed if b.kind is Fault.LIED]) == 3:
                break
        asked = len(liar.paths)
        for root in roots:
            library.get(root)
    assert len([b for b in blamed if b.kind is Fault.LIED]) == 3
    assert asked == len(liar.paths)


def test_too_long_an_artifact_is_refused_before_its_first_shard(ours: Store, theirs: Store) -> None:
    theirs.put(DATA)
    with ArtifactServer(theirs, "127.0.0.1", 0) as server, pytest.raises(CommonweightError) as caught:
        get(ours, server.url, limits=quick().at_most(len(DATA) - 1))
    assert caught.value.code == "E1103"
    assert ours.expected(ROOT) is None


def test_memory_stays_flat_whatever_a_peer_sends(ours: Store) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for spoil in (compressing, announcing_more, endless_head):
        with Raw(honest(SMALL, spoil)) as peer, pytest.raises(Unavailable):
            get(ours, peer.url, root=SMALL_ROOT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 * 1024


# -- crashes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3])
def test_kill_at_any_shard_and_resume_fetches_only_what_is_missing(tmp_path: Path, after: int) -> None:
    data = blob(6 * merkle.SHARD)
    root = merkle.root(data)
    release, sent = threading.Event(), []

    def pause(line: socket.socket, index: int, shard: bytes) -> bool:
        if len(sent) >= after and not release.is_set():
            reply(line, shard[:100_000], shard=str(index), content_length=str(len(shard)))
            stuck.set()
            release.wait(20)
            line.shutdown(socket.SHUT_RDWR)
            return True
        sent.append(index)
        return False

    stuck = threading.Event()
    with Raw(honest(data, pause)) as peer:
        with nodes(tmp_path / "store") as (node,):
            node.tell("fetch", root.hex(), peer.url, 0)
            assert stuck.wait(20)
            node.process.send_signal(signal.SIGKILL)
            node.process.wait()
        release.set()
        store = Store(tmp_path / "store")
        assert store.roots() == []
        with nodes(tmp_path / "store") as (node,):
            node.tell("fetch", root.hex(), peer.url, 0)
            done = node.expect("done")
    assert done["received"] < (6 - after) * merkle.SHARD + 10_000
    assert Store(tmp_path / "store").get(root) == data


def test_a_relay_killed_in_the_middle_is_replaced(tmp_path: Path, ours: Store) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    with nodes(tmp_path / "a", tmp_path / "b", file=file) as (one, two):
        for node in (one, two):
            node.tell("put")
            node.expect("put")
        ours.listeners.append(lambda root: one.process.send_signal(signal.SIGKILL))
        assert get(ours, one.url, two.url).data == DATA


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, theirs: Store) -> None:
    theirs.put(DATA)
    small = Store(tmp_path / "small", quota=1 << 20)
    kept = small.put(SMALL)
    with ArtifactServer(theirs, "127.0.0.1", 0) as server, pytest.raises(CommonweightError) as caught:
        get(small, server.url)
    assert caught.value.code == "E1404"
    assert small.get(kept) == SMALL


class FillingDisk:
    """A disk with room for some more shards: the write that does not fit stops half-way, as on a real one."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._lock = threading.Lock()

    def write_at(self, handle: int, data: bytes | memoryview, offset: int) -> None:
        with self._lock:
            fits = min(self.room, len(data))
            self.room -= fits
        files.write_at(handle, memoryview(data)[:fits], offset)
        if fits < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_during_a_fetch_costs_only_the_rest(
    ours: Store, theirs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four shards fit, and half of a third: it is said, nothing half-written is used, the rest comes later."""
    theirs.put(DATA)
    disk = FillingDisk(2 * merkle.SHARD + 1000)
    with ArtifactServer(theirs, "127.0.0.1", 0) as server:
        with monkeypatch.context() as patch:
            patch.setattr(partial, "write_at", disk.write_at)
            with pytest.raises(CommonweightError) as caught:
                get(ours, server.url)
        assert (caught.value.code, caught.value.hint) == ("E1404", "free some disk space")
        assert not ours.has(ROOT)
        assert list((ours.folder / "public").iterdir()) == []
        ours = Store(ours.folder)  # the operator makes room and starts the node again
        found = get(ours, server.url)
    assert found.data == DATA
    assert found.resumed_shards >= 2  # and the last one of five bytes, where it came before the disk was full
    assert found.bytes_received - found.bytes_repeated <= (4 - found.resumed_shards) * merkle.SHARD + 4096


def test_a_flipped_bit_in_a_relay_is_never_served(ours: Store, theirs: Store) -> None:
    theirs.put(DATA)
    path = theirs.folder / "public" / ROOT.hex()
    with path.open("r+b") as file:
        file.seek(merkle.SHARD + 9)
        byte = file.read(1)[0]
        file.seek(merkle.SHARD + 9)
        file.write(bytes([byte ^ 1]))
    with ArtifactServer(theirs, "127.0.0.1", 0) as server, pytest.raises(Unavailable) as caught:
        get(ours, server.url)
    assert Fault.LIED not in faults(caught.value)
    assert not theirs.has(ROOT)


def test_stopping_a_node_leaves_a_download_that_resumes(tmp_path: Path) -> None:
    """Ctrl-C: the process ends, what was verified stays."""
    data = blob(2 * merkle.SHARD, seed=5)
    hold = threading.Event()

    def second_waits(line: socket.socket, index: int, shard: bytes) -> bool:
        if started.is_set():
            hold.wait(20)
        started.set()
        return False

    started = threading.Event()
    with Raw(honest(data, second_waits)) as peer:
        node = Node(tmp_path / "store")
        node.tell("fetch", merkle.root(data).hex(), peer.url, 0)
        assert started.wait(10)
        partial = tmp_path / "store" / "partial" / merkle.root(data).hex()
        deadline = time.monotonic() + 10
        while not partial.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        node.process.send_signal(signal.SIGINT)
        node.process.communicate(timeout=30)
        hold.set()
    assert partial.exists()
    assert not (tmp_path / "store" / "public" / merkle.root(data).hex()).exists()
