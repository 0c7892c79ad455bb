"""Write the compiler's standard-JSON input of every deployed contract to `build/verification/`, for block explorers.

An explorer compiles it and compares with the chain. Libraries are linked by address, so `Protocol`'s and `Tasks`'
inputs carry the addresses that a deployment used: pass them as NAME=0x... arguments.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "verification"
CONTRACTS = ("Vault", "Panel", "Tasks", "Court", "Protocol", "TestToken")
LIBRARIES = ("Exact", "Terms", "Leases", "Merges")


def standard_json(source: str, name: str, libraries: list[str]) -> dict[str, object]:
    """Input that reproduces one contract's bytecode."""
    linked = [arg for library in libraries for arg in ("--libraries", library)]
    command = [
        str(ROOT / "node_modules" / ".bin" / "forge"),
        *("verify-contract", "--show-standard-json-input", *linked, "0x" + "0" * 40, f"{source}:{name}"),
    ]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()}")
    made: dict[str, object] = json.loads(done.stdout)
    return made


def main() -> int:
    """Command line."""
    given = dict(arg.split("=", 1) for arg in sys.argv[1:])
    unknown = sorted(given.keys() - set(LIBRARIES))
    if unknown:
        sys.exit(f"no library is called {', '.join(unknown)}; there are {', '.join(LIBRARIES)}")
    links = [f"contracts/libraries/{name}.sol:{name}:{address}" for name, address in sorted(given.items())]
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in (*CONTRACTS, *LIBRARIES):
        source = f"contracts/{'libraries/' if name in LIBRARIES else ''}{name}.sol"
        (TARGET / f"{name}.json").write_text(json.dumps(standard_json(source, name, links), indent=1) + "\n")
    print(f"wrote {len(CONTRACTS) + len(LIBRARIES)} inputs to {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
