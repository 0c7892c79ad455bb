"""Every custom error and every event of the contracts has a forge test that expects it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABIS = ROOT / "offchain" / "commonweight" / "chain" / "abi"
OURS = ("Vault", "Panel", "Tasks", "Court", "Protocol")
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "contracts").glob("*.sol")))


def named(kind: str) -> list[str]:
    """Names of all errors or events that the packaged interfaces declare."""
    entries = (e for name in OURS for e in json.loads((ABIS / f"{name}.json").read_text())["abi"])
    return sorted({entry["name"] for entry in entries if entry["type"] == kind})


def expected(pattern: str) -> set[str]:
    """Names that the forge tests mention in this way."""
    return set(re.findall(pattern, TESTS))


@pytest.mark.parametrize("name", named("error"))
def test_every_error_is_expected(name: str) -> None:
    """`expectRevert` takes the selector of the error."""
    foreign = {"SafeCastOverflowedUintDowncast", "SafeERC20FailedOperation"}
    assert name in expected(r"\b(\w+)\.selector") or (name in foreign and name in TESTS)


@pytest.mark.parametrize("name", named("event"))
def test_every_event_is_expected(name: str) -> None:
    """`expectEmit` is followed by the event itself."""
    assert name in expected(r"expectEmit\([^)]*(?:\([^)]*\))?\);\s+emit \w+\.(\w+)\(")
