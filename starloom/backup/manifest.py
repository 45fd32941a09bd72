"""The manifest of a backup: what it holds, of which schema, and the hashes that prove it whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from starloom.errors import BadInput
from starloom.frames import sha256_of

NAME = "manifest.json"


class BackupFile(BaseModel):
    """A file of a backup."""

    name: str = Field(pattern=r"^[a-z][a-z.]*$", description="Its name in the backup's folder.")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a backup holds; written last, so that a backup without one is unfinished."""

    format: Literal[1] = 1
    taken_at: datetime = Field(description="The archive's clock when its snapshot was taken.")
    starloom_version: str
    database: Literal["sqlite", "postgresql"]
    tool: str = Field(description="What wrote the dump, with its version.")
    schema_revision: str = Field(description="The archive's schema.")
    files: list[BackupFile]
    rows: dict[str, int] = Field(description="Rows of every table in the snapshot.")


def describe(path: Path) -> BackupFile:
    """Return name, size and hash of a file."""
    return BackupFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup.

    Raises
    ------
    BadInput
        ``no-backup``: there is none; ``bad-manifest``: it is no manifest of ours.
    """
    path = folder / NAME
    if not path.is_file():
        raise BadInput(
            f"{folder} holds no {NAME}",
            code="no-backup",
            hint="Name the folder of one backup, or the folder that `starloom backup` was given.",
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadInput(
            f"{path}: {error.errors(include_input=False, include_url=False)[0]['msg']}",
            code="bad-manifest",
            hint="It was damaged, or written by a version of starloom that this one does not know.",
        ) from None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file of a backup with its manifest.

    Raises
    ------
    BadInput
        ``backup-damaged``, naming the first file that is missing or not what was written.
    """
    for wanted in manifest.files:
        path = folder / wanted.name
        if not path.is_file():
            raise _damaged(f"{path} is missing")
        found = describe(path)
        if found != wanted:
            raise _damaged(f"{path} has {found.bytes} bytes and another hash than the {wanted.bytes} written")


def _damaged(message: str) -> BadInput:
    return BadInput(message, code="backup-damaged", hint="Take another backup; nothing has been changed.")
