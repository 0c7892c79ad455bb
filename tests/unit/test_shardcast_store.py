"""The store: what is put comes back or is refused, whatever happens to the disk in between."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commonweight.core import merkle
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.shardcast.files import TORN_SECONDS
from commonweight.shardcast.manifest import Manifest
from commonweight.shardcast.store import Store

BIG = bytes(range(256)) * (2 * merkle.SHARD // 256) + b"tail"


def code_of(action: object, *args: object) -> str:
    with pytest.raises(CommonweightError) as caught:
        action(*args)  # type: ignore[operator]
    return caught.value.code


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def only_file(store: Store, place: str = "public") -> Path:
    (path,) = (store.folder / place).iterdir()
    return path


# -- putting and getting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, merkle.SHARD - 1, merkle.SHARD, merkle.SHARD + 1])
def test_round_trip_at_the_edges(store: Store, size: int) -> None:
    data = BIG[:size]
    root = store.put(data)
    assert root == merkle.root(data)
    assert store.get(root) == data
    assert store.length(root) == size
    shards = [store.shard(root, i) for i in range(merkle.shard_count(size))]
    assert b"".join(shards) == data
    assert store.shard_hashes(root) == tuple(merkle.shard_hash(s) for s in shards)


def test_put_is_idempotent_and_survives_reopening(store: Store) -> None:
    root = store.put(b"one")
    assert store.put(b"one") == root
    again = Store(store.folder)
    assert again.roots() == [root]
    assert again.get(root) == b"one"


def test_files_are_private_and_named_by_root(store: Store) -> None:
    root = store.put(b"one")
    path = only_file(store)
    assert path.name == root.hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_absent_and_malformed_names(store: Store) -> None:
    assert code_of(store.get, bytes(32)) == "E1408"
    assert code_of(store.length, bytes(32)) == "E1408"
    assert code_of(store.shard, bytes(32), 0) == "E1408"
    assert not store.has(bytes(32))
    with pytest.raises(EncodingError):
        store.pin(b"../../etc/passwd")
    with pytest.raises(EncodingError):
        store.put(b"")


def test_a_longer_artifact_than_expected_is_refused_unread(store: Store) -> None:
    root = store.put(bytes(2000))
    assert code_of(store.get, root, 1999) == "E1103"
    assert store.get(root, 2000) == bytes(2000)


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_no_such_shard(store: Store, index: int) -> None:
    assert code_of(store.shard, store.put(BIG), index) == "E1103"


def test_a_deleted_file_is_absent_and_may_come_back(store: Store) -> None:
    root = store.put(b"one")
    only_file(store).unlink()
    assert not store.has(root)
    assert code_of(store.get, root) == "E1408"
    store.put(b"one")
    assert store.get(root) == b"one"


# -- unpublished artifacts ------------------------------------------------------------------------------------


def test_unpublished_survives_restart_is_readable_and_not_served(store: Store) -> None:
    root = store.put(b"secret work", published=False)
    again = Store(store.folder)
    assert again.get(root) == b"secret work"
    assert not again.served(root)
    assert again.roots() == []
    assert again.roots(published=False) == [root]


def test_publishing_lasts_and_is_never_taken_back(store: Store) -> None:
    root = store.put(b"work", published=False)
    assert store.publish(root)
    assert store.publish(root)
    store.put(b"work", published=False)
    assert store.served(root)
    assert Store(store.folder).roots() == [root]
    assert list((store.folder / "private").iterdir()) == []


def test_putting_again_publicly_publishes(store: Store) -> None:
    root = store.put(b"work", published=False)
    store.put(b"work")
    assert store.served(root)


def test_nothing_to_publish(store: Store) -> None:
    assert not store.publish(bytes(32))


# -- a hostile or failing disk --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_any_flipped_bit_is_noticed_set_aside_and_healed(data: bytes, draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        root = store.put(data)
        raw = bytearray(data)
        raw[draw.draw(st.integers(0, len(raw) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        only_file(store).write_bytes(raw)
        read = draw.draw(st.sampled_from([store.get, lambda root: store.shard(root, 0)]))
        assert code_of(read, root) == "E1403"
        assert not store.has(root)
        assert only_file(store, "corrupt").read_bytes() == raw
        assert store.get(store.put(data)) == data


@pytest.mark.parametrize("size", [0, 1, 1024, 4999, 5001, 6144])
def test_a_file_of_another_length_is_corrupt(store: Store, size: int) -> None:
    root = store.put(bytes(5000))
    os.truncate(only_file(store), size)
    assert code_of(store.get, root) == "E1403"


def test_damage_in_one_shard_leaves_the_others_readable(store: Store) -> None:
    root = store.put(BIG)
    with only_file(store).open("r+b") as file:
        file.seek(merkle.SHARD + 5)
        file.write(b"\xff\xfe")
    assert store.shard(root, 0) == BIG[: merkle.SHARD]
    assert code_of(store.shard, root, 1) == "E1403"


@pytest.mark.parametrize("junk", [b"", b"x" * 40, b"x" * 41, bytes(72)])
def test_the_cache_of_shard_hashes_is_disposable(store: Store, junk: bytes) -> None:
    root = store.put(b"one")
    only_file(store, "manifests").write_bytes(junk)
    assert store.manifest(root) == Manifest.of(b"one")
    only_file(store, "manifests").unlink()
    assert store.manifest(root) == Manifest.of(b"one")


@pytest.mark.parametrize("place", ["public", "private", "partial", "manifests"])
def test_planted_links_are_never_followed(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"one")
    store = Store(tmp_path / "store")
    root = merkle.root(b"one")
    (store.folder / place / root.hex()).symlink_to(outside)
    store = Store(store.folder)
    assert not store.has(root)
    assert store.put(b"one") == root
    assert store.get(root) == b"one"
    partial = store.begin(Manifest.of(BIG))
    store.release(partial)
    assert outside.read_bytes() == b"one"
    assert outside.stat().st_nlink == 1


def test_a_file_swapped_for_a_link_is_corrupt(store: Store, tmp_path: Path) -> None:
    root = store.put(b"one")
    outside = tmp_path / "outside"
    outside.write_bytes(b"one")
    only_file(store).unlink()
    (store.folder / "public" / root.hex()).symlink_to(outside)
    assert code_of(store.get, root) == "E1403"
    assert outside.read_bytes() == b"one"


def test_a_pipe_in_place_of_a_file_does_not_hang(store: Store) -> None:
    root = store.put(b"one")
    only_file(store).unlink()
    os.mkfifo(store.folder / "public" / root.hex())
    assert code_of(store.get, root) == "E1403"


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "public").symlink_to(tmp_path / "elsewhere")
    assert code_of(Store, tmp_path / "store") == "E1404"


def test_strange_files_are_left_alone(store: Store) -> None:
    root = store.put(b"one")
    names = ["README", "A" * 64, "a" * 63, "a" * 65, "١" * 64, "..hidden", "a" * 63 + "\n"]
    for name in names:
        (store.folder / "public" / name).write_bytes(b"x")
    again = Store(store.folder)
    assert again.roots() == [root]
    assert all((store.folder / "public" / name).exists() for name in names)


def test_torn_files_are_ignored_and_swept_when_old(store: Store) -> None:
    young, old = (store.folder / "public" / f".tmp-{name}" for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half an arti")
    past = time.time() - 2 * TORN_SECONDS
    os.utime(old, (past, past))
    assert Store(store.folder).roots() == []
    assert young.exists()
    assert not old.exists()


def test_only_a_few_corrupt_files_are_kept(store: Store) -> None:
    for i in range(8):
        root = store.put(bytes([i]) * 10)
        only_file(store).write_bytes(b"damaged")
        assert code_of(store.get, root) == "E1403"
    assert len(list((store.folder / "corrupt").iterdir())) == 4


WRITER = """
import itertools, sys
from pathlib import Path
from commonweight.shardcast.store import Store
store = Store(Path(sys.argv[1]))
for i in itertools.count():
    store.put(i.to_bytes(4, "big") * 50_000)
    print(i, flush=True)
"""


def test_a_kill_while_writing_leaves_whole_artifacts_only(tmp_path: Path) -> None:
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        written = [child.stdout.readline() for _ in range(3)]
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store = Store(tmp_path)
        for line in written:
            assert store.has(merkle.root(int(line).to_bytes(4, "big") * 50_000))
        for root in store.roots():
            store.get(root)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from commonweight.core.errors import CommonweightError
from commonweight.shardcast.manifest import Manifest
from commonweight.shardcast.store import Store
store = Store(Path(sys.argv[1]))
kept = store.put(b"before")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for action in (lambda: store.put(bytes(200_000)), lambda: store.begin(Manifest.of(bytes(200_000)))):
    try:
        action()
    except CommonweightError as error:
        print(error.code)
assert store.get(kept) == b"before"
"""


def test_a_write_that_the_system_refuses_is_a_clear_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["E1404", "E1404"]
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_less_than_the_floor_stays_free(tmp_path: Path) -> None:
    store = Store(tmp_path, floor=1 << 62)
    assert code_of(store.put, b"one") == "E1404"


# -- quota ----------------------------------------------------------------------------------------------------


def blob(i: int) -> bytes:
    return bytes([i]) * 1000


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=3500)
    roots = [store.put(blob(i)) for i in range(3)]
    store.get(roots[0])
    store.put(blob(3))
    assert [store.has(root) for root in roots] == [True, False, True]


def test_the_longest_unused_task_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=4500)
    roots = [store.put(blob(i)) for i in range(4)]
    for root, task in zip(roots, (1, 2, 2, 1), strict=True):
        store.assign(root, task)
    (tmp_path / "tasks" / roots[0].hex()).write_bytes(b"junk")
    store = Store(tmp_path, quota=4500)
    store.assign(roots[0], 1)
    store.get(roots[3])  # task 1 is in use, so even its oldest artifact outlives those of task 2
    store.put(blob(4))
    store.put(blob(5))
    assert [store.has(root) for root in roots] == [True, False, False, True]


def test_use_is_remembered_over_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=3500)
    roots = [store.put(blob(i)) for i in range(3)]
    store.get(roots[0])
    store = Store(tmp_path, quota=3500)
    store.put(blob(3))
    assert [store.has(root) for root in roots] == [True, False, True]


def test_pinned_and_unpublished_are_never_evicted(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=3500)
    pinned, private = store.put(blob(0)), store.put(blob(1), published=False)
    store.pin(pinned)
    store = Store(tmp_path, quota=3500)
    third = store.put(blob(2))
    store.put(blob(3))
    assert store.has(pinned)
    assert store.has(private)
    assert not store.has(third)
    store.unpin(pinned)
    store.put(blob(4))
    assert not store.has(pinned)


def test_what_cannot_fit_evicts_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=3500)
    private = store.put(blob(0), published=False)
    public = store.put(blob(1))
    assert code_of(store.put, bytes(3000)) == "E1404"
    assert store.get(private) == blob(0)
    assert store.get(public) == blob(1)


# -- partial downloads ----------------------------------------------------------------------------------------


def shard(i: int) -> bytes:
    return BIG[i * merkle.SHARD : (i + 1) * merkle.SHARD]


def test_a_partial_resumes_with_what_it_held(store: Store) -> None:
    manifest = Manifest.of(BIG)
    partial = store.begin(manifest)
    assert partial.missing == [0, 1, 2]
    partial.add(2, shard(2))
    store.release(partial)
    again = Store(store.folder)
    assert again.expected(manifest.root) == manifest
    assert not again.has(manifest.root)
    partial = again.begin(manifest)
    assert partial.held == {2}
    partial.add(0, shard(0))
    partial.add(1, shard(1))
    again.release(partial)
    assert again.get(manifest.root) == BIG
    assert again.expected(manifest.root) is None
    assert list((store.folder / "partial").iterdir()) == []


def test_damage_in_a_partial_is_fetched_again(store: Store) -> None:
    manifest = Manifest.of(BIG)
    partial = store.begin(manifest)
    for i in (0, 1):
        partial.add(i, shard(i))
    store.release(partial)
    with only_file(store, "partial").open("r+b") as file:
        file.seek(77)
        file.write(b"\xff\xff")
    partial = store.begin(manifest)
    assert partial.missing == [0, 2]
    store.release(partial)


def test_a_partial_of_another_length_starts_anew(store: Store) -> None:
    manifest = Manifest.of(BIG)
    (store.folder / "partial" / manifest.root.hex()).write_bytes(BIG[:-1])
    partial = store.begin(manifest)
    assert partial.missing == [0, 1, 2]
    store.release(partial)


def test_two_downloads_of_one_artifact_may_overlap(store: Store) -> None:
    manifest = Manifest.of(BIG)
    one, other = store.begin(manifest), store.begin(manifest)
    for i in range(3):
        one.add(i, shard(i))
        other.add(i, shard(i))
    store.release(one)
    store.release(other)
    assert store.get(manifest.root) == BIG


def test_idle_partials_give_way_active_ones_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path, quota=len(BIG) + 2000)
    partial = store.begin(Manifest.of(BIG))
    assert code_of(store.put, bytes(3000)) == "E1404"
    store.release(partial)
    store.put(bytes(3000))
    assert store.expected(partial.root) is None


def test_remove_forgets_everything(store: Store) -> None:
    root = store.put(b"one")
    store.pin(root)
    store.remove(root)
    store.remove(root)
    assert not store.has(root)
    assert [p for p in store.folder.rglob("*") if p.is_file()] == []


# -- all of it together ---------------------------------------------------------------------------------------


def test_threads_share_a_store(store: Store) -> None:
    start = threading.Barrier(8)

    def busy(worker: int) -> None:
        start.wait()
        for i in range(10):
            root = store.put(blob(i), published=bool((worker + i) % 2))
            assert store.get(root) == blob(i)
            store.publish(root)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(busy, range(8)))
    assert len(store.roots()) == 10
    assert store.roots(published=False) == []


class StoreMachine(RuleBasedStateMachine):
    """The store against a dictionary of (data, published), with restarts at any time."""

    DATA = st.sampled_from([b"a", b"bb" * 600, b"c" * 1024, b"d" * 3000])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.model: dict[bytes, tuple[bytes, bool]] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(data=DATA, published=st.booleans())
    def put(self, data: bytes, published: bool) -> None:
        root = self.store.put(data, published)
        self.model[root] = (data, published or self.model.get(root, (b"", False))[1])

    @rule(data=DATA)
    def publish(self, data: bytes) -> None:
        root = merkle.root(data)
        assert self.store.publish(root) == (root in self.model)
        if root in self.model:
            self.model[root] = (data, True)

    @rule(data=DATA)
    def remove(self, data: bytes) -> None:
        self.store.remove(merkle.root(data))
        self.model.pop(merkle.root(data), None)

    @rule(data=DATA)
    def damage(self, data: bytes) -> None:
        root = merkle.root(data)
        if root in self.model:
            place = "public" if self.model[root][1] else "private"
            path = self.store.folder / place / root.hex()
            path.write_bytes(data + b"!")
            assert code_of(self.store.get, root) == "E1403"
            del self.model[root]

    @rule()
    def restart(self) -> None:
        self.store = Store(Path(self.folder.name))

    @invariant()
    def same(self) -> None:
        assert self.store.roots() == sorted(r for r, (_, public) in self.model.items() if public)
        assert self.store.roots(published=False) == sorted(r for r, (_, p) in self.model.items() if not p)
        for root, (data, public) in self.model.items():
            assert self.store.get(root) == data
            assert self.store.served(root) == public


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestStoreMachine = StoreMachine.TestCase
