"""An exclusive lock on a file, so that two nodes never share one journal, one key or one local chain.

POSIX record locks are used because, unlike ``flock``, a forked training process does not inherit them: a node
that was killed can be restarted although its children still run. They do not exclude a second holder inside
the same process, which the table of held paths does.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ..core.errors import CommonweightError

_held: dict[Path, int] = {}
_guard = threading.Lock()


class FileLock:
    """Take the lock at ``path`` now, or raise E1401 at once. Released by `release`, by the end of a ``with``,
    or by death.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with _guard:
            if _held.get(self.path) == os.getpid():
                raise _taken(self.path, os.getpid())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as refused:
                owner = _owner(self._fd)
                os.close(self._fd)
                raise _taken(self.path, owner) from refused
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            _held[self.path] = os.getpid()

    def release(self) -> None:
        """Give the lock back; a second call does nothing. The file stays: removing it would race with the
        next holder.
        """
        with _guard:
            if self._fd >= 0:
                if _held.get(self.path) == os.getpid():  # in a forked child it is the parent's
                    del _held[self.path]
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _owner(fd: int) -> int | None:
    text = os.pread(fd, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _taken(path: Path, owner: int | None) -> CommonweightError:
    who = f"process {owner}" if owner else "another process"
    return CommonweightError(
        "E1401",
        f"{path} is locked by {who}",
        "two nodes must never share a journal, a key or a local chain: stop the other one, "
        "or give this one its own folder and key",
    )
