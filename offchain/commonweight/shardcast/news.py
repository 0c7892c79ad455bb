"""Who waits to hear that more of an artifact is here: news that comes in threads, told in the server's loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from .limits import Limits
from .store import Store


class News:
    """Wakes requests that wait for more of an artifact. The store calls from any thread, requests wait in one loop."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[bytes, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        store.listeners.append(self._tell)

    @contextlib.asynccontextmanager
    async def waiting(self, root: bytes) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """From here on nothing is missed; what is yielded waits for a change, or for `Limits.poll_seconds`."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._waiting.setdefault(root, set()).add(event)

        async def changed() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll_seconds):
                    await event.wait()
                    await asyncio.sleep(self._limits.settle_seconds)

        try:
            yield changed
        finally:
            self._waiting[root].discard(event)
            if not self._waiting[root]:
                del self._waiting[root]

    def _tell(self, root: bytes) -> None:
        if self._loop is not None and root in self._waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake, root)

    def _wake(self, root: bytes) -> None:
        for event in self._waiting.get(root, ()):
            event.set()
