"""Artifacts on disk. A file's name is its root, made by us from 32 bytes; what is read is hashed again.

``public/`` is served; ``private/`` is not yet (a trainer's work before its poll opens); ``partial/`` are
downloads (see `partial`); ``manifests/`` caches shard hashes and may be deleted; ``pins/`` names what must
not be evicted, ``tasks/`` says which task an artifact belongs to, so that the least used task goes first;
``corrupt/`` keeps a few damaged files for a person to look at. One process owns a store; its threads may
share it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .eviction import Entry, victims
from .files import (
    TORN,
    disk_errors,
    make_folder,
    named,
    open_file,
    parse_name,
    read_at,
    sweep,
    sync_folder,
    write_at,
    write_atomic,
)
from .labels import Labels
from .limits import LIMITS
from .manifest import Manifest
from .partial import Partial
from .trust import Trust

PUBLIC, PRIVATE, PARTIAL, MANIFESTS, PINS, TASKS, CORRUPT = FOLDERS = (
    "public",
    "private",
    "partial",
    "manifests",
    "pins",
    "tasks",
    "corrupt",
)


@dataclass(frozen=True, slots=True)
class Loan:
    """A shard to send: an open file, and where the shard is in it. Close the handle afterwards."""

    handle: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact being written: ``keep(published=True, manifest=None)`` gives it its name and returns its root."""

    handle: int
    keep: Callable[..., bytes]

    def hashed(self) -> Manifest:
        """The manifest of what was written."""
        return _hashed(self.handle)


class Store:
    """Content-addressed store, safe to use from several threads of one process."""

    def __init__(
        self,
        folder: Path,
        quota: int = LIMITS.store_bytes,
        floor: int = LIMITS.free_bytes,
        task: int | None = None,
    ) -> None:
        """Open or create the store. ``quota``: bytes it may hold; ``floor``: bytes to leave free on the disk.

        ``task``: what is kept or read from now on belongs to it, see `assign`. Raises E1404 when the folder cannot be
        used.
        """
        self.folder, self.quota, self.floor, self.task = folder, quota, floor, task
        self._lock = threading.RLock()
        self._kept: dict[bytes, Entry] = {}
        self._partial: dict[bytes, Entry] = {}
        self._active: dict[bytes, list[Partial | None]] = {}
        self._manifests: dict[bytes, Manifest] = {}
        self._trust = Trust(LIMITS.trust_seconds)
        self.listeners: list[Callable[[bytes], None]] = []
        """Called with a root, from any thread, when there is more of it to serve."""
        self._reserved = 0
        self.evicted = 0
        """Bytes that had to make room since the store was opened."""
        for name in FOLDERS:
            make_folder(folder / name)
            sweep(folder / name)
        for place in (PRIVATE, PUBLIC, PARTIAL):
            self._scan(place)
        self._labels = Labels(folder / PINS, folder / TASKS)

    # -- whole artifacts -----------------------------------------------------------------------------------

    def put(self, data: bytes, published: bool = True) -> bytes:
        """Keep an artifact, durably, and return its root. Unpublished ones are not served until `publish`.

        Raises E1101 for an empty artifact, E1404 when disk or quota are full.
        """
        manifest = Manifest.of(data)
        root = manifest.root
        with self._lock:
            if self._present(root):
                self._touch(root)
                if published:
                    self.publish(root)
                return root
            # Written under the lock: two writers of one artifact, one of them private, must not undo each other.
            self._make_room(len(data))
            place = PUBLIC if published else PRIVATE
            with disk_errors(self.folder):
                write_atomic(self._path(place, root), data)
            self._keep(root, place, len(data))
        self._cache(root, manifest)
        return root

    def put_file(self, source: Path, published: bool = True) -> bytes:
        """As `put`, for a file of any size, one shard in memory at a time. Raises E1103 when it cannot be read."""
        try:
            file = open(source, "rb")  # noqa: SIM115 - its own error is not that of what is done with it
        except OSError as error:
            message = f"cannot read {source}: {error.strerror or error}"
            raise CommonweightError("E1103", message, "give a readable file") from error
        with file, self.draft(os.fstat(file.fileno()).st_size) as draft:
            at, hashes = 0, []
            while data := file.read(merkle.SHARD):
                hashes.append(merkle.shard_hash(data))
                with disk_errors(self.folder):
                    write_at(draft.handle, data, at)
                at += len(data)
            return draft.keep(published, Manifest(at, tuple(hashes)))

    @contextlib.contextmanager
    def draft(self, size: int) -> Iterator[Draft]:
        """A file of ``size`` bytes to be written and kept, or to vanish. Raises E1404 when there is no room."""
        scratch = self.folder / PARTIAL / f"{TORN}{secrets.token_hex(8)}"
        with self._lock:
            self._make_room(size)
            self._reserved += size
        try:
            with disk_errors(self.folder):
                handle = open_file(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                yield Draft(handle, functools.partial(self._keep_draft, handle, scratch))
            finally:
                os.close(handle)
        finally:
            scratch.unlink(missing_ok=True)
            with self._lock:
                self._reserved -= size

    def _keep_draft(
        self, handle: int, scratch: Path, published: bool = True, manifest: Manifest | None = None
    ) -> bytes:
        """Hash what was written, unless that was done on the way, make it durable and give it its name."""
        with disk_errors(self.folder):
            os.fsync(handle)
        manifest = manifest or _hashed(handle)
        self._trust.note(manifest.root, range(len(manifest.shards)), handle)
        return self._take_in(scratch, manifest, PUBLIC if published else PRIVATE)

    def _take_in(self, scratch: Path, manifest: Manifest, place: str) -> bytes:
        root = manifest.root
        with self._lock:
            if self._present(root):
                self._touch(root)
            else:
                with disk_errors(self.folder):
                    os.replace(scratch, self._path(place, root))
                    sync_folder(self.folder / place)
                self._keep(root, place, manifest.length)
            if place == PUBLIC:
                self.publish(root)
        self._cache(root, manifest)
        self.changed(root)
        return root

    def publish(self, root: bytes) -> bool:
        """Let an artifact be served from now on; True when it is."""
        with self._lock:
            if not self._present(root):
                return False
            entry = self._kept[root]
            if entry.place == PRIVATE:
                with disk_errors(self.folder):
                    os.replace(self._path(PRIVATE, root), self._path(PUBLIC, root))
                    sync_folder(self.folder / PUBLIC)
                    sync_folder(self.folder / PRIVATE)
                entry.place = PUBLIC
            return True

    def get(self, root: bytes, limit: int | None = None) -> bytes:
        """The artifact's bytes, hashed again.

        Raises E1408 when it is not here, E1103 when it has more than ``limit`` bytes (before reading it),
        E1403 when the disk changed it: the file is set aside, and a fetch gets it anew.
        """
        with self._opened(root) as handle:
            size = os.fstat(handle).st_size
            if limit is not None and size > limit:
                raise too_long(root, size, limit)
            data = read_at(handle, size, 0)
            if not data or merkle.root(data) != root:
                raise self._damaged(root, handle)
        return data

    def has(self, root: bytes) -> bool:
        """True when the artifact is here, published or not."""
        with self._lock:
            return self._present(root)

    def served(self, root: bytes) -> bool:
        """True when the artifact is here and may be given to others."""
        with self._lock:
            return self._present(root) and self._kept[root].place == PUBLIC

    def length(self, root: bytes) -> int:
        """The artifact's bytes. Raises E1408 when it is not here."""
        with self._lock:
            if root not in self._kept:
                raise _absent(root)
            return self._kept[root].size

    @property
    def held(self) -> int:
        """Bytes of all artifacts and partial downloads."""
        with self._lock:
            return sum(e.size for table in (self._kept, self._partial) for e in table.values())

    def roots(self, published: bool = True) -> list[bytes]:
        """Names of the served (or of the unpublished) artifacts, sorted."""
        place = PUBLIC if published else PRIVATE
        with self._lock:
            return sorted(root for root, entry in self._kept.items() if entry.place == place)

    def recent(self, many: int) -> list[bytes]:
        """Names of the served artifacts, those used last first."""
        with self._lock:
            served = [(entry.used, root) for root, entry in self._kept.items() if entry.place == PUBLIC]
        return [root for _, root in sorted(served, reverse=True)[:many]]

    def remove(self, root: bytes) -> None:
        """Forget an artifact and what was downloaded of it."""
        with self._lock:
            if entry := self._kept.pop(root, None):
                self._path(entry.place, root).unlink(missing_ok=True)
            if root not in self._active:
                self._partial.pop(root, None)
                self._path(PARTIAL, root).unlink(missing_ok=True)
            self._path(MANIFESTS, root).unlink(missing_ok=True)
            self._manifests.pop(root, None)
            self._labels.forget(root)

    def pin(self, root: bytes) -> None:
        """Never evict this artifact, also after a restart, until `unpin`. Unpublished ones need no pin."""
        with self._lock:
            self._labels.pin(root)

    def unpin(self, root: bytes) -> None:
        """Let this artifact be evicted again."""
        with self._lock:
            self._labels.unpin(root)

    @property
    def pinned(self) -> frozenset[bytes]:
        """Artifacts that are not evicted."""
        with self._lock:
            return frozenset(self._labels.pinned)

    def assign(self, root: bytes, task: int) -> None:
        """Say which task an artifact belongs to: when room is needed, the task used longest ago goes first."""
        with self._lock:
            self._labels.assign(root, task)

    def task_of(self, root: bytes) -> int | None:
        """The task that an artifact was last assigned to."""
        return self._labels.task_of.get(root)

    # -- shards --------------------------------------------------------------------------------------------

    def manifest(self, root: bytes) -> Manifest:
        """Length and shard hashes, proven by the root. Raises as `get`."""
        return (self._cached(root) if self.has(root) else None) or self._cache(
            root, Manifest.of(self.get(root))
        )

    def shard_hashes(self, root: bytes) -> tuple[bytes, ...]:
        """Hashes of the shards in order. Raises as `get`."""
        return self.manifest(root).shards

    def shard(self, root: bytes, index: int) -> bytes:
        """One shard, hashed again. Raises E1103 when there is no such shard, otherwise as `get`."""
        manifest = self.manifest(root)
        with self._opened(root) as handle:
            return self._hashed(root, index, manifest, handle)

    def _hashed(self, root: bytes, index: int, manifest: Manifest, handle: int) -> bytes:
        if not 0 <= index < len(manifest.shards):
            raise CommonweightError("E1103", f"artifact {root.hex()} has no shard {index}")
        data = read_at(handle, manifest.size(index), index * merkle.SHARD)
        if len(data) != manifest.size(index) or merkle.shard_hash(data) != manifest.shards[index]:
            raise self._damaged(root, handle)
        return data

    def read_range(self, root: bytes, offset: int, size: int) -> bytes:
        """Bytes of an artifact, out of shards that were hashed lately or are hashed now. Raises as `shard`."""
        manifest = self.manifest(root)
        if offset < 0 or size < 0 or offset + size > manifest.length:
            raise CommonweightError("E1103", f"artifact {root.hex()} has no bytes {offset}..{offset + size}")
        with self._opened(root) as handle:
            for index in range(offset // merkle.SHARD, -(-(offset + size) // merkle.SHARD)):
                if not self._trust.holds(root, index, handle):
                    self._hashed(root, index, manifest, handle)
                    self._trust.note(root, range(index, index + 1), handle)
            return read_at(handle, size, offset)

    def export(self, root: bytes, path: Path) -> None:
        """Write an artifact to a new file that appears complete or not at all. Raises as `shard`, and E1404."""
        scratch = path.parent / f"{TORN}{secrets.token_hex(8)}"
        with disk_errors(path.parent):
            handle = open_file(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for index in range(len(self.manifest(root).shards)):
                data = self.shard(root, index)
                with disk_errors(path.parent):
                    write_at(handle, data, index * merkle.SHARD)
            with disk_errors(path.parent):
                os.fsync(handle)
                os.replace(scratch, path)
        finally:
            os.close(handle)
            scratch.unlink(missing_ok=True)

    # -- serving -------------------------------------------------------------------------------------------

    def holdings(self, root: bytes, hashing: bool = False) -> tuple[Manifest, int] | None:
        """Manifest and bits of the shards that may be served, also those of a running download; None for none.

        Without ``hashing`` also None when the manifest would have to be made anew from the whole file.
        """
        with self._lock:
            running = self._active.get(root)
            if self.served(root):
                manifest = self._cached(root)
            elif begun := [partial for partial in running or () if partial is not None]:
                held = {index for partial in begun for index in list(partial.held)}
                return begun[0].manifest, sum(1 << index for index in held)
            else:
                return None
        if manifest is None and hashing:
            with contextlib.suppress(CommonweightError):
                manifest = self.manifest(root)
        return None if manifest is None else (manifest, (1 << len(manifest.shards)) - 1)

    def lend(self, root: bytes, index: int, hashing: bool = True) -> Loan | None:
        """A shard that may be served, hashed lately; None instead of hashing it now when ``hashing`` is False.

        Raises E1408 when it is not here, E1403 as `get`.
        """
        with self._lock:
            for partial in self._active.get(root, ()):
                if partial is not None and index in partial.held:  # hashed on its way in, a moment ago
                    return Loan(os.dup(partial.handle), index * merkle.SHARD, partial.manifest.size(index))
            if not self.served(root):
                raise _absent(root)
        manifest = self._cached(root)
        if manifest is None and not hashing:
            return None
        manifest = manifest or self.manifest(root)
        with self._opened(root) as handle:
            if not self._trust.holds(root, index, handle):
                if not hashing:
                    return None
                self._hashed(root, index, manifest, handle)
                self._trust.note(root, range(index, index + 1), handle)
            return Loan(os.dup(handle), index * merkle.SHARD, manifest.size(index))

    def changed(self, root: bytes) -> None:
        """Tell those who listen that there is more of an artifact to serve."""
        for listener in list(self.listeners):
            listener(root)

    # -- downloads -----------------------------------------------------------------------------------------

    def expected(self, root: bytes) -> Manifest | None:
        """The manifest of an unfinished download, or None when there is none."""
        with self._lock:
            return self._cached(root) if root in self._partial else None

    def begin(self, manifest: Manifest) -> Partial:
        """Start or resume a download. Every `begin` needs a `release`. Raises E1404 when there is no room."""
        root = manifest.root
        path = self._path(PARTIAL, root)
        with self._lock:
            if path.is_symlink():
                path.unlink()
            if root not in self._partial:
                self._make_room(manifest.length)
            self._partial[root] = Entry(PARTIAL, manifest.length, time.time())
            self._active.setdefault(root, []).append(None)  # holds the place while what is there is hashed
        try:
            self._cache(root, manifest)
            partial = Partial(path, root, manifest)
        except BaseException:
            self._deactivate(root, None)
            raise
        with self._lock:
            running = self._active[root]
            running[running.index(None)] = partial
        return partial

    def release(self, partial: Partial) -> None:
        """End a download: a complete one becomes a served artifact, the rest waits for the next `begin`."""
        try:
            if not partial.missing:
                self._finish(partial)
        finally:
            self._deactivate(partial.root, partial)
            partial.close()
        self.changed(partial.root)

    def _finish(self, partial: Partial) -> None:
        partial.sync()
        self._trust.note(partial.root, range(len(partial.manifest.shards)), partial.handle)
        with self._lock, disk_errors(self.folder):
            if self._present(partial.root):
                return  # another thread finished the same download, or made the artifact itself
            os.replace(partial.path, self._path(PUBLIC, partial.root))
            sync_folder(self.folder / PUBLIC)
            self._partial.pop(partial.root, None)
            self._keep(partial.root, PUBLIC, partial.manifest.length)

    def _deactivate(self, root: bytes, partial: Partial | None) -> None:
        with self._lock:
            running = self._active.get(root, [])
            if partial in running:
                running.remove(partial)
            if not running:
                self._active.pop(root, None)
                if root in self._kept and root in self._partial:
                    del self._partial[root]
                    self._path(PARTIAL, root).unlink(missing_ok=True)

    # -- inside --------------------------------------------------------------------------------------------

    def _path(self, place: str, root: bytes) -> Path:
        return named(self.folder / place, root)

    def _scan(self, place: str) -> None:
        for path in (self.folder / place).iterdir():
            root, info = parse_name(path.name), path.lstat()
            if root is None or not stat.S_ISREG(info.st_mode):
                continue  # not ours: never opened, never counted, never removed
            table = self._partial if place == PARTIAL else self._kept
            table[root] = Entry(place, info.st_size, max(info.st_atime, info.st_mtime))

    def _keep(self, root: bytes, place: str, size: int) -> None:
        self._kept[root] = Entry(place, size, time.time())
        if self.task is not None:
            self.assign(root, self.task)

    def _present(self, root: bytes) -> bool:
        """True when the file is really there: a person may have deleted it."""
        entry = self._kept.get(root)
        if entry is None:
            return False
        if not os.path.lexists(self._path(entry.place, root)):
            del self._kept[root]
            return False
        return True

    @contextlib.contextmanager
    def _opened(self, root: bytes) -> Iterator[int]:
        """Descriptor for reading; a file that is a link or unreadable is damaged."""
        with self._lock:
            if not self._present(root):
                raise _absent(root)
            try:
                handle = open_file(self._path(self._kept[root].place, root))
            except OSError as error:
                raise self._damaged(root) from error
            self._touch(root)
        try:
            yield handle
        except OSError as error:
            raise self._damaged(root, handle) from error
        finally:
            os.close(handle)

    def _touch(self, root: bytes) -> None:
        entry = self._kept[root]
        entry.used = time.time()
        if self.task is not None:
            self.assign(root, self.task)
        path = self._path(entry.place, root)
        with contextlib.suppress(OSError):
            # the access time only: the modification time says whether a file is still the one that was hashed
            os.utime(path, ns=(time.time_ns(), path.lstat().st_mtime_ns), follow_symlinks=False)

    def _damaged(self, root: bytes, handle: int | None = None) -> CommonweightError:
        """Set the file aside, unless an intact one has taken its place since ``handle`` was opened."""
        with self._lock, contextlib.suppress(OSError):
            entry = self._kept.get(root)
            if entry is not None:
                path = self._path(entry.place, root)
                if handle is None or path.lstat().st_ino == os.fstat(handle).st_ino:
                    self._kept.pop(root)
                    os.replace(path, self.folder / CORRUPT / root.hex())
                    self._trim_corrupt()
        message = f"corrupt artifact {root.hex()}: the disk changed it; set aside in {self.folder / CORRUPT}"
        return CommonweightError("E1403", message, "it is fetched again when needed; check the disk")

    def _trim_corrupt(self) -> None:
        files = sorted((self.folder / CORRUPT).iterdir(), key=lambda p: p.lstat().st_ctime)
        for path in files[: -LIMITS.corrupt_files]:
            path.unlink(missing_ok=True)

    def _cached(self, root: bytes) -> Manifest | None:
        with self._lock:
            if (found := self._manifests.get(root)) is not None:
                return found
        try:
            handle = open_file(self._path(MANIFESTS, root))
        except OSError:
            return None
        try:
            return self._remember(root, Manifest.decode(read_at(handle, os.fstat(handle).st_size, 0), root))
        except (OSError, EncodingError):
            return None
        finally:
            os.close(handle)

    def _remember(self, root: bytes, manifest: Manifest) -> Manifest:
        with self._lock:
            self._manifests[root] = manifest
            if len(self._manifests) > LIMITS.manifests:
                del self._manifests[next(iter(self._manifests))]
        return manifest

    def _cache(self, root: bytes, manifest: Manifest) -> Manifest:
        with contextlib.suppress(OSError):  # only a cache: a full disk shows elsewhere
            write_atomic(self._path(MANIFESTS, root), manifest.encode(), durable=False)
        return self._remember(root, manifest)

    def _make_room(self, size: int) -> None:
        """Evict what was used longest ago until ``size`` more bytes fit. Raises E1404 when they cannot."""
        used = self.held + self._reserved
        with disk_errors(self.folder):
            free = shutil.disk_usage(self.folder).free - self._reserved
            lacks = used + size - self.quota, size + self.floor - free
            gone = victims(self._evictable(), self._kept, self._labels.task_of, *lacks)
            if gone is None:
                raise self._no_room(size)  # before anything is lost for nothing
            for root, entry in gone:
                (self._partial if entry.place == PARTIAL else self._kept).pop(root)
                self._path(entry.place, root).unlink(missing_ok=True)
                self._path(MANIFESTS, root).unlink(missing_ok=True)
                self._labels.forget(root)
                self.evicted += entry.size

    def _evictable(self) -> Iterator[tuple[bytes, Entry]]:
        yield from ((r, e) for r, e in self._partial.items() if r not in self._active)
        yield from (
            (r, e) for r, e in self._kept.items() if e.place == PUBLIC and r not in self._labels.pinned
        )

    def _no_room(self, size: int) -> CommonweightError:
        message = f"no room for {size} bytes in {self.folder}: quota {self.quota}, to stay free {self.floor}"
        return CommonweightError("E1404", message, "free some disk space, raise the quota or unpin artifacts")


def _hashed(handle: int) -> Manifest:
    length = os.fstat(handle).st_size
    shards = (read_at(handle, merkle.SHARD, at) for at in range(0, length, merkle.SHARD))
    return Manifest(length, tuple(merkle.shard_hash(shard) for shard in shards))


def too_long(root: bytes, length: int, limit: int) -> CommonweightError:
    """E1103: the artifact is longer than its reader expects."""
    return CommonweightError(
        "E1103", f"artifact {root.hex()} has {length} bytes, at most {limit} were expected"
    )


def _absent(root: bytes) -> CommonweightError:
    return CommonweightError(
        "E1408", f"artifact {root.hex()} is not in the store", "fetch it from another node"
    )
