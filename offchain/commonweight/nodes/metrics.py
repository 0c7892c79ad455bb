"""Structured measurements of a node, one JSON object per line: what tests, the demo and operators read, not logs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Metrics:
    """Append-only ``metrics.jsonl``; safe to use from several threads. ``listen`` is told every record too."""

    def __init__(
        self, path: Path, listen: Callable[[str, dict[str, Any]], None] = lambda event, fields: None
    ) -> None:
        self.path = path
        self._listen = listen
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Append one record with the wall clock (seconds)."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=_plain)
        with self._lock, self.path.open("a") as out:
            out.write(line + "\n")
        self._listen(event, fields)

    @contextmanager
    def timed(self, event: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Record wall and CPU seconds (of this thread) of a block; the block may add fields."""
        extra: dict[str, Any] = {}
        wall, cpu = time.monotonic(), time.thread_time()
        try:
            yield extra
        finally:
            seconds, busy = time.monotonic() - wall, time.thread_time() - cpu
            self.write(event, seconds=round(seconds, 4), cpu=round(busy, 4), **fields, **extra)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete record of a metrics file; a torn last line (kill -9) is ignored."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
