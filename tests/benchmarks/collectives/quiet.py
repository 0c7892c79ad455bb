"""Precedence over other load for a benchmark and all its children alike, where control groups allow it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# (folder of the controller, file and value of the largest weight, file that takes a process)
_LAYOUTS = (
    (Path("/sys/fs/cgroup/cpu"), "cpu.shares", "262144", "tasks"),
    (Path("/sys/fs/cgroup"), "cpu.weight", "10000", "cgroup.procs"),
)


@contextmanager
def undisturbed() -> Iterator[str]:
    """Yields how the block is scheduled, for the report. Needs root; does nothing where it cannot."""
    for base, weight, most, members in _LAYOUTS:
        group = base / f"bench-{os.getpid()}"
        try:
            group.mkdir()
            (group / weight).write_text(most)
            (group / members).write_text(str(os.getpid()))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield f"control group of {weight} {most}"
        finally:
            with contextlib.suppress(OSError):
                (base / members).write_text(str(os.getpid()))
                group.rmdir()
        return
    yield "ordinary, beside whatever else runs"
