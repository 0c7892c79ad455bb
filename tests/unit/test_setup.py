"""Set-up: what it says when something is missing, what it skips, how it recovers, and the compiler it provides."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "scripts" / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dev = load()


def counting_step(tmp_path: Path, runs: list[str]) -> dev.Step:  # type: ignore[name-defined]
    output = tmp_path / "output"

    def run() -> None:
        runs.append("ran")
        output.touch()

    (tmp_path / "input").write_text("one")
    return dev.Step("copy", tmp_path / "stamps" / "copy", (tmp_path / "input", "setting"), (output,), run)


class Checkout(dev.Checkout):  # type: ignore[name-defined,misc]
    """A checkout whose only step is the one given."""

    def __init__(self, root: Path, *steps: dev.Step) -> None:  # type: ignore[name-defined]
        super().__init__(root)
        self.only = list(steps)

    def steps(self) -> list[dev.Step]:  # type: ignore[name-defined]
        return self.only


# Stamps


def test_a_step_runs_once_until_its_input_or_output_changes(tmp_path: Path) -> None:
    runs: list[str] = []
    step = counting_step(tmp_path, runs)
    checkout = Checkout(tmp_path, step)
    dev.setup(checkout)
    dev.setup(checkout)
    assert len(runs) == 1
    (tmp_path / "input").write_text("two")
    dev.setup(checkout)
    assert len(runs) == 2
    (tmp_path / "output").unlink()
    dev.setup(checkout)
    assert len(runs) == 3
    dev.setup(Checkout(tmp_path, step._replace(inputs=(tmp_path / "input", "another setting"))))
    assert len(runs) == 4


def test_a_failed_step_leaves_no_stamp_and_runs_again(tmp_path: Path) -> None:
    runs: list[str] = []
    step = counting_step(tmp_path, runs)

    def stop() -> None:
        (tmp_path / "output").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dev.setup(Checkout(tmp_path, step._replace(run=stop)))
    assert not step.stamp.exists()
    dev.setup(Checkout(tmp_path, step))
    assert runs == ["ran"]


def test_an_input_that_changes_while_the_step_runs_makes_it_stale(tmp_path: Path) -> None:
    step = counting_step(tmp_path, [])

    def edit_meanwhile() -> None:
        (tmp_path / "output").touch()
        (tmp_path / "input").write_text("edited")

    dev.setup(Checkout(tmp_path, step._replace(run=edit_meanwhile)))
    assert not step.is_done()


def test_a_killed_set_up_holds_no_lock(tmp_path: Path) -> None:
    script = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import dev; from pathlib import Path\n"
        f"with dev.Checkout(Path({str(tmp_path)!r})).alone(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    with dev.Checkout(tmp_path).alone():
        assert time.monotonic() - begin < 5


def test_this_checkout_is_up_to_date_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    checkout = dev.Checkout()
    assert all(step.is_done() for step in checkout.steps()), "set-up inputs were edited: run `make setup`"
    begin = time.monotonic()
    dev.setup(checkout)
    assert time.monotonic() - begin < 1
    assert "up to date" in capfd.readouterr().err


def test_a_deleted_environment_or_node_modules_is_noticed(tmp_path: Path) -> None:
    for name in ("requirements", "scripts", "offchain"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("package.json", "package-lock.json", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    checkout = dev.Checkout(tmp_path)
    steps = checkout.steps()
    for step in steps:
        for output in step.outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
        step.write_stamp(step.digest())
    assert [step.name for step in steps if not step.is_done()] == []
    shutil.rmtree(tmp_path / "node_modules")
    assert [step.name for step in steps if not step.is_done()] == ["node packages"]
    shutil.rmtree(tmp_path / ".venv")
    assert not any(step.is_done() for step in steps)


# What is missing


def run_setup(root: Path, path: str) -> subprocess.CompletedProcess[str]:
    """The real script in a copy of what it reads, with nothing but `path` on PATH."""
    (root / "scripts").mkdir()
    shutil.copyfile(ROOT / "scripts" / "dev.py", root / "scripts" / "dev.py")
    shutil.copytree(ROOT / "scripts" / "toolchain", root / "scripts" / "toolchain")
    shutil.copytree(ROOT / "requirements", root / "requirements")
    for name in ("package.json", "package-lock.json", "pyproject.toml"):
        shutil.copyfile(ROOT / name, root / name)
    command = [sys.executable, str(root / "scripts" / "dev.py"), "setup"]
    return subprocess.run(
        command, cwd=root, env={"PATH": path}, capture_output=True, text=True, check=False, timeout=120
    )


def fake_tool(folder: Path, name: str, says: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho {says}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ({}, "`node` is not on PATH"),
        ({"node": "v20.0.0"}, "`npm` is not on PATH"),
        ({"node": "v18.19.1", "npm": "9.2.0"}, "Node.js v18.19.1 is too old"),
        ({"node": "nonsense", "npm": "9.2.0"}, "is too old"),
    ],
)
def test_missing_or_old_node_is_named_before_any_work(
    tmp_path: Path, tools: dict[str, str], says: str
) -> None:
    bins, root = tmp_path / "bin", tmp_path / "root"
    bins.mkdir()
    root.mkdir()
    for name, answer in tools.items():
        fake_tool(bins, name, answer)
    done = run_setup(root, str(bins))
    assert done.returncode == 1
    assert done.stderr.startswith("error[E0102] ")
    assert says in done.stderr
    assert "fix: install Node.js 20 or newer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / ".venv").exists()


def test_an_old_python_is_refused() -> None:
    with pytest.raises(dev.SetupError, match=r"Python 3\.8 is too old") as caught:
        dev.require_python((3, 8))
    assert str(caught.value).startswith("error[E0101] ")
    dev.require_python((3, 11))


def works(python: str) -> bool:
    """Version managers leave names on PATH behind which there is nothing."""
    return shutil.which(python) is not None and not subprocess.run([python, "-c", ""], check=False).returncode


def test_the_script_reaches_its_version_check_on_old_pythons() -> None:
    """What an old Python would trip over while reading the file would hide the message."""
    old = next(filter(works, ("python3.8", "python3.9", "python3.10")), None)
    if old is None:
        return  # nothing to try it with on this machine
    command = [old, ROOT / "scripts" / "dev.py", "setup"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error[E0101] ")


def test_a_python_without_venv_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, "python", "ensurepip is not available; exit 1")
    (tmp_path / "python").write_text("#!/bin/sh\necho 'ensurepip is not available'\nexit 1\n")
    monkeypatch.setattr(sys, "_base_executable", str(tmp_path / "python"), raising=False)
    with pytest.raises(dev.SetupError) as caught:
        dev.Checkout(tmp_path).make_venv()
    assert str(caught.value).startswith("error[E0103] ")
    assert "ensurepip is not available" in str(caught.value)
    assert "python3-venv" in str(caught.value)


def test_a_failing_command_shows_its_last_lines(tmp_path: Path) -> None:
    checkout = dev.Checkout(tmp_path)
    with pytest.raises(dev.SetupError, match="exit code 3") as caught:
        checkout.call("sh", "-c", "echo the reason; exit 3")
    assert "| the reason" in str(caught.value)
    assert "build/setup.log" in str(caught.value)
    assert checkout.call("sh", "-c", "exit 3", check=False) is False


@pytest.mark.parametrize(
    ("version", "same"), [("3.7.1", False), (".".join(map(str, sys.version_info[:3])), True)]
)
def test_an_environment_of_another_python_is_told_apart(tmp_path: Path, version: str, same: bool) -> None:
    config = tmp_path / "pyvenv.cfg"
    assert dev.same_python(config)
    config.write_text(f"home = /usr/bin\nversion = {version}\n")
    assert dev.same_python(config) is same


# Locks


def test_locks_name_no_registry() -> None:
    for path in (ROOT / "requirements").glob("*.lock"):
        text = path.read_text()
        assert "://" not in text
        assert "--index-url" not in text
    assert '"resolved"' not in (ROOT / "package-lock.json").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name)
def test_every_python_requirement_is_pinned_by_hash(path: Path) -> None:
    requirements = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    assert requirements
    for line in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line
        assert not line.startswith(("torch==", "nvidia-"))


def test_every_node_package_is_pinned_by_hash() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert all(entry["integrity"].startswith("sha512-") for name, entry in packages.items() if name)


# The compiler

SHIM = dev.Checkout().shim
SOURCE = "// SPDX-License-Identifier: MIT\npragma solidity 0.8.37;\n"


def solc(
    *arguments: str | Path, cwd: Path, stdin: str | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHIM, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
    )


def standard(sources: dict[str, str], **settings: object) -> str:
    wanted = {"*": {"*": ["evm.bytecode.object"]}}
    return json.dumps(
        {
            "language": "Solidity",
            "sources": {name: {"content": SOURCE + text} for name, text in sources.items()},
            "settings": {"outputSelection": wanted, **settings},
        }
    )


def test_the_compiler_tells_its_version_quickly(tmp_path: Path) -> None:
    solc("--version", cwd=tmp_path)
    done = solc("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^Version: 0\.8\.37\+commit\.[0-9a-f]{8}$", done.stdout, re.MULTILINE)


def test_the_compiler_reads_standard_json_from_a_pipe_or_a_file(tmp_path: Path) -> None:
    question = standard({"A.sol": "contract A { uint256 public n; }"}, evmVersion="paris")
    piped = solc("--standard-json", cwd=tmp_path, stdin=question)
    (tmp_path / "question.json").write_text(question)
    filed = solc("--standard-json", "question.json", cwd=tmp_path)
    assert piped.returncode == filed.returncode == 0
    assert piped.stdout == filed.stdout
    assert json.loads(piped.stdout)["contracts"]["A.sol"]["A"]["evm"]["bytecode"]["object"]


def test_the_compiler_imports_only_from_allowed_folders(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    base.mkdir()
    outside.mkdir()
    (outside / "B.sol").write_text(SOURCE + "contract B {}")
    (base / "link.sol").symlink_to(outside / "B.sol")
    for target in ("../outside/B.sol", "link.sol", str(outside / "B.sol")):
        question = standard({"A.sol": f'import "{target}"; contract A is B {{}}'})
        refused = solc("--standard-json", "--base-path", base, cwd=base, stdin=question)
        assert "outside of allowed" in refused.stdout or "not found" in refused.stdout, target
        assert "bytecode" not in refused.stdout
    question = standard({"A.sol": 'import "link.sol"; contract A is B {}'})
    allowed = solc("--standard-json", "--base-path", base, "--allow-paths", outside, cwd=base, stdin=question)
    assert json.loads(allowed.stdout)["contracts"]["A.sol"]["A"]


def test_the_compiler_answers_whole_to_a_slow_reader(tmp_path: Path) -> None:
    """An answer much larger than a pipe arrives complete even if its reader takes its time."""
    question = json.loads(standard({"A.sol": "contract A { function f() external {} }"}))
    body = " ".join(
        f"function f{n}(uint256 x) external pure returns (uint256) {{ return x * {n}; }}" for n in range(300)
    )
    question["sources"]["A.sol"]["content"] = SOURCE + f"contract A {{ {body} }}"
    question["settings"]["outputSelection"] = {"*": {"*": ["*"], "": ["ast"]}}
    (tmp_path / "question.json").write_text(json.dumps(question))
    with subprocess.Popen(
        [SHIM, "--standard-json", "question.json"], cwd=tmp_path, stdout=subprocess.PIPE
    ) as compiler:
        assert compiler.stdout is not None
        os.set_blocking(compiler.stdout.fileno(), True)
        parts = []
        while part := os.read(compiler.stdout.fileno(), 65536):
            parts.append(part)
            if len(parts) < 20:
                time.sleep(0.02)
    answer = b"".join(parts)
    assert len(answer) > 1_000_000
    assert json.loads(answer)["contracts"]["A.sol"]["A"]["abi"]


def test_the_compiler_makes_combined_json(tmp_path: Path) -> None:
    (tmp_path / "A.sol").write_text(SOURCE + 'import "lib/B.sol"; contract A is B {}')
    (tmp_path / "deps").mkdir()
    (tmp_path / "deps" / "B.sol").write_text(SOURCE + "contract B { uint256 public n; }")
    done = solc(
        "--combined-json=abi,bin", "--optimize", "--evm-version", "paris", "lib/=deps/", "A.sol", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["contracts"]["A.sol:A"]["bin"]
    assert answer["sourceList"] == ["A.sol", "deps/B.sol"]
    (tmp_path / "A.sol").write_text("contract {")
    broken = solc("--combined-json", "abi", "A.sol", cwd=tmp_path)
    assert broken.returncode == 1
    assert "ParserError" in broken.stderr


def test_the_compiler_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    for arguments in (
        ["--model-checker-engine", "all"],
        ["--combined-json", "asm", "A.sol"],
        [],
        ["--bin", "A.sol"],
    ):
        done = solc(*arguments, cwd=tmp_path, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")


# The environment


def test_programs_of_the_environment_find_compiler_and_chain() -> None:
    show = "import os, shutil; print(os.environ['SOLCX_BINARY_PATH'], shutil.which('forge'), shutil.which('anvil'))"
    path = os.pathsep.join(
        part for part in os.environ["PATH"].split(os.pathsep) if "node_modules" not in part
    )
    python = dev.Checkout().python
    done = subprocess.run(
        [python, "-c", show], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    folder, *tools = done.stdout.split()
    assert Path(folder) == SHIM.parent
    assert all(tool != "None" for tool in tools)
    own = {"PATH": path, "SOLCX_BINARY_PATH": "/a/users/choice"}
    done = subprocess.run([python, "-c", show], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("/a/users/choice ")
