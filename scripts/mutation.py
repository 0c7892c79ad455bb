"""Mutate the contracts one operator at a time, and see whether the forge suite notices.

    python scripts/mutation.py --limit 40 --seed 1        a random sample; --limit 0: all of them (hours)

A mutant that does not compile does not count. Survivors are printed with file, line and change, and written to
`build/mutation.json`. The sources are mutated in a copy of the project, never in place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "mutants"
GOAL = 0.9
SWAPS = (
    (r" < ", " >= "),
    (r" >= ", " < "),
    (r" > ", " <= "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" \+= ", " -= "),
    (r" -= ", " += "),
    (r" \+ ", " - "),
    (r" / 2\b", " / 3"),
    (r" \|\| ", " && "),
    (r" && ", " || "),
    (r"\btrue\b", "false"),
    (r"\b0\) revert", "1) revert"),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one line."""

    file: str
    line: int
    before: str
    after: str


def mutants() -> list[Mutant]:
    """Every swap at every place in code of our own contracts."""
    found = []
    for path in sorted((ROOT / "contracts").rglob("*.sol")):
        if path.name == "TestToken.sol" or path.parent.name == "interfaces":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if not code.strip() or code.lstrip().startswith(("import", "event", "error", "pragma")):
                continue
            for pattern, swap in SWAPS:
                for match in re.finditer(pattern, code):
                    after = line[: match.start()] + swap + line[match.end() :]
                    found.append(Mutant(str(path.relative_to(ROOT)), number, line.strip(), after.strip()))
    return found


def prepare() -> None:
    """A copy of the project that shares packages and compiler."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    for name in ("contracts", "tests/contracts", "tests/vectors"):
        shutil.copytree(ROOT / name, HOME / name)
    shutil.copy(ROOT / "foundry.toml", HOME)
    for name in ("node_modules", ".venv"):
        (HOME / name).symlink_to(ROOT / name)


def survives(mutant: Mutant) -> bool | None:
    """True when every test passes; None when the mutant does not compile."""
    path = HOME / mutant.file
    original = path.read_text()
    lines = original.splitlines(keepends=True)
    indent = lines[mutant.line - 1][: len(lines[mutant.line - 1]) - len(lines[mutant.line - 1].lstrip())]
    lines[mutant.line - 1] = indent + mutant.after + "\n"
    path.write_text("".join(lines))
    env = os.environ | {"FOUNDRY_FUZZ_RUNS": "20", "FOUNDRY_INVARIANT_RUNS": "2"}
    command = [str(ROOT / "node_modules" / ".bin" / "forge"), "test", "--fail-fast"]
    done = subprocess.run(command, cwd=HOME, env=env, check=False, capture_output=True, text=True)
    path.write_text(original)
    if "Compiler run failed" in done.stdout + done.stderr:
        return None
    return done.returncode == 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=40, help="how many mutants, 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    args = parser.parse_args()
    chosen = mutants()
    print(f"{len(chosen)} mutants, seed {args.seed}", flush=True)
    random.Random(args.seed).shuffle(chosen)
    prepare()
    survivors: list[Mutant] = []
    killed = 0
    for mutant in chosen[: args.limit or len(chosen)]:
        alive = survives(mutant)
        if alive is None:
            continue
        killed += not alive
        print("." if not alive else "S", end="", flush=True)
        if alive:
            survivors.append(mutant)
            print(
                f"SURVIVED {mutant.file}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}", flush=True
            )
    total = killed + len(survivors)
    result = {
        "seed": args.seed,
        "mutants": total,
        "killed": killed,
        "survivors": [asdict(m) for m in survivors],
    }
    (ROOT / "build" / "mutation.json").write_text(json.dumps(result, indent=1) + "\n")
    share = killed / total if total else 0.0
    print(f"{killed} of {total} mutants killed ({share:.0%})")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
