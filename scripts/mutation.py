"""Mutate the contracts one line at a time, and see whether the forge suite notices.

    python scripts/mutation.py --sample 120 --seed 7      a sample, stratified by file; --sample 0: all (hours)
    python scripts/mutation.py ... --minutes 9            stop then; the same command goes on where it stopped
    python scripts/mutation.py ... --report               only print what is known

A mutant that does not compile does not count. The sources are mutated in a copy of the project, in which tests find
contracts by name (`dynamic_test_linking`), so that a mutant recompiles itself and its users and no test. Unit tests
run first, then attacks, then random lives, each until the first failure. What is known is kept in
`build/mutation/known.json` under the mutant and the digest of the contracts, and for survivors that of the tests.
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
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "mutants"
KNOWN = ROOT / "build" / "mutation" / "known.json"
GOAL = 0.9
FORGE = ROOT / "node_modules" / ".bin" / "forge"
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
# Guards, checks and effects of one line, which a mutant leaves out. `emit` belongs to the interface of nodes.
DROPPED = re.compile(
    r"^(if \(.*\) revert .*|_?[a-z]\w*(\.\w+)*\(.*\)|emit .*|[a-z][\w.\[\]]* [-+]?= .*|delete .*);$"
)
STAGES = (
    ("--no-match-contract", "InvariantsTest|AttacksTest"),
    ("--match-contract", "AttacksTest"),
    ("--match-contract", "InvariantsTest"),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one line; ``at`` is the column of the change, so that equal changes of a line differ."""

    file: str
    line: int
    at: int
    before: str
    after: str


def mutants() -> list[Mutant]:
    """Every swap at every place, and every line that can be left out, in code of our own contracts."""
    found = []
    for path in sorted((ROOT / "contracts").rglob("*.sol")):
        if path.name == "TestToken.sol" or path.parent.name == "interfaces":
            continue
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0].rstrip()
            if not code.strip() or code.lstrip().startswith(("import", "event", "error", "pragma")):
                continue
            for pattern, swap in SWAPS:
                for match in re.finditer(pattern, code):
                    after = code[: match.start()] + swap + code[match.end() :]
                    found.append(Mutant(name, number, match.start(), code.strip(), after.strip()))
            if DROPPED.match(code.strip()):
                found.append(Mutant(name, number, 0, code.strip(), "{ }"))
    return found


def sample(found: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """``size`` mutants, each file by its share, in a random order; all of them for 0."""
    rng = random.Random(seed)
    files: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in found:
        files[mutant.file].append(mutant)
    chosen = []
    for name in sorted(files):
        rng.shuffle(files[name])
        share = round(size * len(files[name]) / len(found)) if size else len(files[name])
        chosen += files[name][: max(1, share)]
    rng.shuffle(chosen)
    return chosen


def digest(*folders: str) -> str:
    """Of every file below these folders."""
    state = sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file():
                state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def prepare() -> None:
    """A copy of the project that shares packages and compiler, and keeps forge's cache between runs."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name in ("contracts", "tests/contracts", "tests/vectors"):
        for old in (HOME / name).rglob("*.sol"):
            if not (ROOT / old.relative_to(HOME)).exists():
                old.unlink()
        for path in (ROOT / name).rglob("*"):
            copy = HOME / path.relative_to(ROOT)
            if path.is_file() and (not copy.exists() or copy.read_bytes() != path.read_bytes()):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    text = (ROOT / "foundry.toml").read_text()
    (HOME / "foundry.toml").write_text(
        text.replace("offline = true", "offline = true\ndynamic_test_linking = true")
    )
    for name in ("node_modules", ".venv"):
        if not (HOME / name).is_symlink():
            (HOME / name).symlink_to(ROOT / name)


def forge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Forge in the copy, with few runs of everything random."""
    env = os.environ | {"FOUNDRY_FUZZ_RUNS": "20", "FOUNDRY_INVARIANT_RUNS": "4"}
    command = [str(FORGE), *arguments]
    return subprocess.run(command, cwd=HOME, env=env, check=False, capture_output=True, text=True)


def fate(mutant: Mutant) -> str:
    """``killed``, ``survived``, or ``invalid`` when the mutant does not compile."""
    path = HOME / mutant.file
    original = path.read_text()
    lines = original.splitlines(keepends=True)
    lines[mutant.line - 1] = mutant.after + "\n"
    path.write_text("".join(lines))
    try:
        if forge("build").returncode != 0:
            return "invalid"
        dead = any(forge("test", "--fail-fast", *stage).returncode != 0 for stage in STAGES)
        return "killed" if dead else "survived"
    finally:
        path.write_text(original)


def known() -> dict[str, dict[str, str]]:
    """What earlier runs found, by mutant."""
    return json.loads(KNOWN.read_text()) if KNOWN.exists() else {}


def report(chosen: list[Mutant], keys: dict[Mutant, str], found: dict[str, dict[str, str]]) -> int:
    """Print the kill rate and the survivors of what is known; write build/mutation.json."""
    fates = {m: found[keys[m]]["fate"] for m in chosen if keys[m] in found}
    killed = sum(f == "killed" for f in fates.values())
    survivors = [m for m, f in fates.items() if f == "survived"]
    total = killed + len(survivors)
    for m in sorted(survivors, key=lambda m: (m.file, m.line)):
        print(f"SURVIVED {m.file}:{m.line}\n  - {m.before}\n  + {m.after}")
    share = killed / total if total else 0.0
    rest = len(chosen) - len(fates)
    print(
        f"{killed} of {total} mutants killed ({share:.1%}); {len(fates) - total} do not compile, {rest} to go"
    )
    result = {"mutants": total, "killed": killed, "to_go": rest, "survivors": [asdict(m) for m in survivors]}
    (ROOT / "build" / "mutation.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if share >= GOAL and not rest else 1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=120, help="how many mutants, 0 for all")
    parser.add_argument("--seed", type=int, default=7, help="which sample")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: never")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    started = time.monotonic()
    everything = mutants()
    chosen = sample(everything, args.sample, args.seed)
    print(f"{len(chosen)} of {len(everything)} mutants, seed {args.seed}", flush=True)
    sources, tests = digest("contracts"), digest("tests/contracts", "tests/vectors")
    keys = {m: f"{sources}:{m.file}:{m.line}:{m.at}:{m.after}" for m in chosen}
    found = known()
    KNOWN.parent.mkdir(parents=True, exist_ok=True)
    if not args.report:
        prepare()
        if forge("build").returncode or forge("test", *STAGES[0]).returncode:
            print("the suite fails without any mutation: run make test first")
            return 2
    for mutant in chosen:
        old = found.get(keys[mutant])
        if args.report or (old and (old["fate"] != "survived" or old["tests"] == tests)):
            continue
        if args.minutes and time.monotonic() - started > 60 * args.minutes:
            break
        result = fate(mutant)
        found[keys[mutant]] = {"fate": result, "tests": tests}
        KNOWN.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{result:9} {mutant.file}:{mutant.line} {mutant.before}  ->  {mutant.after}", flush=True)
    return report(chosen, keys, found)


if __name__ == "__main__":
    sys.exit(main())
