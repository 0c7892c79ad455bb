"""How much Solidity there is: lines without comments and blank ones per file, and the longest external functions.

python -m tests.benchmarks.contracts_size
"""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "contracts"
VERB = re.compile(r"^    function (\w+)\([^{;]*?\b(?:external|public)\b[^{;]*\{", re.MULTILINE)
LONG = 20  # lines of an external function, signature and braces included


def code_of(path: Path) -> list[str]:
    """The lines of a source that are neither blank nor comment."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    return [line for line in text.splitlines() if line.strip()]


def lines() -> dict[str, int]:
    """Lines of code per file."""
    return {str(p.relative_to(SOURCES)): len(code_of(p)) for p in sorted(SOURCES.rglob("*.sol"))}


def verbs() -> dict[str, int]:
    """Lines of code of every external and public function, by file and name."""
    found = {}
    for path in sorted(SOURCES.rglob("*.sol")):
        text = "\n".join(code_of(path))
        for match in VERB.finditer(text):
            end = text.index("\n    }", match.end() - 1) if text[match.end()] == "\n" else match.end()
            found[f"{path.stem}.{match[1]}"] = text.count("\n", match.start(), end + 1) + 1
    return found


def report() -> dict[str, int]:
    """Print the table; the numbers by name."""
    per_file = lines()
    print(f"\n{'lines of Solidity, without comments':44} {'lines':>5}")
    for name, count in per_file.items():
        print(f"{name:44} {count:5,}")
    print(f"{'all':44} {sum(per_file.values()):5,}")
    long = {name: count for name, count in verbs().items() if count > LONG}
    print(f"{f'external functions longer than {LONG} lines':44} {len(long):5}")
    for name, count in sorted(long.items(), key=lambda item: -item[1]):
        print(f"  {name:42} {count:5}")
    return per_file | {"all": sum(per_file.values()), "longer than 20 lines": len(long)}


if __name__ == "__main__":
    report()
