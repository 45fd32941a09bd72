"""Backups of the archive: dumped with a manifest, kept in a folder or on S3, loaded again.

The lake is not in a backup: raw frames are immutable, locked and copied once more by ``tidy``, and everything else
can be made of them. What came into the lake after a backup is found again by `starloom.recovery`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from starloom.archive import Archive
from starloom.backup.manifest import Manifest, read_manifest
from starloom.backup.places import choose, name_of, place_of
from starloom.backup.restoring import load_backup
from starloom.backup.saving import dump_archive
from starloom.settings import Settings


@dataclass(frozen=True)
class Kept:
    """A backup that was taken: where it lies, what it holds, and the older ones that were removed for it."""

    where: str
    manifest: Manifest
    removed: list[str]


def take(settings: Settings, archive: Archive, where: str, *, keep: int = 0) -> Kept:
    """Back the archive up into a folder or bucket; with ``keep`` remove all but the newest so many.

    Raises
    ------
    BadInput
        ``bad-place``.
    StarloomError
        What `starloom.backup.saving.dump_archive` raises.
    """
    place, _ = place_of(where, settings)
    with tempfile.TemporaryDirectory(prefix="starloom-backup-") as folder:
        made = dump_archive(archive, Path(folder))
        stored = place.keep(Path(folder), name_of(made))
    return Kept(stored, made, place.prune(keep))


def restore(settings: Settings, archive: Archive, where: str, *, force: bool = False) -> Manifest:
    """Load the newest backup of a place, or the one that is named, into the archive.

    Raises
    ------
    BadInput, Conflict, StarloomError
        See `starloom.backup.restoring.load_backup`; ``no-backup``.
    """
    place, name = place_of(where, settings)
    with tempfile.TemporaryDirectory(prefix="starloom-restore-") as folder:
        local = place.fetch(choose(place, name), Path(folder))
        manifest = read_manifest(local)
        load_backup(archive, local, manifest, force=force)
    return manifest
