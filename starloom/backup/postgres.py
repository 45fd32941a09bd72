"""Dump and load a PostgreSQL archive with PostgreSQL's own programs, which are never linked, only started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL

from starloom.errors import StarloomError

DUMP = "archive.dump"
_PLACES = "/usr/lib/postgresql"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


def dump(url: URL, target: Path, *, server_major: int, snapshot: str) -> str:
    """Write a dump in PostgreSQL's custom format, compressed, of an exported snapshot; return the tool's version.

    Raises
    ------
    StarloomError
        ``no-postgres-tools``, ``postgres-tools-too-old``, ``backup-failed``.
    """
    tool, version = find_tool("pg_dump", server_major)
    _run(
        tool,
        url,
        ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={target}"],
    )
    return f"pg_dump {version}"


def find_loader(written_by: str, server_major: int) -> str:
    """Return a ``pg_restore`` that reads what a manifest's `tool` has written and that the server understands.

    Raises
    ------
    StarloomError
        ``no-postgres-tools``, ``postgres-tools-too-old``.
    """
    return find_tool("pg_restore", max(server_major, int(written_by.rpartition(" ")[2])))[0]


def load(tool: str, url: URL, source: Path) -> None:
    """Load a dump into an empty database, all or nothing.

    Raises
    ------
    StarloomError
        ``backup-failed``.
    """
    _run(tool, url, ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", str(source)])


def find_tool(name: str, major: int) -> tuple[str, int]:
    """Return path and major version of one of PostgreSQL's programs that is at least of a major version.

    Raises
    ------
    StarloomError
        ``no-postgres-tools``, ``postgres-tools-too-old``.
    """
    # Debian keeps every version beside the others; the one on the path may be the oldest.
    candidates = [found] if (found := shutil.which(name)) else []
    candidates += [str(path) for path in Path(_PLACES).glob(f"*/bin/{name}")]
    versions = {path: version for path in candidates if (version := _major(path)) is not None}
    if not versions:
        raise StarloomError(
            f"the program {name} is not installed",
            code="no-postgres-tools",
            hint=f"Install PostgreSQL's client programs, version {major} or later (Debian: postgresql-client).",
        )
    best = max(versions, key=lambda path: versions[path])
    if versions[best] < major:
        raise StarloomError(
            f"{best} is of version {versions[best]}, the server or the dump of version {major}",
            code="postgres-tools-too-old",
            hint=f"Install PostgreSQL's client programs, version {major} or later.",
        )
    return best, versions[best]


def _major(program: str) -> int | None:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(said.stdout)
    return int(match[1]) if match else None


def _run(tool: str, url: URL, options: list[str]) -> None:
    # The password goes by the environment: command lines can be read by everybody on the machine.
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    env = dict(os.environ) | ({"PGPASSWORD": str(url.password)} if url.password else {})
    done = subprocess.run(
        [tool, f"--dbname={plain}", *options], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StarloomError(
            f"{Path(tool).name}: {done.stderr.strip()[-500:]}",
            code="backup-failed",
            hint="Correct what it names, then run the command again.",
        )
