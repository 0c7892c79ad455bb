"""Publisher's side: where the text of a task comes from. Everybody else fetches it by its root."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from ..core.errors import CommonweightError
from ..core.spec import DataSpec

MIN_BYTES = 4096


def load(spec: DataSpec, base: Path) -> bytes:
    """Text of a source: ``pydoc-topics``, ``stdlib``, or a file relative to ``base``. Raises E1006."""
    if spec.source == "pydoc-topics":
        data = _topics()
    elif spec.source == "stdlib":
        data = _stdlib(spec.max_bytes)
    else:
        data = _file(base, spec.source, spec.max_bytes)
    data = data[: spec.max_bytes]
    if len(data) < MIN_BYTES:
        raise CommonweightError(
            "E1006", f"data source {spec.source} has {len(data)} bytes, at least {MIN_BYTES} are needed"
        )
    return data


def _topics() -> bytes:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def _stdlib(limit: int) -> bytes:
    folder = Path(sysconfig.get_paths()["stdlib"])
    out = bytearray()
    for path in sorted(folder.glob("*.py")):
        out += path.read_bytes()
        if len(out) >= limit:
            break
    return bytes(out)


def _file(base: Path, name: str, limit: int) -> bytes:
    try:
        with (base / name).open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise CommonweightError(
            "E1006", f"cannot read the data source {name!r} in {base}: {error.strerror}"
        ) from error
