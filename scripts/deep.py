"""The long tests of the contracts, in as many goes as it takes: hours in all, each part well under a minute or two.

    python -m scripts.deep                     what is not done yet, to the end
    python -m scripts.deep --minutes 9         start no new part after so long; the same command goes on
    python -m scripts.deep --only I4           parts whose name holds this; --list: say what is done and what is not

A property's 100,000 runs are ten parts of 10,000, an invariant's 1,000,000 calls forty parts of 25,000, 300 traces
beside the Python model thirty of ten; each part has its own seed. First one part of each, then the next. What has
passed is kept in build/deep.json under the digest of contracts and tests. Reorganisations: `make test-reorgs`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.mutation import FORGE, digest

ROOT = Path(__file__).resolve().parents[1]
DONE = ROOT / "build" / "deep.json"
SEED = 0x434F4D4D4F4E
# Parts that one test is cut into, and what each part runs: by [profile.deep] of foundry.toml.
CUTS = {"property": 10, "invariant": 40, "traces": 30}
TRACES = 10


@dataclass(frozen=True, slots=True)
class Part:
    """One command; `cut` counts the parts of its test."""

    kind: str
    test: str
    cut: int

    @property
    def key(self) -> str:
        """Its name in the list of what is done."""
        return f"{self.test} {self.cut + 1}/{CUTS[self.kind]}"


def tests() -> list[tuple[str, str]]:
    """Every forge test with random arguments, as (kind, Contract.test)."""
    done = subprocess.run(
        [str(FORGE), "test", "--list", "--json"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    listed = json.loads(done.stdout[done.stdout.index("{") :])
    source = "\n".join(p.read_text() for p in sorted((ROOT / "tests" / "contracts").glob("*.t.sol")))
    found = []
    for contracts in listed.values():
        for contract, names in contracts.items():
            for name in names:
                if name.startswith("invariant_"):
                    found.append(("invariant", f"{contract}.{name}"))
                elif re.search(rf"function {name}\(\s*[a-z]", source):
                    found.append(("property", f"{contract}.{name}"))
    return found


def parts() -> list[Part]:
    """One part of everything, then the next."""
    found = [*tests(), ("traces", "traces")]
    return [Part(k, t, cut) for cut in range(max(CUTS.values())) for k, t in found if cut < CUTS[k]]


def run(part: Part) -> subprocess.CompletedProcess[str]:
    """Play one part."""
    env = os.environ | {"FOUNDRY_PROFILE": "deep", "FOUNDRY_FUZZ_SEED": hex(SEED + part.cut)}
    if part.kind == "traces":
        command = [sys.executable, "-m", "tests.reference.protocol", "--seed", str(1000 + TRACES * part.cut)]
        command += ["--traces", str(TRACES), "--actions", "600"]
    else:
        contract, name = part.test.split(".")
        command = [str(FORGE), "test", "--match-contract", f"^{contract}$", "--match-test", f"^{name}$"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env=env)


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=0, help="start nothing after so long; 0: go to the end"
    )
    parser.add_argument("--only", default="", help="only parts whose name holds this")
    parser.add_argument("--list", action="store_true", help="run nothing")
    return parser.parse_args()


def report(done: dict[str, float], wanted: list[Part]) -> None:
    """One line for each test: parts that have passed and their seconds."""
    for test in dict.fromkeys(p.test for p in wanted):
        own = [p for p in wanted if p.test == test]
        seconds = [done[p.key] for p in own if p.key in done]
        mean = sum(seconds) / len(seconds) if seconds else 0
        print(f"{test:75} {len(seconds):2} of {len(own)} parts, {mean:6.1f} s each")
    left = [p for p in wanted if p.key not in done]
    spent = sum(done[p.key] for p in wanted if p.key in done)
    print(
        f"{len(wanted) - len(left)} of {len(wanted)} parts have passed, in {spent:.0f} s; {len(left)} to go"
    )


def main() -> int:
    """Run what is not done, until the time is over or something fails."""
    args, started = arguments(), time.monotonic()
    stamp = f"{digest('contracts')}:{digest('tests/contracts')}"
    told = json.loads(DONE.read_text()) if DONE.exists() else {}
    done: dict[str, float] = told["done"] if told.get("stamp") == stamp else {}
    wanted = [p for p in parts() if args.only in p.key]
    for part in wanted:
        late = args.minutes and time.monotonic() - started > 60 * args.minutes
        if args.list or late or part.key in done:
            continue
        begun = time.monotonic()
        finished = run(part)
        if finished.returncode:
            print(f"FAILED {part.key}\n{finished.stdout[-4000:]}{finished.stderr[-2000:]}")
            return 1
        done[part.key] = round(time.monotonic() - begun, 1)
        print(f"{part.key}: {done[part.key]} s", flush=True)
        DONE.parent.mkdir(exist_ok=True)
        DONE.write_text(json.dumps({"stamp": stamp, "done": done}, indent=1) + "\n")
    report(done, wanted)
    return 0 if all(p.key in done for p in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
