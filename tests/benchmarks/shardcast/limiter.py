"""Limiters in user space: each listens on a port, passes connections on to another, and lets answers through at a rate.

Usage: ``limiter.py LISTEN:TARGET:BYTES_PER_SECOND ...``, all on 127.0.0.1; prints a line when all listen. What is read
from the node is little, so that the node sees the slow line and not a large buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

PIECE = 32 * 1024


class Line:
    """One node's uplink, shared by all its connections."""

    def __init__(self, target: int, rate: float) -> None:
        self._target, self._rate, self._free = target, rate, 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side has had enough."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            inner, outer = await asyncio.open_connection(sock=await self._connect(), limit=PIECE)
            asked = asyncio.create_task(self._ask(reader, outer))
            try:
                await self._answer(inner, writer)
            finally:
                asked.cancel()
                outer.close()
        writer.close()

    async def _connect(self) -> socket.socket:
        """To the node, with a receive buffer so small that what it has sent has nearly arrived."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * PIECE)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._target))
        return sock

    async def _ask(self, reader: asyncio.StreamReader, outer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                outer.write(piece)
                await outer.drain()
            outer.write_eof()

    async def _answer(self, inner: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while piece := await inner.read(PIECE):
            now = loop.time()
            self._free = max(self._free, now - 0.01) + len(piece) / self._rate  # a burst of ten milliseconds
            if self._free > now:
                await asyncio.sleep(self._free - now)
            writer.write(piece)
            await writer.drain()


async def main(words: list[str]) -> None:
    """Listen until terminated."""
    servers = []
    for word in words:
        listen, target, rate = word.split(":")
        line = Line(int(target), float(rate))
        servers.append(await asyncio.start_server(line.serve, "127.0.0.1", int(listen), limit=PIECE))
        for sock in servers[-1].sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
