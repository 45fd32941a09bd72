"""Copy a SQLite archive while it is in use, and put a copy in its place."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from starloom.disk import whole_or_absent

DUMP = "archive.sqlite"


def dump(source: Path, target: Path) -> str:
    """Copy a database by SQLite's online backup: readers and writers go on meanwhile; return what wrote it."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=30)) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        # The copy inherits the write-ahead log's mode; one file is easier to keep whole.
        copy.execute("PRAGMA journal_mode=DELETE")
    return f"sqlite {sqlite3.sqlite_version}"


def load(source: Path, target: Path) -> None:
    """Put a copy in the place of a database that nobody has open."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_absent(target) as draft:
        shutil.copyfile(source, draft)
        # Of the database that was: applied to another one, its log would destroy it.
        for rest in ("-wal", "-shm"):
            target.with_name(target.name + rest).unlink(missing_ok=True)
