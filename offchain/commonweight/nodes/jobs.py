"""Long work beside the loop: one thread that trains, checks and merges, so that deadlines are met meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

RETRY_AFTER = 2.0
KEEP = 256


class Jobs:
    """Runs each named job once; a failed one may be tried again after `RETRY_AFTER` seconds."""

    def __init__(self, on_error: Callable[[Hashable, BaseException], None]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        self._running: dict[Hashable, Future[Any]] = {}
        self._done: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, float] = {}
        self._on_error = on_error

    def result(self, key: Hashable, work: Callable[[], Any]) -> Any | None:
        """The job's result (never None), or None while it runs, waits its turn or has just failed."""
        if key in self._done:
            return self._done[key]
        if key in self._running:
            return self._collect(key)
        if time.monotonic() - self._failed.get(key, -RETRY_AFTER) < RETRY_AFTER:
            return None
        self._failed.pop(key, None)
        self._running[key] = self._pool.submit(work)
        return None

    def _collect(self, key: Hashable) -> Any | None:
        future = self._running[key]
        if not future.done():
            return None
        del self._running[key]
        error = future.exception()
        if error is not None:
            self._failed[key] = time.monotonic()
            self._on_error(key, error)
            return None
        self._done[key] = future.result()
        while len(self._done) > KEEP:
            del self._done[next(iter(self._done))]
        return self._done[key]

    def collected(self) -> bool:
        """True when a job has finished since it was last looked at, or may be tried again."""
        return any(future.done() for future in self._running.values()) or any(
            time.monotonic() - at >= RETRY_AFTER for at in self._failed.values()
        )

    @property
    def busy(self) -> bool:
        """Something is still running; a result that nobody came back for does not count."""
        return any(not future.done() for future in self._running.values())

    def close(self) -> None:
        """Drop what has not started; what runs may end with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
