"""What has to go when a store is full. Pure: no clock, no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """A file of a store: the folder it is in, its bytes, and when it was used last (Unix seconds)."""

    place: str
    size: int
    used: float


def victims(
    evictable: Iterable[tuple[bytes, Entry]],
    kept: Mapping[bytes, Entry],
    tasks: Mapping[bytes, int],
    over_quota: int,
    short_of_disk: int,
) -> list[tuple[bytes, Entry]] | None:
    """What to remove so that both lacks (in bytes, or not positive) are gone; None when all of it is not enough.

    The task that was used longest ago goes first, and within it what was used longest ago; an artifact of no task
    counts as a task of its own.
    """
    used: dict[int, float] = {}
    for root, entry in kept.items():
        if (task := tasks.get(root)) is not None:
            used[task] = max(used.get(task, 0.0), entry.used)

    def order(item: tuple[bytes, Entry]) -> tuple[float, float]:
        task = tasks.get(item[0])
        return (item[1].used if task is None else used.get(task, item[1].used), item[1].used)

    lacking, chosen = max(over_quota, short_of_disk), []
    for item in sorted(evictable, key=order):
        if lacking <= 0:
            break
        chosen.append(item)
        lacking -= item[1].size
    return chosen if lacking <= 0 else None
