"""The documents keep up with the code: every key of a task file and every error id is explained, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

from commonweight.core import spec

ROOT = Path(__file__).parents[2]
SECTIONS = (*spec._SECTIONS.values(), spec.Windows)


def test_every_key_of_a_task_file_is_documented() -> None:
    words = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "spec.md").read_text()))
    keys = {f.name for section in SECTIONS for f in fields(section) if not is_dataclass(f.default_factory)}
    assert not keys - words - {"windows"}
    assert not set(spec.KINDS) - words


def test_every_error_id_is_documented_once() -> None:
    package = ROOT / "offchain" / "commonweight"
    used = {code for path in package.rglob("*.py") for code in re.findall(r'"(E1\d{3})"', path.read_text())}
    listed = re.findall(r"^\| (E1\d{3}) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == used
