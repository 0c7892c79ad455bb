"""The journal: promises are made once, moves are lawful, and a damaged file is refused and left alone."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from commonweight.chain.effects import FINAL, MOVES, Effect, Signed
from commonweight.chain.journal import Journal
from commonweight.core.errors import CommonweightError

ME, TARGET = b"\x01" * 20, b"\x02" * 20


def wish(effect_id: str = "claim/1", **more: Any) -> Effect:
    return Effect(effect_id, ME, "Tasks", "claim", "[1]", TARGET, b"call", **more)


def code(caught: pytest.ExceptionInfo[CommonweightError]) -> str:
    return caught.value.code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_a_fact_has_one_value_for_ever(path: Path) -> None:
    with Journal(path) as journal:
        journal.remember("vote/1/0", b"accept")
        journal.remember("vote/1/0", b"accept")
        with pytest.raises(CommonweightError) as caught:
            journal.remember("vote/1/0", b"reject")
        assert code(caught) == "E1405"
    with Journal(path) as journal:
        assert journal.recall("vote/1/0") == b"accept"
        assert journal.recall("vote/1/1") is None
        assert journal.recalled("vote/") == {"vote/1/0": b"accept"}
        assert journal.recalled("Vote/") == {}


def test_progress_may_change(path: Path) -> None:
    with Journal(path) as journal:
        journal.put("segment/1", b"a")
        journal.put("segment/1", b"b")
        journal.put("segment%", b"c")
        assert journal.get("segment/1") == b"b"
        assert journal.entries("segment/") == {"segment/1": b"b"}
        journal.delete("segment/1")
        assert journal.get("segment/1") is None


def test_one_holder_at_a_time_also_in_one_process(path: Path) -> None:
    with Journal(path), pytest.raises(CommonweightError) as caught:
        Journal(path)
    assert code(caught) == "E1401"
    first = Journal(path)
    first.close()
    second = Journal(path)
    first.close()  # closing twice must not take the lock from its next holder
    with pytest.raises(CommonweightError):
        Journal(path)
    second.close()


def test_it_is_private_and_durable(path: Path) -> None:
    with Journal(path) as journal:
        assert path.stat().st_mode & 0o077 == 0
        assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    for page in range(1, len(body) // 4096):
        body[page * 4096] ^= 0xFF
    path.write_bytes(bytes(body))


def _foreign(path: Path) -> None:
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notes (x)")
    db.commit()
    db.close()


def _newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.commit()
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()


DAMAGE = {
    "truncated": _truncate,
    "flipped bits": _flip,
    "not a database": lambda path: path.write_bytes(b"\x00garbage" * 512),
    "empty": lambda path: path.write_bytes(b""),
    "another program's": _foreign,
    "from the future": _newer,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_refused_and_left_alone(path: Path, damage: Any) -> None:
    with Journal(path) as journal:
        for i in range(200):
            journal.remember(f"secret/{i}", bytes(100))
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CommonweightError) as caught:
        Journal(path)
    assert code(caught) == "E1402"
    assert "backing up" in caught.value.hint
    assert path.read_bytes() == before
    path.unlink()
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    Journal(path).close()  # the lock was given back


def test_a_log_without_its_database_is_not_taken_for_a_new_journal(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"frames")
    with pytest.raises(CommonweightError) as caught:
        Journal(path)
    assert code(caught) == "E1402"
    assert not path.exists()


def test_writes_survive_the_loss_of_everything_after_them(path: Path) -> None:
    """A copy of the files, taken while the journal is open, is what a power cut would leave."""
    with Journal(path) as journal:
        journal.plan(wish())
        journal.remember("secret/1", b"s")
        cut = path.parent / "cut"
        cut.mkdir()
        for name in (path.name, path.name + "-wal"):
            shutil.copyfile(path.with_name(name), cut / name)
    with Journal(cut / path.name) as journal:
        assert journal.recall("secret/1") == b"s"
        assert [e.effect_id for e in journal.effects("planned")] == ["claim/1"]


def test_a_full_disk_is_said_and_changes_nothing(path: Path) -> None:
    with Journal(path) as journal:
        (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(CommonweightError) as caught:
            journal.remember("big", bytes(1 << 20))
        assert code(caught) == "E1408"
        assert journal.recall("big") is None
        journal.put("small", b"1")


def test_big_amounts_pass(path: Path) -> None:
    with Journal(path) as journal:
        journal.plan(wish(max_fee=1 << 200, fee=1 << 100))
        found = journal.effect("claim/1")
    assert found is not None
    assert (found.max_fee, found.fee, found.tip) == (1 << 200, 1 << 100, None)


def test_an_id_cannot_become_another_call(path: Path) -> None:
    with Journal(path) as journal:
        journal.plan(wish())
        with pytest.raises(CommonweightError) as caught:
            journal.plan(replace(wish(), data=b"other"))
        assert code(caught) == "E1407"


def test_the_next_nonce_is_never_one_that_was_signed(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.next_nonce(ME) == 0
        journal.plan(wish())
        effect = journal.effect("claim/1")
        assert effect is not None
        effect = journal.sign(effect, Signed(b"h1", "claim/1", 7, b"raw"))
        effect = journal.move(effect, "sent")
        effect = journal.move(effect, "seen", block=1)
        effect = journal.move(effect, "failed")
        journal.plan(wish(attempts=2))
        assert journal.next_nonce(ME) == 8
        assert journal.next_nonce(TARGET) == 0
        assert [t.hash for t in journal.transactions("claim/1")] == [b"h1"]


class Machine(RuleBasedStateMachine):
    """Random lawful and unlawful moves with restarts in between, against a plain dictionary."""

    effects = Bundle("effects")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal(self.folder / "j")
        self.model: dict[str, Effect] = {}
        self.signed: dict[str, list[int]] = {}
        self.facts: dict[str, bytes] = {}

    @rule(target=effects, name=st.sampled_from("abcdef"))
    def plan(self, name: str) -> str:
        known = self.model.get(name)
        if known is not None and known.state not in ("refused", "failed"):
            with pytest.raises(ValueError, match="cannot go"):
                self.journal.plan(wish(name))
        else:
            self.journal.plan(wish(name))
            self.model[name] = wish(name)
        return name

    @rule(name=effects, nonce=st.integers(0, 9), fee=st.integers(0, 1 << 80))
    def sign(self, name: str, nonce: int, fee: int) -> None:
        known = self.model[name]
        signed = Signed(f"{name}{nonce}".encode(), name, nonce, b"raw")
        if "signed" not in MOVES[known.state]:
            with pytest.raises(ValueError, match="cannot go"):
                self.journal.sign(known, signed, max_fee=fee)
            return
        self.model[name] = self.journal.sign(known, signed, max_fee=fee)
        assert self.model[name] == replace(known, state="signed", nonce=nonce, hash=signed.hash, max_fee=fee)
        if nonce not in self.signed.setdefault(name, []):
            self.signed[name].append(nonce)

    @rule(name=effects, state=st.sampled_from(sorted(MOVES)), block=st.none() | st.integers(0, 1 << 40))
    def move(self, name: str, state: str, block: int | None) -> None:
        known = self.model[name]
        if state not in MOVES[known.state]:
            with pytest.raises(ValueError, match="cannot go"):
                self.journal.move(known, state)
            return
        self.model[name] = self.journal.move(known, state, block=block)
        assert self.model[name] == replace(known, state=state, block=block)

    @rule(name=effects)
    def stale(self, name: str) -> None:
        """A move from a state that it no longer has is refused: two threads cannot both send."""
        known = self.model[name]
        for state, moves in MOVES.items():
            if state != known.state and moves:
                with pytest.raises(ValueError, match="no longer"):
                    self.journal.move(replace(known, state=state), moves[-1])

    @rule(name=consumes(effects))
    def forget_handle(self, name: str) -> None:
        assert self.journal.effect(name) == self.model[name]

    @rule(key=st.sampled_from("xyz"), value=st.binary(max_size=2))
    def remember(self, key: str, value: bytes) -> None:
        if self.facts.setdefault(key, value) == value:
            self.journal.remember(key, value)
        else:
            with pytest.raises(CommonweightError):
                self.journal.remember(key, value)

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.folder / "j")

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "journal"):
            return
        assert {e.effect_id: e for e in self.journal.effects()} == self.model
        live = [e.effect_id for e in self.journal.effects() if not e.final]
        assert sorted(live) == sorted(n for n, e in self.model.items() if e.state not in FINAL)
        assert {n: [t.nonce for t in self.journal.transactions(n)] for n in self.signed} == self.signed
        assert self.journal.recalled("") == self.facts

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase
