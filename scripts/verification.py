"""Write the compiler's standard-JSON input of the deployed contracts to `build/verification/input.json`.

A block explorer compiles it (solc of foundry.toml, one file for every contract) and compares with the chain. Libraries
are linked by address: pass those of the deployment as NAME=0x... arguments (Exact, Terms, Leases, Merges).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "verification"
LIBRARIES = ("Exact", "Terms", "Leases", "Merges")


def compiler_input() -> dict[str, object]:
    """What forge gives to the compiler for `contracts/`, from its own build record."""
    shutil.rmtree(TARGET, ignore_errors=True)
    folders = {"--out": "out", "--cache-path": "cache", "--build-info-path": "info"}
    command = [str(ROOT / "node_modules" / ".bin" / "forge"), "build", "contracts", "--build-info"]
    command += [part for option, name in folders.items() for part in (option, str(TARGET / name))]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    records = sorted((TARGET / "info").glob("*.json")) if done.returncode == 0 else []
    if not records:
        sys.exit(f"the contracts do not compile: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    whole = json.loads(records[0].read_text())["input"]
    made = {key: whole[key] for key in ("language", "sources", "settings")}
    for name in folders.values():
        shutil.rmtree(TARGET / name, ignore_errors=True)
    return made


def main() -> int:
    """Command line."""
    given = dict(arg.partition("=")[::2] for arg in sys.argv[1:])
    for name, address in given.items():
        if name not in LIBRARIES or not re.fullmatch("0x[0-9a-fA-F]{40}", address):
            sys.exit(f"{name}={address}: give {', '.join(LIBRARIES)} an address each")
    made = compiler_input()
    settings = made["settings"]
    assert isinstance(settings, dict)
    settings["libraries"] = {f"contracts/libraries/{name}.sol": {name: at} for name, at in given.items()}
    (TARGET / "input.json").write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {(TARGET / 'input.json').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
