"""Make mutants of the contracts, and see whether the forge suite notices each.

    python -m scripts.mutation                         all that is not known yet, in a random order (a good hour)
    python -m scripts.mutation --minutes 9             stop then; the same command goes on where it stopped
    python -m scripts.mutation --file Court --sample 0.2 --seed 7     a part of one file, or of every file
    python -m scripts.mutation --report                only print what is known

All mutants are compiled once (scripts/mutants.py), in a copy of the project; what does not compile does not count.
Then each costs a run of the tests with its switch on: first the test that killed it last time, then those of its own
file, then all unit tests, attacks and random lives, each until the first failure, with few runs of everything random.
A run that takes far longer than without a mutant counts as noticed. What is known is kept in
`build/mutation/known.json` under the digest of contracts and tests. A survivor has to be listed with its reason in
tests/contracts/survivors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from scripts.mutants import FIRST, ROOT, SOLC, SWITCH, Mutant, each, mutants, written

HOME = ROOT / "build" / "mutants"
KNOWN = ROOT / "build" / "mutation" / "known.json"
REASONS = ROOT / "tests" / "contracts" / "survivors.json"
FORGE = ROOT / "node_modules" / ".bin" / "forge"
GOAL = 0.9
PATIENCE = 90
# What a switch in every expression breaks by itself, and what only counts what others reach.
NOT = "test_sizes|test_every_state_is_reached"
OWN = {
    "Vault": "VaultTest",
    "Panel": "PanelTest",
    "Court": "CourtTest",
    "Tasks": "TasksTest|LeasesTest",
    "Leases": "LeasesTest",
    "Merges": "MergeTest",
    "Exact": "TreeTest|MergeTest",
    "Tree": "TreeTest|MergeTest",
    "Terms": "EconomicsTest|TasksTest",
}
STAGES = (
    ("--no-match-contract", "InvariantsTest|AttacksTest|PropertiesTest|MergeTest"),
    ("--match-contract", "AttacksTest|PropertiesTest|MergeTest"),
    ("--match-contract", "InvariantsTest"),
)


def digest(*folders: str) -> str:
    """Of every file below these folders."""
    state = sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.sol")):
            state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def copy(found: list[Mutant], dead: set[int]) -> None:
    """The project with all these mutants behind switches; packages and compiler are shared."""
    for name in ("contracts", "tests/contracts", "tests/vectors"):
        shutil.rmtree(HOME / name, ignore_errors=True)
        shutil.copytree(ROOT / name, HOME / name, ignore=shutil.ignore_patterns("symbolic"))
    (HOME / "contracts" / "Mutant.sol").write_text(SWITCH)
    for name, own in each(found):
        (HOME / name).write_bytes(written(name, {n: m for n, m in own.items() if n not in dead}))
    shutil.copy(ROOT / "foundry.toml", HOME)
    for name in ("node_modules", ".venv"):
        if not (HOME / name).is_symlink():
            (HOME / name).symlink_to(ROOT / name)


def misfits() -> set[int]:
    """Numbers of mutants in the copy that the compiler does not take."""
    names = [str(p.relative_to(HOME)) for p in (HOME / "contracts").rglob("*.sol")]
    texts = {name: (HOME / name).read_text() for name in names}
    settings = {
        "remappings": ["@openzeppelin/=node_modules/@openzeppelin/"],
        "outputSelection": {"*": {"": ["ast"]}},
    }
    asked = {
        "language": "Solidity",
        "sources": {n: {"content": t} for n, t in texts.items()},
        "settings": settings,
    }
    command = [str(SOLC), "--base-path", str(ROOT), "--standard-json"]
    done = subprocess.run(command, input=json.dumps(asked), check=True, capture_output=True, text=True)
    bad = set()
    for error in json.loads(done.stdout).get("errors", []):
        if error["severity"] != "error":
            continue
        at, raw = error["sourceLocation"], texts[error["sourceLocation"]["file"]].encode()
        inside = re.search(rb"Mutant\.on\((\d+)\)", raw[at["start"] : at["end"]])
        number = inside[1] if inside else re.findall(rb"Mutant\.on\((\d+)\)", raw[: at["start"]])[-1]
        bad.add(int(number) - FIRST)
    return bad


def prepare(found: list[Mutant], sources: str) -> set[int]:
    """Build the copy; the numbers of the mutants that do not compile, which are kept beside it."""
    memo = HOME / "misfits.json"
    told = json.loads(memo.read_text()) if memo.exists() else {}
    dead: set[int] = set(told.get("numbers", ())) if told.get("sources") == sources else set()
    HOME.mkdir(parents=True, exist_ok=True)
    copy(found, dead)
    while told.get("sources") != sources and (more := misfits()):
        dead |= more
        copy(found, dead)
    memo.write_text(json.dumps({"sources": sources, "numbers": sorted(dead)}))
    built = subprocess.run([FORGE, "build"], cwd=HOME, check=False, capture_output=True, text=True)
    if built.returncode:
        sys.exit(built.stdout + built.stderr)
    return dead


def failing(number: int | None, *arguments: str, patience: float = PATIENCE) -> str:
    """Name of a test that fails while this mutant lives: empty when none does, "time" when they never end."""
    env = os.environ | {"FOUNDRY_FUZZ_RUNS": "20", "FOUNDRY_INVARIANT_RUNS": "2", "FOUNDRY_THREADS": "1"}
    if number is not None:
        env["FOUNDRY_BLOCK_COINBASE"] = f"0x{FIRST + number:040x}"
    command = [str(FORGE), "test", "--fail-fast", "--no-match-test", NOT, *arguments]
    if "--match-test" in arguments:
        command = [str(FORGE), "test", *arguments]
    with subprocess.Popen(
        command, cwd=HOME, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        try:
            out = run.communicate(timeout=patience)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return "time"
    names = re.findall(r"^\[FAIL.*?\] (\w+)\(", out, re.MULTILINE)
    if not names and run.returncode:
        sys.exit(f"forge failed without a failing test:\n{out[-3000:]}")
    return names[0] if names else ""


def killer(number: int, mutant: Mutant, before: str) -> str:
    """The test that notices the mutant, if any does."""
    if before and before not in ("time", "setUp") and failing(number, "--match-test", f"^{before}$"):
        return before
    own = OWN.get(Path(mutant.file).stem)
    stages = ((("--match-contract", own),) if own else ()) + STAGES
    return next((name for stage in stages if (name := failing(number, *stage))), "")


def sample(found: list[Mutant], alive: list[int], share: float, seed: int) -> list[int]:
    """This share of every file's mutants, in a random order."""
    rng = random.Random(seed)
    chosen: list[int] = []
    for name in dict.fromkeys(m.file for m in found):
        own = [n for n in alive if found[n].file == name]
        rng.shuffle(own)
        chosen += own[: -int(-len(own) * share // 1)]
    rng.shuffle(chosen)
    return chosen


def report(found: list[Mutant], chosen: list[int], fates: dict[int, str]) -> int:
    """Print the kill rate, by file and in all, and the survivors; write build/mutation.json."""
    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    survivors = [found[n] for n in sorted(fates) if not fates[n]]
    for m in survivors:
        print(f"SURVIVED line {m.line} of {m.key}\n    {reasons.get(m.key, 'WITHOUT A REASON')}")
    per = Counter(found[n].file for n in fates)
    lost = Counter(m.file for m in survivors)
    for name in sorted(per):
        print(f"{name:32} {per[name] - lost[name]:4} of {per[name]:4} killed")
    total, killed = len(fates), len(fates) - len(survivors)
    share, rest = killed / max(1, total), len(chosen) - total
    known = {m.key for n, m in enumerate(found) if fates.get(n, "") == ""}
    stale = sorted(set(reasons) - known) if not rest else []
    for key in stale:
        print(f"listed, but killed or gone: {key}")
    bare = [m.key for m in survivors if m.key not in reasons]
    print(
        f"{killed} of {total} mutants killed ({share:.1%}), {len(bare)} survivors without a reason; {rest} to go"
    )
    result = {"mutants": total, "killed": killed, "to_go": rest, "survivors": [m.key for m in survivors]}
    (ROOT / "build" / "mutation.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if share >= GOAL and not rest and not bare else 1


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=float, default=1.0, help="the share of every file's mutants, 1: all")
    parser.add_argument("--seed", type=int, default=7, help="which sample, and in which order")
    parser.add_argument("--file", default="", help="only files with this name, for example Court")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: never")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser.parse_args()


def main() -> int:
    """Plan, build, run, report."""
    args, started = arguments(), time.monotonic()
    found, sources = mutants(), digest("contracts")
    KNOWN.parent.mkdir(parents=True, exist_ok=True)
    told = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    stamp = f"{sources}:{digest('tests/contracts')}"
    dead = prepare(found, sources)
    alive = [n for n, m in enumerate(found) if n not in dead and args.file in Path(m.file).stem]
    chosen = sample(found, alive, args.sample, args.seed)
    print(f"{len(chosen)} of {len(found) - len(dead)} mutants, seed {args.seed}; {len(dead)} do not compile")
    if not args.report and (name := next((n for s in STAGES if (n := failing(None, *s, patience=900))), "")):
        sys.exit(f"{name} fails without any mutation: run make test first")

    def known(number: int) -> str | None:
        old = told.get(found[number].key, {})
        # More tests kill no fewer: who was killed is dead until the contracts change.
        return (
            old["by"]
            if old.get("stamp") == stamp or (old.get("stamp", "").startswith(sources) and old["by"])
            else None
        )

    def judge(number: int) -> None:
        if args.minutes and time.monotonic() - started > 60 * args.minutes:
            return
        mutant = found[number]
        by = killer(number, mutant, told.get(mutant.key, {}).get("by", ""))
        told[mutant.key] = {"by": by, "stamp": stamp}
        KNOWN.write_text(json.dumps(told, indent=1) + "\n")
        print(f"{'killed by ' + by if by else 'SURVIVED'}: line {mutant.line} of {mutant.key}", flush=True)

    if not args.report:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(judge, [n for n in chosen if known(n) is None]))
    return report(found, chosen, {n: by for n in chosen if (by := known(n)) is not None})


if __name__ == "__main__":
    sys.exit(main())
