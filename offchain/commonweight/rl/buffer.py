"""A bounded buffer of trajectories on disk, in columns: one file per unit, the freshest policy's first.

Files appear whole (written aside, then renamed), so any number of writers and one reader share a folder, and each of
them may be killed at any time. What is dropped is counted by its reason.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import CommonweightError, EncodingError
from .trajectories import Columns

SUFFIX = ".rl"


@dataclass(frozen=True, slots=True)
class Unit:
    """One file of the buffer: its number, and the policy version that played it."""

    number: int
    version: int

    @property
    def name(self) -> str:
        """File name; sorts by version, then number."""
        return f"{self.version:08d}-{self.number:08d}{SUFFIX}"

    @staticmethod
    def parse(name: str) -> Unit | None:
        """None for files that are none of ours."""
        version, _, number = name.removesuffix(SUFFIX).partition("-")
        if not (name.endswith(SUFFIX) and version.isdigit() and number.isdigit()):
            return None
        return Unit(int(number), int(version))


class TrajectoryBuffer:
    """At most ``limit`` units and ``max_bytes``; the oldest versions make room first."""

    def __init__(self, folder: Path, limit: int = 4096, max_bytes: int = 1 << 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limit = limit
        self.max_bytes = max_bytes
        self.counts: Counter[str] = Counter()
        """Units by what became of them: added, taken, stale, full, malformed."""

    def add(self, unit: Unit, columns: Columns) -> None:
        """Write a unit; an equal name is replaced. Raises E1404 when the disk refuses."""
        path = self.folder / unit.name
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            aside.write_bytes(columns.encode())
            aside.replace(path)
        except OSError as error:
            raise CommonweightError("E1404", f"cannot write {path}: {error}", "free some space") from error
        self.counts["added"] += 1

    def units(self) -> list[Unit]:
        """What is there, newest version first, then by number."""
        found = [Unit.parse(entry.name) for entry in os.scandir(self.folder)]
        return sorted((u for u in found if u is not None), key=lambda u: (-u.version, u.number))

    def prune(self, oldest: int) -> None:
        """Drop units older than version ``oldest``, then whatever is beyond the bounds."""
        size = 0
        for kept, unit in enumerate(self.units()):
            reason = "stale" if unit.version < oldest else "full" if kept >= self.limit else ""
            size += self._size(unit)
            if reason or size > self.max_bytes:
                self._remove(unit, reason or "full")

    def take(self, unit: Unit) -> Columns | None:
        """Read and remove a unit; None when it is gone or malformed."""
        path = self.folder / unit.name
        try:
            columns = Columns.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except EncodingError:
            self._remove(unit, "malformed")
            return None
        self._remove(unit, "taken")
        return columns

    def _size(self, unit: Unit) -> int:
        try:
            return (self.folder / unit.name).stat().st_size
        except FileNotFoundError:
            return 0

    def _remove(self, unit: Unit, reason: str) -> None:
        (self.folder / unit.name).unlink(missing_ok=True)
        self.counts[reason] += 1
