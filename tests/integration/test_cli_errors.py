"""What a person does wrong, at the command line: one line with a stable id, a non-zero exit code, nothing changed."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from commonweight.chain import deployment, keys
from commonweight.chain.deploy import deploy
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, fund
from commonweight.cli.commands import template
from commonweight.cli.main import main

pytestmark = pytest.mark.chain
LINE = re.compile(r"error\[(E\d{4})\] .+")


def commonweight(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "commonweight", *map(str, args)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def refused(code: str, *args: str | Path, cwd: Path) -> str:
    """The one line of an error with this id."""
    done = commonweight(*args, cwd=cwd)
    return one_line(code, done.returncode, done.stderr)


def refused_here(
    code: str, *args: str | Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """The same without a process: for commands that end before they have opened anything."""
    monkeypatch.setattr(sys, "argv", ["commonweight", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return one_line(code, ended.value.code, capfd.readouterr().err)


def one_line(code: str, status: object, errors: str) -> str:
    """Check that a command failed with this error and said so in one line."""
    assert status == (2 if code == "E1908" else 1), errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    found = LINE.fullmatch(lines[0])
    assert found is not None, lines
    assert found[1] == code, lines
    return lines[0]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refused_here` in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(refused_here, monkeypatch=monkeypatch, capfd=capfd)


def test_an_example_is_written_where_it_is_wanted_and_never_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Callable[..., str]
) -> None:
    for args in ([], ["mine.toml"]):
        monkeypatch.setattr(sys, "argv", ["commonweight", "task", "init", *args])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        name = args[0] if args else "task.toml"
        assert (tmp_path / name).read_text() == template()
        assert name in here("E1903", "task", "init", name)


@pytest.mark.parametrize(
    ("code", "old", "new", "says"),
    [
        ("E1001", "[task]", "[task", "not TOML"),
        ("E1002", "[task]", "[tusk]", "no [task] section"),
        ("E1002", "slots = 4", "slot = 4", "did you mean `slots`"),
        ("E1002", "[merge]", "[merging]", "merging"),
        ("E1003", "slots = 4", 'slots = "four"', "economy.slots"),
        ("E1003", "checks = 1", "checks = 1.5", "verification.checks"),
        ("E1003", 'reward = "10"', "reward = true", "economy.reward"),
        ("E1004", 'kind = "pretrain"', 'kind = "knitting"', "knitting"),
        ("E1004", "slots = 4", "slots = 70000", "economy.slots"),
        ("E1004", "slots = 4", "slots = -1", "economy.slots"),
        ("E1004", "checks = 1", "checks = 99", "verification.checks"),
        ("E1005", 'bond = "10"', 'bond = "1"', "bond"),
        ("E1005", "quorum = 2", "quorum = 9", "quorum"),
        ("E1005", "fee_bps = 1000", "fee_bps = 1", "fee_bps"),
        ("E1005", "train = 300", "train = 0", "window"),
    ],
)
def test_task_files(
    tmp_path: Path, here: Callable[..., str], code: str, old: str, new: str, says: str
) -> None:
    text = template()
    assert old in text
    (tmp_path / "task.toml").write_text(text.replace(old, new, 1))
    assert says in here(code, "task", "lint", "task.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["task.toml"]


@dataclass(frozen=True, slots=True)
class Place:
    """A chain with contracts, a keystore with ether, and the options that name them."""

    folder: Path
    net: Devnet
    record: Path

    def options(self, key: str = "key.json", record: Path | None = None) -> list[str | Path]:
        """Of a node command."""
        return [
            *("--key", self.folder / key, "--password-file", self.folder / "password"),
            *("--network", self.net.url, "--deployment", record or self.record),
        ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text("a password\n")
    for name in ("key.json", "poor.json"):
        keys.create(folder / name, "a password", light=True)
    with Devnet(folder / "chain") as net:
        fund(net.url, keys.address_of(folder / "key.json"), 10**19)
        record = folder / "deployment.json"
        deployment.save(deploy(net.url, keys.dev_account(0), DeployConfig()), record)
        yield Place(folder, net, record)


def changed(place: Place, tmp_path: Path, **entries: object) -> Path:
    """The deployment file with other entries."""
    record = json.loads(place.record.read_text()) | entries
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(record))
    return path


def test_another_chain(place: Place, tmp_path: Path, here: Callable[..., str]) -> None:
    record = changed(place, tmp_path, chain_id=11155111)
    said = here("E1201", "status", "--network", place.net.url, "--deployment", record)
    assert "chain 31337" in said
    assert "chain 11155111" in said


def test_other_code_at_the_address(place: Place, tmp_path: Path, here: Callable[..., str]) -> None:
    contracts = json.loads(place.record.read_text())["contracts"]
    contracts["Tasks"]["address"] = contracts["Vault"]["address"]
    record = changed(place, tmp_path, contracts=contracts)
    run = ("trainer", "run", *place.options(record=record), "--home", "home")
    assert "Tasks should be" in here("E1202", *run)


def test_no_deployment_file_and_a_damaged_one(place: Place, tmp_path: Path, here: Callable[..., str]) -> None:
    here("E1211", "status", "--network", place.net.url, "--deployment", "none.json")
    (tmp_path / "cut.json").write_text(place.record.read_text()[:100])
    here("E1211", "status", "--network", place.net.url, "--deployment", "cut.json")


def test_a_key_without_ether(place: Place, tmp_path: Path) -> None:
    run = ("validator", "run", *place.options("poor.json"), "--home", "home")
    assert "has no ether" in refused("E1305", *run, cwd=tmp_path)


def test_a_publisher_without_tokens(place: Place, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(template())
    said = refused("E1307", "task", "publish", "task.toml", *place.options(), "--home", "home", cwd=tmp_path)
    assert "publishing locks" in said


def test_a_wrong_password_and_a_shared_key(place: Place, tmp_path: Path, here: Callable[..., str]) -> None:
    password = tmp_path / "wrong"
    password.touch(mode=0o600)
    password.write_text("another\n")
    options = place.options()
    options[3] = password
    here("E1301", "relay", "run", *options, "--home", "home")
    password.chmod(0o644)
    here("E1303", "relay", "run", *options, "--home", "home")


def test_a_port_in_use(place: Place, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = ("relay", "run", *place.options(), "--home", "home", "--listen", f"127.0.0.1:{port}")
        assert str(port) in refused("E1501", *run, cwd=tmp_path)
        assert str(port) in refused("E1501", "devnet", "up", "--port", str(port), cwd=tmp_path)


def test_a_second_process_of_the_same_key(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "commonweight", "relay", "run", *map(str, place.options())]
    first = subprocess.Popen([*command, "--home", "one"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    try:
        assert "serves" in first.stdout.readline()
        refused("E1401", "relay", "run", *place.options(), "--home", "two", cwd=tmp_path)
    finally:
        first.terminate()
        assert first.wait(20) == 0
        first.stdout.close()


def test_a_corrupt_database(place: Place, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with sqlite3.connect(home / "node.sqlite") as database:
        database.execute("create table x (y)")
    database.close()
    damaged = (home / "node.sqlite").read_bytes()[:1000] + b"\xff" * 5000
    (home / "node.sqlite").write_bytes(damaged)
    said = refused("E1402", "relay", "run", *place.options(), "--home", "home", cwd=tmp_path)
    assert "node.sqlite" in said
    assert (home / "node.sqlite").read_bytes() == damaged


def test_a_corrupt_chain_state(tmp_path: Path, here: Callable[..., str]) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "state.json").write_text('{"block": {')
    here("E1406", "devnet", "up", "--dir", "net", "--port", "18999")
    assert (tmp_path / "net" / "state.json").read_text() == '{"block": {'


def test_well_known_keys_only_on_a_local_chain(
    place: Place, tmp_path: Path, here: Callable[..., str]
) -> None:
    from eth_account import Account

    account = keys.dev_account(3)
    path = tmp_path / "dev.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(Account.encrypt(account.key, "a password", kdf="scrypt", iterations=4096)))
    with Devnet(tmp_path / "public", chain_id=84532) as net:
        fund(net.url, keys.address_of(path), 10**19)
        options = ("--key", path, "--password-file", place.folder / "password", "--network", net.url)
        here("E1304", "contracts", "deploy", *options, "--test-token", "--out", "out.json")
        assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("code", "args"),
    [
        ("E1212", ("status", "--network", "atlantis")),
        ("E1203", ("faucet-free",)),
        ("E1901", ("listen",)),
        ("E1902", ("devnet", "faucet", "0x12")),
        ("E1904", ("demo", "--attack", "charm")),
        ("E1904", ("demo", "--attack", "inflating")),  # a cheat of another task kind
        ("E1904", ("attack",)),
        ("E1908", ("demo", "--rounds", "0")),
        ("E1908", ("demo", "--rounds", "2.5")),
        ("E1908", ("demo", "--colour")),
        ("E1908", ("task", "publish")),
        ("E1908", ("weave",)),
    ],
)
def test_words_that_mean_nothing(
    place: Place, tmp_path: Path, here: Callable[..., str], code: str, args: tuple[str, ...]
) -> None:
    dead = f"http://127.0.0.1:{_free_port()}"
    commands: dict[str, list[str | Path]] = {
        "faucet-free": ["status", "--network", dead, "--deployment", place.record],
        "listen": ["relay", "run", *place.options(), "--listen", "here"],
        "attack": ["trainer", "run", *place.options(), "--home", "home", "--attack", "charm"],
    }
    here(code, *commands.get(args[0], list(args)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
