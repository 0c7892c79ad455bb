"""Files that a peer can never name, follow or tear: the few operations that the store is made of."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import CommonweightError, EncodingError

TORN_SECONDS = 3600.0
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
TORN = ".tmp-"


def parse_name(name: str) -> bytes | None:
    """Root from exactly 64 lower-case hex digits, or None."""
    return bytes.fromhex(name) if _NAME.fullmatch(name) else None


def named(folder: Path, root: bytes) -> Path:
    """The file of an artifact in a folder. Raises `EncodingError` for what is no root."""
    if len(root) != 32:
        raise EncodingError(f"an artifact's name has 32 bytes, not {len(root)}")
    return folder / root.hex()


def open_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """Descriptor of a regular file. Raises OSError for a symbolic link, a pipe, a device or a folder."""
    # O_NONBLOCK: a planted pipe must not hang us before we can see that it is one
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.ELOOP, "not a regular file", str(path))
    return handle


def read_at(handle: int, size: int, offset: int) -> bytes:
    """``size`` bytes at ``offset``; fewer only at the end of the file."""
    whole = os.pread(handle, size, offset)
    if len(whole) == size:  # nearly always, and without another copy
        return whole
    out = bytearray(whole)
    while len(out) < size:
        piece = os.pread(handle, size - len(out), offset + len(out))
        if not piece:
            break
        out += piece
    return bytes(out)


def write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        done = os.pwrite(handle, view, offset)
        view, offset = view[done:], offset + done


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Let ``path`` appear complete or not at all; with ``durable`` also after a power cut."""
    scratch = path.parent / f"{TORN}{secrets.token_hex(8)}"
    handle = open_file(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_at(handle, data, 0)
        if durable:
            os.fsync(handle)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """A private folder of our own. Raises E1404 when something else has its place."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink():
        raise CommonweightError(
            "E1404", f"{folder} is a symbolic link", "remove it; the store makes its own folders"
        )


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left; a young one may belong to another process."""
    for path in folder.glob(TORN + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > TORN_SECONDS:
                path.unlink()


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn an OSError of writing into E1404 that says what and where."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some disk space" if full else "check the folder and its permissions"
        raise CommonweightError(
            "E1404", f"cannot write in {where}: {error.strerror or error}", hint
        ) from error
