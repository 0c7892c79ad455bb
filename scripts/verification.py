"""Write the compiler's standard-JSON input of the deployed contracts to `build/verification/input.json`, and prove it.

    python scripts/verification.py [Exact=0x... Terms=0x... Leases=0x... Merges=0x...]

A block explorer compiles the file (solc of foundry.toml, one file for every contract) and compares with the chain.
Libraries are linked by address: `commonweight contracts check` prints those of a deployment, and the constructor's
arguments that an explorer asks for. Here the file is compiled on its own, with nothing else at hand, and has to give
the packaged bytecode of every contract, byte for byte.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from commonweight.chain.deployment import CONTRACTS, LIBRARIES, creation_code

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "verification"
COMPILER = ROOT / ".venv" / "solcx" / "solc-v0.8.37"
DEPLOYED = ("TestToken", *(name for name in CONTRACTS if name != "Token"), *LIBRARIES)


def compiler_input() -> dict[str, Any]:
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


def differences(made: dict[str, Any], given: dict[str, str]) -> list[str]:
    """Contracts of which compiling ``made`` gives other bytecode than the package has."""
    done = subprocess.run(
        [str(COMPILER), "--standard-json"],
        input=json.dumps(made),
        cwd=TARGET,  # no source is here: what the file lacks cannot be found
        check=True,
        capture_output=True,
        text=True,
    )
    output = json.loads(done.stdout)
    errors = [e["formattedMessage"] for e in output.get("errors", []) if e["severity"] == "error"]
    if errors:
        sys.exit(f"the input does not compile on its own: {errors[0]}")
    codes = {
        name: contract["evm"]["bytecode"]["object"]
        for file, contracts in output["contracts"].items()
        if file.startswith("contracts/")
        for name, contract in contracts.items()
    }
    libraries = {name: bytes.fromhex(at[2:]) for name, at in given.items()}
    return [
        name
        for name in DEPLOYED
        if re.sub(r"__\$[0-9a-f]{34}\$__", "0" * 40, codes.get(name, ""))
        != creation_code(name, libraries).hex()
    ]


def main() -> int:
    """Command line."""
    given = dict(arg.partition("=")[::2] for arg in sys.argv[1:])
    for name, address in given.items():
        if name not in LIBRARIES or not re.fullmatch("0x[0-9a-fA-F]{40}", address):
            sys.exit(f"{name}={address}: give {', '.join(LIBRARIES)} an address each")
    made = compiler_input()
    made["settings"]["libraries"] = {
        f"contracts/libraries/{name}.sol": {name: address} for name, address in given.items()
    }
    (TARGET / "input.json").write_text(json.dumps(made, indent=1) + "\n")
    other = differences(json.loads((TARGET / "input.json").read_text()), given)
    if other:
        sys.exit(f"compiled on its own it gives other bytecode than the package: {', '.join(other)}")
    print(
        f"wrote {(TARGET / 'input.json').relative_to(ROOT)}: {len(made['sources'])} sources; compiled on its own "
        f"it gives the packaged bytecode of {', '.join(DEPLOYED)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
