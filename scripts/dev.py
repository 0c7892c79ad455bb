"""Sets up a checkout, runs all its tests, renews its locks: `python3 scripts/dev.py setup|test|lock`. Standard
library only.

Each step keeps a stamp, the hash of what it was made from, beside what it made. A step whose stamp still holds is
skipped, so a second set-up costs a fraction of a second; a stamp is written only after success, so an interrupted
set-up continues where it stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON_AT_LEAST = (3, 11)
NODE_AT_LEAST = 20
TORCH = "torch==2.13.0"
SOLC = "0.8.37"
# A file to each worker at a time, those with chains first: they wait for blocks more than they compute, so three
# workers keep two cores busy.
SPREAD = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]


class SetupError(Exception):
    """What is missing, as a person should read it."""

    def __init__(self, code: str, message: str, fix: str, detail: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.fix, self.detail = code, message, fix, detail

    def __str__(self) -> str:
        detail = "".join(f"\n  | {line}" for line in self.detail.splitlines())
        return f"error[{self.code}] {self.message}{detail}\n  fix: {self.fix}"


class Step(NamedTuple):
    """One part of set-up: `run` makes `outputs` out of `inputs` (files and settings)."""

    name: str
    stamp: Path
    inputs: tuple[Path | str, ...]
    outputs: tuple[Path, ...]
    run: Callable[[], None]

    def digest(self) -> str:
        digest = hashlib.sha256()
        for part in self.inputs:
            data = part.read_bytes() if isinstance(part, Path) else part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    def is_done(self) -> bool:
        try:
            fresh = self.stamp.read_text() == self.digest()
        except FileNotFoundError:
            return False
        return fresh and all(path.exists() for path in self.outputs)

    def write_stamp(self, digest: str) -> None:
        """Whole or not at all, so that a kill while writing leaves no half stamp."""
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        part = self.stamp.with_name(self.stamp.name + ".part")
        part.write_text(digest)
        part.replace(self.stamp)


def report(text: str, end: str = "\n") -> None:
    """Progress goes to stderr: what a target prints on stdout, JSON for instance, stays clean."""
    print(text, end=end, file=sys.stderr, flush=True)


class Checkout:
    """The places of one checkout and the steps that fill them."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.bin = self.venv / "bin"
        self.python = self.bin / "python"
        self.modules = root / "node_modules"
        self.locks = root / "requirements"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = self.venv / "lib" / version / "site-packages"
        self.log = root / "build" / "setup.log"

    def steps(self) -> list[Step]:
        """In the order they must run. A step also names what would make it stale: the venv's Python, mostly."""
        made_by = f"{sys.implementation.cache_tag} {self.root}"
        stamps, site = self.venv / ".stamps", self.site

        def step(
            name: str, run: Callable[[], None], inputs: tuple[Path | str, ...], outputs: tuple[Path, ...]
        ) -> Step:
            return Step(name, stamps / name.replace(" ", "-"), (*inputs, made_by), outputs, run)

        node_stamp = self.modules / ".stamp"
        package = (self.root / "package.json", self.root / "package-lock.json")
        project = (self.root / "pyproject.toml", self.locks / "build.lock")
        parts = (self.root / "scripts" / "toolchain" / "environment.py", SOLC)
        steps = [
            step("virtual environment", self.make_venv, (), (self.python, self.bin / "pip")),
            step(
                "build tools",
                self.install_build_tools,
                (self.locks / "build.lock", self.locks / "uv.lock"),
                (),
            ),
            step(
                "python packages",
                self.install_packages,
                (self.locks / "dev.lock",),
                (self.bin / "pytest", site / "brownie"),
            ),
            step("torch", self.install_torch, (TORCH,), (site / "torch",)),
            step("commonweight", self.install_project, project, (self.bin / "commonweight",)),
            Step(
                "node packages",
                node_stamp,
                package,
                (self.modules / "solc" / "soljson.js",),
                self.install_node_packages,
            ),
            step(
                "solidity compiler",
                self.write_compiler,
                parts,
                (self.shim, site / "_commonweight_environment.py"),
            ),
        ]
        made_of = "".join(step.digest() for step in steps)
        return [*steps, Step("check", self.venv / ".ready", (made_of,), (), self.check)]

    @property
    def shim(self) -> Path:
        return self.venv / "solcx" / f"solc-v{SOLC}"

    @property
    def tool_path(self) -> str:
        return f"{self.modules / '.bin'}{os.pathsep}{os.environ.get('PATH', '')}"

    # The steps

    def make_venv(self) -> None:
        base = getattr(sys, "_base_executable", sys.executable)
        # Made by another Python, or moved here from elsewhere, it is of no use; otherwise it is only completed.
        known = (self.venv / ".stamps" / "virtual-environment").exists()
        clear = ["--clear"] if known or not same_python(self.venv / "pyvenv.cfg") else []
        try:
            self.call(base, "-m", "venv", *clear, self.venv)
        except SetupError as error:
            fix = "install this Python's venv module (Debian and Ubuntu: the package python3-venv), then run it again"
            raise SetupError(
                "E0103", "Python cannot make a virtual environment", fix, error.detail
            ) from error

    def install_build_tools(self) -> None:
        pip = (self.python, "-m", "pip", "install", "--require-hashes", "-r")
        self.call(*pip, self.locks / "build.lock")
        # Not every system has a build of uv; everything works without it.
        self.call(*pip, self.locks / "uv.lock", check=False)

    def install_packages(self) -> None:
        # Brownie's wheel is compiled and fails on valid settings; its source release, built here, does not.
        self.install(
            "--require-hashes",
            "--no-build-isolation",
            "--no-binary",
            "eth-brownie",
            "-r",
            self.locks / "dev.lock",
        )

    def install_torch(self) -> None:
        # By pip and on its own: pip's own settings may point to a local or CPU-only build, which uv would not see.
        self.call(self.python, "-m", "pip", "install", TORCH)

    def install_project(self) -> None:
        self.install("--no-deps", "--no-build-isolation", "--editable", self.root)

    def install(self, *args: str | Path) -> None:
        """Installs with uv if it is there and works, else with pip."""
        uv = self.bin / "uv"
        if uv.exists() and self.call(uv, "pip", "install", "--python", self.python, *args, check=False):
            return
        self.call(self.python, "-m", "pip", "install", *args)

    def install_node_packages(self) -> None:
        require_node()
        # No package here needs its install script, so none may run one.
        self.call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")

    def write_compiler(self) -> None:
        """Puts npm's compiler where Brownie looks for one, and tells every Python of the venv about it."""
        self.shim.parent.mkdir(exist_ok=True)
        script = self.root / "scripts" / "toolchain" / "solc.cjs"
        self.shim.write_text(f'#!/bin/sh\nexec node "{script}" "$@"\n')
        self.shim.chmod(0o755)
        shutil.copyfile(script.with_name("environment.py"), self.site / "_commonweight_environment.py")
        (self.site / "commonweight-environment.pth").write_text("import _commonweight_environment\n")

    def check(self) -> None:
        """Asks every tool for a sign of life, so that a broken one is named here and not in the middle of a run."""
        require_node()
        modules = "torch, web3, fastapi, httpx, uvicorn, typer, rich, numpy, hypothesis, pytest, brownie, commonweight"
        self.call(self.python, "-W", "ignore", "-c", f"import {modules}")
        self.call(self.shim, "--version")
        for tool in ("anvil", "forge"):
            path = shutil.which(tool, path=self.tool_path)
            if path is None:
                fix = "install Foundry 1.7 so that `anvil` and `forge` are on PATH, then run it again"
                raise SetupError("E0105", f"there is no packaged `{tool}` for this system", fix)
            self.call(path, "--version")

    # Running things

    def call(self, *command: str | Path, check: bool = True) -> bool:
        """Runs a command with its output in the log; says whether it succeeded, or raises if it had to."""
        self.log.parent.mkdir(exist_ok=True)
        words = [str(word) for word in command]
        environment = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
        }
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            start = log.tell()
            done = subprocess.run(
                words,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode == 0:
            return True
        if not check:
            return False
        with self.log.open("rb") as log:
            log.seek(start)
            tail = log.read().decode(errors="replace").splitlines()[-12:]
        fix = f"see {self.log.relative_to(self.root)} for the whole output; then run `make setup` again"
        raise SetupError(
            "E0106",
            f"`{' '.join(words[:4])} ...` failed with exit code {done.returncode}",
            fix,
            "\n".join(tail),
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Two set-ups of one checkout at once would break each other: the later one waits."""
        handle = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("waiting for another set-up of this checkout")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def same_python(config: Path) -> bool:
    """Whether a pyvenv.cfg, if there is one, was written by the Python version that runs this."""
    try:
        lines = config.read_text().splitlines()
    except FileNotFoundError:
        return True
    version = next((line.partition("=")[2].strip() for line in lines if line.startswith("version")), "")
    return version.split(".")[:2] == [str(part) for part in sys.version_info[:2]]


def require_node() -> None:
    fix = f"install Node.js {NODE_AT_LEAST} or newer with npm, then run it again"
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise SetupError(
                "E0102", f"`{tool}` is not on PATH; the Solidity compiler and the local chain need it", fix
            )
    answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    text = answer.stdout.strip()
    major = text.lstrip("v").split(".")[0]
    if answer.returncode or not major.isdigit() or int(major) < NODE_AT_LEAST:
        raise SetupError("E0102", f"Node.js {text or 'of an unknown version'} is too old", fix)


def require_python(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    if version >= PYTHON_AT_LEAST:
        return
    wanted, found = (".".join(map(str, part)) for part in (PYTHON_AT_LEAST, version))
    fix = f"name a newer one, for example `make setup PYTHON=python{wanted}`"
    raise SetupError("E0101", f"Python {found} is too old; {wanted} or newer is needed", fix)


def setup(checkout: Checkout, quiet: bool = False) -> None:
    """Runs every step that is not done, one line each; `quiet` says nothing when there is nothing to do."""
    begin = time.monotonic()
    require_python()
    with checkout.alone():
        steps = checkout.steps()
        todo = [step for step in steps if not step.is_done()]
        if todo and checkout.log.exists():
            checkout.log.unlink()
        if any(step.name == "node packages" for step in todo):
            require_node()  # before minutes of other work
        for number, step in enumerate(steps, 1):
            if step.is_done():
                continue
            report(f"[{number}/{len(steps)}] {step.name:<20}", end="")
            start, digest = time.monotonic(), step.digest()
            try:
                step.run()
            except BaseException:
                report(" failed")
                raise
            step.write_stamp(digest)
            report(f" {time.monotonic() - start:6.1f} s")
    if todo or not quiet:
        state = "ready" if todo else "up to date"
        report(f"set-up is {state} ({time.monotonic() - begin:.1f} s)")


def test(checkout: Checkout, arguments: list[str]) -> int:
    """Runs pytest and forge, both to their ends whatever the first says, and sums up in one line."""
    begin = time.monotonic()
    forge = shutil.which("forge", path=checkout.tool_path) or "forge"
    # One thread per process, or they would only get in each other's way.
    pytest = [str(checkout.python), "-m", "pytest", *SPREAD, *arguments]
    commands = {"pytest": pytest, "forge": [forge, "test"]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    failed = [
        name
        for name, command in commands.items()
        if subprocess.run(command, cwd=checkout.root, env=environment, check=False).returncode
    ]
    verdict = f"FAILED: {' and '.join(failed)}" if failed else "all tests passed: pytest and forge"
    print(f"\n{verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
    return 1 if failed else 0


def lock(checkout: Checkout) -> None:
    """Pins what requirements/*.in ask for, by hash, naming no registry: a user's own mirror serves as well."""
    plain = ["--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header"]
    for name in ("dev", "build", "uv"):
        same: list[str | Path] = [] if name == "dev" else ["-c", checkout.locks / "dev.lock"]
        source, target = checkout.locks / f"{name}.in", checkout.locks / f"{name}.lock"
        versions = ["--upgrade", "--python-version", ".".join(map(str, PYTHON_AT_LEAST))]
        checkout.call(
            checkout.bin / "uv",
            "pip",
            "compile",
            *versions,
            "--generate-hashes",
            *plain,
            *same,
            source,
            "-o",
            target,
        )
        print(f"{target.relative_to(checkout.root)} is up to date", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up this checkout for running, testing and developing.")
    parser.add_argument("command", choices=["setup", "test", "lock"])
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command != "test":
        parser.error(f"{arguments.command} takes no {' '.join(rest)}")
    checkout = Checkout()
    try:
        setup(checkout, quiet=arguments.command != "setup")
        if arguments.command == "test":
            return test(checkout, rest)
        if arguments.command == "lock":
            lock(checkout)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
