"""The journal's SQLite file: born whole, checked whenever it is opened, left alone when it is damaged."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from ..core.errors import CommonweightError

APPLICATION_ID = 0x43574A31  # "CWJ1"
SCHEMA = 1


def create(path: Path, tables: str) -> None:
    """Build the file beside its place and rename it there, so that a half-made journal never has the real
    name.
    """
    for tail in ("-wal", "-journal"):
        if path.with_name(path.name + tail).exists():
            raise _damaged(path, "the database is missing, but its log is still there")
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    db = sqlite3.connect(fresh)
    db.executescript(f"{tables} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};")
    db.close()
    os.rename(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def open_checked(path: Path) -> sqlite3.Connection:
    """A connection to a healthy journal file, durable on every commit; E1402 for anything else."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        problems = _examine(db)
        if problems:
            raise _damaged(path, problems)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError as error:
        db.close()
        raise _damaged(path, str(error)) from error
    except BaseException:
        db.close()
        raise
    return db


def _examine(db: sqlite3.Connection) -> str:
    """What is wrong with an open file, or nothing."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        return "this is not a Commonweight journal"
    if version != SCHEMA:
        return f"it has schema {version}, this program writes schema {SCHEMA}"
    answers = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
    return "" if answers == ["ok"] else "; ".join(answers)


def _damaged(path: Path, why: str) -> CommonweightError:
    return CommonweightError(
        "E1402",
        f"{path} cannot be used: {why}",
        "nothing was changed; restore a backup. Delete it only after backing up it and its -wal file: "
        "it holds the secrets of open leases and votes, whose bonds are lost without them",
    )
