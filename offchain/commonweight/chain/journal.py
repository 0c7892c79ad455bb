"""One SQLite file per node: what it meant to do, what it promised, and how far it came. Written before every
act.

Deleting it loses secrets and salts, which are bonds, and the record that keeps a node from contradicting
itself; all the rest is rebuilt from the chain.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..core.errors import CommonweightError
from . import database
from .effects import MOVES, PLANNED, Effect, Signed
from .lock import FileLock

_COLUMNS = tuple(f.name for f in fields(Effect))
_BIG = ("fee", "max_fee", "tip")  # wei amounts can pass 2**63, SQLite's integers cannot

_TABLES = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE effects (
    effect_id TEXT PRIMARY KEY, sender BLOB NOT NULL, contract TEXT NOT NULL, function TEXT NOT NULL,
    args TEXT NOT NULL, target BLOB NOT NULL, data BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('planned','signed','sent','seen','confirmed','refused','failed')),
    nonce INTEGER, hash BLOB, gas INTEGER, max_fee TEXT, tip TEXT, sent_block INTEGER,
    replaced INTEGER NOT NULL, attempts INTEGER NOT NULL,
    block INTEGER, block_hash BLOB, status INTEGER, gas_used INTEGER, fee TEXT, error TEXT NOT NULL
);
CREATE INDEX effects_by_state ON effects (sender, state);
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, effect_id TEXT NOT NULL REFERENCES effects, sender BLOB NOT NULL,
    nonce INTEGER NOT NULL, raw BLOB NOT NULL
);
CREATE INDEX transactions_by_effect ON transactions (effect_id);
CREATE INDEX transactions_by_nonce ON transactions (sender, nonce);
"""


class Journal:
    """The journal at ``path``, held exclusively until `close`. Safe to use from several threads.

    Raises E1401 when another holder has it, E1402 when the file is damaged or is no journal (it is left
    unchanged), E1408 when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self._guard = threading.RLock()
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            if not self.path.exists():
                database.create(self.path, _TABLES)
            self._db = database.open_checked(self.path)
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and give the lock back; a second call does nothing."""
        with self._guard:
            self._db.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- facts: promises that must never be made twice in two ways ---

    def remember(self, key: str, value: bytes) -> None:
        """Write ``value`` once. The same value again is fine; another raises E1405 and changes nothing."""
        with self._write() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (key, value))
            (known,) = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        if known != value:
            raise CommonweightError(
                "E1405",
                f"{key!r} is already fixed to another value in {self.path}",
                "this node would contradict itself and lose a bond; nothing was signed",
            )

    def recall(self, key: str) -> bytes | None:
        """The value that was remembered for ``key``, if any."""
        return self._one("facts", key)

    def recalled(self, prefix: str) -> dict[str, bytes]:
        """All facts whose keys start with ``prefix``."""
        return self._prefixed("facts", prefix)

    def bind(self, identity: bytes) -> None:
        """Tie this journal to one deployment; raises E1404 when it belongs to another one."""
        try:
            self.remember("deployment", identity)
        except CommonweightError as other:
            raise CommonweightError(
                "E1404",
                f"{self.path} belongs to another chain or another deployment",
                "use a new folder for this one; keep the old folder while bonds are open there",
            ) from other

    # --- progress: rows that may change ---

    def put(self, key: str, value: bytes) -> None:
        """Write or overwrite a progress row."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (key, value))

    def get(self, key: str) -> bytes | None:
        """A progress row, if it exists."""
        return self._one("progress", key)

    def delete(self, key: str) -> None:
        """Remove a progress row; facts cannot be removed."""
        with self._write() as db:
            db.execute("DELETE FROM progress WHERE key = ?", (key,))

    def entries(self, prefix: str) -> dict[str, bytes]:
        """All progress rows whose keys start with ``prefix``."""
        return self._prefixed("progress", prefix)

    # --- effects ---

    def effect(self, effect_id: str) -> Effect | None:
        """One effect by its id."""
        return next(iter(self._effects("effect_id = ?", (effect_id,))), None)

    def effects(self, *states: str, sender: bytes | None = None) -> list[Effect]:
        """Effects in the given states (all when none is given), in the order in which they were planned."""
        where, values = "1", []
        if states:
            where, values = (f"state IN ({','.join('?' * len(states))})", list[Any](states))
        if sender is not None:
            where, values = where + " AND sender = ?", [*values, sender]
        return self._effects(where, values)

    def spent(self, sender: bytes, first_nonce: int) -> list[Effect]:
        """Finished effects of ``sender`` whose transaction used ``first_nonce`` or a later one."""
        return self._effects(
            "sender = ? AND nonce >= ? AND state IN ('confirmed','failed')", (sender, first_nonce)
        )

    def next_nonce(self, sender: bytes) -> int:
        """One more than the largest nonce that was ever signed for ``sender``."""
        with self._guard:
            (top,) = self._db.execute(
                "SELECT MAX(nonce) FROM transactions WHERE sender = ?", (sender,)
            ).fetchone()
        return 0 if top is None else int(top) + 1

    def plan(self, effect: Effect) -> None:
        """Write an intent, or renew one that was refused or failed. Raises E1407 when the id names another
        call.
        """
        old = self.effect(effect.effect_id)
        if old is not None:
            if (old.sender, old.target, old.data) != (effect.sender, effect.target, effect.data):
                raise CommonweightError(
                    "E1407", f"effect {effect.effect_id!r} is already another call", "use a new id"
                )
            _check_move(old, PLANNED)
        names, marks = ",".join(_COLUMNS), ",".join("?" * len(_COLUMNS))
        renewed = ",".join(f"{c} = excluded.{c}" for c in _COLUMNS[1:])
        with self._write() as db:
            db.execute(
                f"INSERT INTO effects ({names}) VALUES ({marks}) "
                f"ON CONFLICT (effect_id) DO UPDATE SET {renewed}",
                _row(effect),
            )

    def move(self, effect: Effect, state: str, **changes: Any) -> Effect:
        """Write the next state of ``effect`` with its changed columns, and return it as it is now."""
        return self._move(effect, state, changes, None)

    def sign(self, effect: Effect, transaction: Signed, **changes: Any) -> Effect:
        """Move to "signed" and keep the raw transaction, in one write. It may only be sent afterwards."""
        return self._move(
            effect, "signed", {**changes, "nonce": transaction.nonce, "hash": transaction.hash}, transaction
        )

    def transactions(self, effect_id: str) -> list[Signed]:
        """Everything ever signed for an effect, oldest first."""
        query = "SELECT hash, effect_id, nonce, raw FROM transactions WHERE effect_id = ? ORDER BY rowid"
        with self._guard:
            return [Signed(*row) for row in self._db.execute(query, (effect_id,))]

    def _move(self, effect: Effect, state: str, changes: dict[str, Any], signed: Signed | None) -> Effect:
        _check_move(effect, state)
        columns = {**changes, "state": state}
        sets = ",".join(f"{name} = ?" for name in columns)
        values = [_sql(name, value) for name, value in columns.items()]
        with self._write() as db:
            query = f"UPDATE effects SET {sets} WHERE effect_id = ? AND state = ?"
            if db.execute(query, (*values, effect.effect_id, effect.state)).rowcount != 1:
                raise ValueError(f"effect {effect.effect_id!r} is no longer {effect.state}")
            if signed is not None:
                row = (signed.hash, signed.effect_id, effect.sender, signed.nonce, signed.raw)
                db.execute("INSERT OR IGNORE INTO transactions VALUES (?, ?, ?, ?, ?)", row)
        now = self.effect(effect.effect_id)
        assert now is not None
        return now

    # --- plumbing ---

    def _one(self, table: str, key: str) -> bytes | None:
        with self._guard:
            row = self._db.execute(f"SELECT value FROM {table} WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def _prefixed(self, table: str, prefix: str) -> dict[str, bytes]:
        query = f"SELECT key, value FROM {table} WHERE substr(key, 1, ?) = ? ORDER BY key"
        with self._guard:
            return dict(self._db.execute(query, (len(prefix), prefix)))

    def _effects(self, where: str, values: Any) -> list[Effect]:
        query = f"SELECT {','.join(_COLUMNS)} FROM effects WHERE {where} ORDER BY rowid"
        with self._guard:
            return [_effect(row) for row in self._db.execute(query, values)]

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise CommonweightError(
                        "E1408", f"cannot write {self.path}: {error}", "free some space; nothing was sent"
                    ) from error
                raise


def _check_move(effect: Effect, state: str) -> None:
    if state not in MOVES[effect.state]:
        raise ValueError(f"effect {effect.effect_id!r} cannot go from {effect.state} to {state}")


def _sql(name: str, value: Any) -> Any:
    return str(value) if name in _BIG and value is not None else value


def _row(effect: Effect) -> list[Any]:
    return [_sql(name, getattr(effect, name)) for name in _COLUMNS]


def _effect(row: tuple[Any, ...]) -> Effect:
    known: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    known.update({name: int(known[name]) for name in _BIG if known[name] is not None})
    return Effect(**known)
