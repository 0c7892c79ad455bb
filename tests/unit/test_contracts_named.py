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


DOC = (ROOT / "docs" / "protocol.md").read_text()
INVARIANTS = [f"I{n}" for n in range(1, 21)]


def rows(section: str) -> list[list[str]]:
    """Cells of each row of the first table below this heading of docs/protocol.md, without its two heads."""
    text = DOC.split(f"\n## {section}\n")[1].split("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("number", INVARIANTS)
def test_every_invariant_has_one_property_and_one_check(number: str) -> None:
    """A property over random arguments of its own, named in the document, and a check in every random life."""
    found = expected(rf"function (test_property_{number}_\w+)")
    listed = [row[1].strip("`") for row in rows("7. Invariants") if row[0] == number]
    assert listed == sorted(found)
    assert len(found) == 1
    lives = (ROOT / "tests" / "contracts" / "Invariants.t.sol").read_text()
    alone = {"I16", "I18", "I19"}  # whole lives brought home; what never reverts; what is never called
    assert number in alone or re.search(rf"\b{number}\b", lives)


def test_every_attack_of_the_document_is_played_once() -> None:
    listed = [row[-1].strip("`") for row in rows("8. Attacks")]
    played = expected(r"function test_attack_(\w+)\(")
    elsewhere = {"reorganisation"}  # in tests/integration/test_reorgs.py, on a real chain
    assert sorted(listed) == sorted(played | elsewhere)
    reorgs = (ROOT / "tests" / "integration" / "test_reorgs.py").read_text()
    assert "test_a_reorganisation_of_any_depth" in reorgs
