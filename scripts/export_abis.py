"""Package what the compiler made of `contracts/`: one JSON file per contract in `commonweight/chain/abi/`.

    python scripts/export_abis.py            compile with forge and write the files
    python scripts/export_abis.py --check    compile, compare, and fail when a file does not match its source

A node needs neither a compiler nor Brownie: it reads these files. Each ABI entry is one line, so that a change
of the interface reads as a change of lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "offchain" / "commonweight" / "chain" / "abi"
CONTRACTS = ("Vault", "Panel", "Tasks", "Court", "Protocol", "TestToken")
# External libraries, in an order in which each comes after those that it is linked to.
LIBRARIES = ("Exact", "Terms", "Leases", "Merges")
# What a deployment calls its reward token, whichever contract that is: the interface without code.
TOKEN = "Token"
MAX_RUNTIME = 24_576
MAX_INITCODE = 49_152


def forge() -> str:
    """The forge binary of this checkout, or of the machine."""
    local = ROOT / "node_modules" / ".bin" / "forge"
    found = str(local) if local.exists() else shutil.which("forge")
    if not found:
        sys.exit("export_abis: forge is not installed; run `make setup`")
    return found


def compile_contracts() -> Path:
    """Compile with forge (nothing is compiled twice) and return its output folder."""
    config = subprocess.run(
        [forge(), "config", "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, env=os.environ
    )
    built = subprocess.run(
        [forge(), "build", "contracts"], cwd=ROOT, check=False, stdout=subprocess.PIPE, env=os.environ
    )
    if built.returncode:
        sys.stdout.buffer.write(built.stdout)
        sys.exit("export_abis: the contracts do not compile")
    return ROOT / Path(json.loads(config.stdout)["out"])


def unlinked(code: dict[str, Any]) -> tuple[bytes, dict[str, list[int]]]:
    """Bytecode with zeros where a library's address belongs, and where that is: library to byte offsets."""
    places = {
        library: sorted(place["start"] for place in found)
        for file in code.get("linkReferences", {}).values()
        for library, found in file.items()
    }
    text = re.sub(r"__\$[0-9a-f]{34}\$__", "0" * 40, code["object"].removeprefix("0x"))
    return bytes.fromhex(text), places


def packaged(name: str, artifact: dict[str, Any]) -> dict[str, Any]:
    """The packaged form of one compiled contract.

    The runtime hash is of the code with its immutables and its libraries' addresses zero.
    """
    code, places = unlinked(artifact["bytecode"])
    runtime, _ = unlinked(artifact["deployedBytecode"])
    if len(runtime) > MAX_RUNTIME or len(code) > MAX_INITCODE:
        sys.exit(f"export_abis: {name} is too large for a chain: {len(runtime)} / {len(code)} bytes")
    return {
        "contractName": name,
        "abi": artifact["abi"],
        "bytecode": "0x" + code.hex(),
        "links": places,
        "deployedBytecode": {
            "size": len(runtime),
            "sha256": hashlib.sha256(runtime).hexdigest(),
            "immutables": sorted(
                [place["start"], place["length"]]
                for places in artifact["deployedBytecode"].get("immutableReferences", {}).values()
                for place in places
            ),
        },
    }


def text(entry: dict[str, Any]) -> str:
    """Stable formatting: keys in their order, one line per ABI entry."""
    lines = []
    for key, value in entry.items():
        if key == "abi":
            rows = ",\n".join("  " + json.dumps(row, separators=(", ", ": ")) for row in value)
            lines.append(f' "abi": [\n{rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def files(out: Path) -> dict[str, str]:
    """File name to content, for every packaged contract."""
    made = {}
    for name in (*CONTRACTS, *LIBRARIES):
        artifact = json.loads((out / f"{name}.sol" / f"{name}.json").read_text())
        made[f"{name}.json"] = text(packaged(name, artifact))
        if name == "TestToken":
            made[f"{TOKEN}.json"] = text({"contractName": TOKEN, "abi": artifact["abi"]})
    return made


def differences(made: dict[str, str]) -> list[str]:
    """The names of files that are missing, stale or not ours."""
    present = {path.name: path.read_text() for path in TARGET.glob("*.json")}
    return sorted(name for name in made.keys() | present.keys() if made.get(name) != present.get(name))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    args = parser.parse_args()
    made = files(compile_contracts())
    stale = differences(made)
    if args.check:
        if stale:
            print(f"stale: {', '.join(stale)}; run `python scripts/export_abis.py`", file=sys.stderr)
        return 1 if stale else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (TARGET / name).write_text(made[name])
        else:
            (TARGET / name).unlink()
    print(f"{len(made)} packaged contracts, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
