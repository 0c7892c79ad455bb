"""Reorganisations of every depth from 1 to 64 at every step of the protocol, in as many goes as it takes.

    python -m tests.integration.reorg_matrix                      what is not done yet, to the end
    python -m tests.integration.reorg_matrix --minutes 9          stop then; the same command goes on
    python -m tests.integration.reorg_matrix --steps claim,rule --every 8     a part: depths 1, 9, 17, .. and 64

What has passed is kept in build/reorgs.json under the digest of the contracts and of the Python that follows the chain.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from .reorg_life import DEEPEST, SCRIPT, Life, essence, survive

ROOT = Path(__file__).resolve().parents[2]
DONE = ROOT / "build" / "reorgs.json"
FOLDERS = ("offchain/commonweight/core", "offchain/commonweight/chain", "offchain/commonweight/nodes")


def digest() -> str:
    """Of all that a node's state depends on, the packaged contracts among it, and of the script of the life."""
    state = sha256(Path(__file__).with_name("reorg_life.py").read_bytes())
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".json"):
                state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def depths(every: int) -> list[int]:
    """Each depth, or every so manyth and the deepest."""
    return sorted({*range(1, DEEPEST + 1, every), DEEPEST})


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: never")
    parser.add_argument("--steps", default=",".join(SCRIPT), help=f"of {', '.join(SCRIPT)}")
    parser.add_argument("--every", type=int, default=1, help="every so manyth depth")
    return parser.parse_args()


def main() -> int:
    """Play one life, undo it at each step to each depth that has not passed yet, and say how far that is."""
    args, started, stamp = arguments(), time.monotonic(), digest()
    told = json.loads(DONE.read_text()) if DONE.exists() else {}
    done: dict[str, list[int]] = told["done"] if told.get("stamp") == stamp else {}
    steps = [step for step in SCRIPT if step in args.steps.split(",")]
    wanted = {step: [d for d in depths(args.every) if d not in done.get(step, [])] for step in steps}
    total = sum(len(w) for w in wanted.values())
    print(f"{total} reorganisations to play at {len(steps)} steps", flush=True)
    played = 0
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder)) if total else None
        try:
            for step in steps:
                begun, here = time.monotonic(), 0
                for depth in wanted[step]:
                    if args.minutes and time.monotonic() - started > 60 * args.minutes:
                        break
                    assert life is not None
                    if not here:
                        life.reach(step)
                        life.pump()
                        reached = essence(life.state)
                    survive(life, step, depth, reached)
                    done.setdefault(step, []).append(depth)
                    DONE.parent.mkdir(exist_ok=True)
                    DONE.write_text(json.dumps({"stamp": stamp, "done": done}) + "\n")
                    here += 1
                played += here
                seconds, passed = time.monotonic() - begun, len(done.get(step, []))
                print(f"{step:20} {passed:2} of {DEEPEST} depths, {here} now in {seconds:.0f} s", flush=True)
        finally:
            if life:
                life.close()
    every = sum(len(d) for d in done.values())
    print(f"{played} played now; {every} of {len(SCRIPT) * DEEPEST} have passed, {total - played} to go")
    return 0 if played == total else 1


if __name__ == "__main__":
    sys.exit(main())
