"""A view that is live on a terminal and a line per event in a pipe; the demos fill it."""

from __future__ import annotations

from collections import deque
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel


class LiveView:
    """Keeps the last ``recent`` lines; `console` is stderr when stdout carries JSON."""

    def __init__(self, console: Console, title: str, recent: int) -> None:
        self.console, self.title = console, title
        self.recent: deque[str] = deque(maxlen=recent)
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        """A line of our own."""
        self.recent.append(text)
        if self.live is None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def draw(self, *parts: Any) -> None:
        """Show ``parts`` above the last lines, on a terminal."""
        if self.live is not None:
            lines = Panel("\n".join(self.recent) or "starting", title="events", title_align="left")
            self.live.update(Group(*parts, lines))
