"""Prove the properties of tests/contracts/symbolic for every argument, with Halmos in an environment of its own.

python scripts/symbolic.py     install once into build/halmos-venv, compile, prove
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "halmos-venv"
PACKAGE = "halmos==0.3.3"


def install() -> Path:
    """The halmos of this checkout."""
    tool = HOME / "bin" / "halmos"
    if not tool.exists():
        print(f"installing {PACKAGE} into {HOME.relative_to(ROOT)}", flush=True)
        venv.create(HOME, with_pip=True)
        subprocess.run([HOME / "bin" / "pip", "install", "-q", PACKAGE], check=True)
    return tool


def main() -> int:
    """Command line: arguments go to halmos."""
    tool = install()
    path = os.pathsep.join([str(ROOT / "node_modules" / ".bin"), os.environ["PATH"]])
    # It compiles by itself: only what it proves, and beside what the tests compile.
    own = {"FOUNDRY_TEST": "tests/contracts/symbolic", "FOUNDRY_CACHE_PATH": "build/halmos-cache"}
    env = os.environ | own | {"PATH": path, "FOUNDRY_OUT": "build/halmos-out"}
    command = [str(tool), "--contract", "SymbolicTest", "--forge-build-out", "build/halmos-out"]
    return subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
