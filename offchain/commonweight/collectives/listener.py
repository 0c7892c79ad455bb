"""A member's open door: accepts connections, lets in who knows the token, and bounds how many of either there are."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from ..core.errors import CommonweightError, EncodingError
from .wire import Credentials, Link, LinkError, answer

CONNECTIONS, STRANGERS = 256, 32  # open at once; of these, not yet authenticated
Metric = Callable[..., None]


def spawn(target: Callable[..., None], *arguments: object) -> None:
    """Run ``target`` in a thread that does not keep the process alive."""
    threading.Thread(target=target, args=arguments, daemon=True).start()


class Listener:
    """Hands every authenticated link to ``use``, each in a thread of its own."""

    def __init__(
        self, me: Credentials, listen: tuple[str, int], use: Callable[[Link], None], metric: Metric
    ) -> None:
        self._me, self._use, self._metric = me, use, metric
        try:
            self._socket = socket.create_server(listen, backlog=64)
        except (OSError, OverflowError) as error:
            raise CommonweightError(
                "E1501",
                f"cannot listen on {listen[0]}:{listen[1]}: {error}",
                "choose another port, or stop what uses it",
            ) from error
        self.address: tuple[str, int] = (listen[0], self._socket.getsockname()[1])
        self._open = threading.BoundedSemaphore(CONNECTIONS)
        self._strangers = threading.BoundedSemaphore(STRANGERS)
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def close(self) -> None:
        """Accept nobody any more; links that were let in stay."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the accepting thread
        self._socket.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return  # closed
            if self._strangers.acquire(blocking=False):
                spawn(self._welcome, sock)
            else:
                sock.close()

    def _welcome(self, sock: socket.socket) -> None:
        try:
            link = answer(self._me, sock)
        except (LinkError, EncodingError) as error:
            self._metric("rejected", reason=error.message)
            return
        finally:
            self._strangers.release()
        if not self._open.acquire(blocking=False):
            link.close()
            return
        try:
            self._use(link)
        finally:
            self._open.release()
