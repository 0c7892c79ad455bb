"""The artifact and versions commands as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commonweight.cli.main import app
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import MergeSpec
from commonweight.shardcast.store import Store
from commonweight.shardcast.versions import KIND, Record, VersionBook, WirePart, initial

from ..shardcast_peers import blob


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, CommonweightError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_put_serve_get_list(tmp_path: Path) -> None:
    data = blob(merkle.SHARD + 1000)
    (tmp_path / "file").write_bytes(data)
    name = run("artifact", "put", tmp_path / "file", "--store", tmp_path / "a").strip()
    assert name == merkle.root(data).hex()
    command = [sys.executable, "-m", "commonweight", "artifact", "serve", "--store", str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split(" at ")[1].split(";")[0]
        get = ("artifact", "get", name, "--from", url, "--store", tmp_path / "b")
        facts = json.loads(run(*get, "--out", tmp_path / "out", "--json"))
        server.terminate()
        assert server.wait(30) == 0
    assert (tmp_path / "out").read_bytes() == data
    assert facts["length"] == len(data)
    assert facts["blamed"] == []
    assert list(facts["by_source"]) == [url]
    assert "0 received" in run(*get)
    assert json.loads(run("artifact", "list", "--store", tmp_path / "b", "--json")) == {name: len(data)}


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    name = "ab" * 32
    (tmp_path / "out").touch()
    for words, code in (
        (("artifact", "get", "xyz", "--from", "http://127.0.0.1:9"), "E1920"),
        (("artifact", "get", name, "--from", "http://127.0.0.1:8999", "--store", tmp_path / "s"), "E1502"),
        (
            ("artifact", "get", name, "--from", "x", "--store", tmp_path / "s", "--out", tmp_path / "out"),
            "E1903",
        ),
        (("artifact", "put", tmp_path / "nowhere", "--store", tmp_path / "s"), "E1103"),
        (("artifact", "serve", "--store", tmp_path / "s", "--listen", "nonsense"), "E1901"),
    ):
        with pytest.raises(CommonweightError) as caught:
            run(*words)
        assert caught.value.code == code


def test_the_lineage_of_a_store_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    book = VersionBook(tmp_path / "versions")
    base = initial(store.put(bytes(2048)), 100, 7, MergeSpec())
    parts = tuple(
        WirePart(merkle.root(b"u%d" % i), merkle.root(b"w%d" % i), "int8", start, late)
        for i, (start, late) in enumerate([(base.root, 0), (merkle.root(b"older"), 2)])
    )
    made = Record(KIND, merkle.root(b"v1"), 2048, 100, base.root, 7, 1, MergeSpec(), 0, parts, ())
    for record in (base, made):
        book.add(record)
    lines = run("versions", "--store", tmp_path).splitlines()
    assert lines[0] == f"task 7  {base.root.hex()[:12]}  initial"
    assert f"round 1: {base.root.hex()[:12]} + 2 updates" in lines[1]
    assert lines[1].endswith(f", trained from {merkle.root(b'older').hex()[:12]}, 1 late")
    rows = json.loads(run("versions", "--store", tmp_path, "--json"))
    assert [row["parent"] for row in rows] == [None, base.root.hex()]
    assert run("versions", "--store", tmp_path, "--task", 3) == "no versions\n"
