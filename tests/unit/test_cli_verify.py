"""`commonweight verify` from a folder: verdict, evidence file, exit status; what it cannot read is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commonweight.cli.verify import verify
from commonweight.core.errors import CommonweightError
from commonweight.tasks import cheats
from commonweight.tasks.lease import Product
from tests.leases import BLINDING, tiny


def shelve(folder: Path, product: Product) -> str:
    """A folder as a relay would leave it; returns the work's root as people write it."""
    t = tiny()
    pieces = product.artifacts | {
        t.spec.root: t.spec.encode(),
        t.spec.data_root: t.text,
        t.base.root: t.base.encode(),
    }
    for root, data in pieces.items():
        (folder / "public").mkdir(parents=True, exist_ok=True)
        (folder / "public" / root.hex()).write_bytes(data)
    return "0x" + product.root.hex()


def run(what: str, folder: Path, segments: str = "", save: Path | None = None) -> int:
    return verify(what, folder, None, None, segments, save, True)


def test_honest_work_verifies_and_its_evidence_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t = tiny()
    work = shelve(tmp_path / "store", t.train(t.lease()))
    record = tmp_path / "evidence"
    assert run(work, tmp_path / "store", "1,3", record) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["outcome"] == "valid"
    assert first["segments"] == [1, 3]
    assert first["evidence"]["segments"] == 2
    assert first["agrees"] is None
    assert run(str(record), tmp_path / "store") == 0
    assert json.loads(capsys.readouterr().out)["agrees"] is True
    assert verify(work, tmp_path / "store", None, None, "", None, False) == 0
    text = capsys.readouterr().out
    assert text.startswith("valid: all checks passed\n")
    assert "segments  0, 1, 2, 3" in text


def test_forged_and_missing_work_have_their_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t = tiny()
    forged = cheats.skip_steps(t.spec, t.text, t.base, t.lease(), blinding=BLINDING)
    work = shelve(tmp_path, forged)
    assert run(work, tmp_path, "0") == 0
    assert run(work, tmp_path) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["leaf"] == 2
    (tmp_path / "public" / forged.header.update_root.hex()).unlink()
    assert run(work, tmp_path) == 4


def test_a_damaged_artifact_is_named(tmp_path: Path) -> None:
    t = tiny()
    product = t.train(t.lease())
    work = shelve(tmp_path, product)
    (tmp_path / "public" / t.spec.root.hex()).write_bytes(b"something else")
    with pytest.raises(CommonweightError) as caught:
        run(work, tmp_path)
    assert caught.value.code == "E1102"


@pytest.mark.parametrize(
    ("what", "segments", "code"),
    [("12", "", "E1907"), ("zz" * 32, "", "E1907"), ("00" * 32, "", "E1502"), ("00" * 32, "1,x", "E1907")],
)
def test_what_cannot_be_verified_is_named(tmp_path: Path, what: str, segments: str, code: str) -> None:
    with pytest.raises(CommonweightError) as caught:
        run(what, tmp_path, segments)
    assert caught.value.code == code


def test_a_manifest_under_the_same_name_does_not_hide_the_artifact(tmp_path: Path) -> None:
    """A node's home keeps manifests beside artifacts, each named by the root of what it describes."""
    t = tiny()
    work = shelve(tmp_path, t.train(t.lease()))
    for name in ("manifests", "zzz"):
        (tmp_path / name).mkdir()
        (tmp_path / name / work[2:]).write_bytes(b"its manifest")
    assert run(work, tmp_path, "0") == 0


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommonweightError) as caught:
        run("00" * 32, tmp_path / "nowhere")
    assert caught.value.code == "E1907"
