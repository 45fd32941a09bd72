"""Where backups are kept: a folder, or a bucket on S3; each backup in a folder named by its time."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import urlsplit

from starloom.backup import manifest
from starloom.backup.manifest import Manifest
from starloom.errors import BadInput
from starloom.settings import Settings

#: Names of backups: the time at which they were taken.
STAMP = re.compile(r"\d{8}T\d{6}Z")


class Place(ABC):
    """A home of backups."""

    @abstractmethod
    def keep(self, folder: Path, name: str) -> str:
        """Store a finished backup under a name and return where; its manifest comes last."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the finished backups, oldest first."""

    @abstractmethod
    def fetch(self, name: str, folder: Path) -> Path:
        """Return a local folder with a backup; what has to be copied is copied into ``folder``."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a backup, its manifest first."""

    def prune(self, keep: int) -> list[str]:
        """Remove all but the newest ``keep`` backups; return the names of those removed."""
        old = self.names()[:-keep] if keep > 0 else []
        for name in old:
            self.remove(name)
        return old


def name_of(made: Manifest) -> str:
    """Return the name of a backup: when it was taken, so that names sort by age."""
    return made.taken_at.strftime("%Y%m%dT%H%M%SZ")


def choose(place: Place, name: str) -> str:
    """Return the name of a backup, the newest where none is named.

    Raises
    ------
    BadInput
        ``no-backup``.
    """
    there = place.names()
    if not there or (name and name not in there):
        raise BadInput(
            f"there is no backup {name}".rstrip(),
            code="no-backup",
            hint=f"There are {', '.join(there)}." if there else "`starloom backup` takes one.",
        )
    return name or there[-1]


class FolderPlace(Place):
    """Backups in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def keep(self, folder: Path, name: str) -> str:
        """Store a finished backup; see `Place.keep`."""
        target = self.root / name
        draft = self.root / f".{name}.part"
        shutil.rmtree(draft, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, draft)
        draft.chmod(0o700)  # an archive knows where telescopes stand and how their owners are reached
        draft.replace(target)
        return str(target)

    def names(self) -> list[str]:
        """Return the names of the finished backups; see `Place.names`."""
        return sorted(
            path.parent.name for path in self.root.glob(f"*/{manifest.NAME}") if STAMP.fullmatch(path.parent.name)
        )

    def fetch(self, name: str, folder: Path) -> Path:
        """Return the backup's own folder; see `Place.fetch`."""
        return self.root / name

    def remove(self, name: str) -> None:
        """Remove a backup; see `Place.remove`."""
        (self.root / name / manifest.NAME).unlink(missing_ok=True)
        shutil.rmtree(self.root / name)


def place_of(where: str, settings: Settings) -> tuple[Place, str]:
    """Return the place that a folder or URL means, and the name of one backup where it means one.

    Raises
    ------
    BadInput
        ``bad-place``: neither a folder nor ``s3://BUCKET[/PREFIX]``; ``bad-lake-endpoint``.
    """
    if "://" not in where:
        folder = Path(where)
        if STAMP.fullmatch(folder.name) and (folder / manifest.NAME).is_file():
            return FolderPlace(folder.parent), folder.name
        return FolderPlace(folder), ""
    url = urlsplit(where)
    if url.scheme != "s3" or not url.netloc:
        raise BadInput(
            f"{where!r} is neither a folder nor s3://BUCKET/PREFIX",
            code="bad-place",
            hint="Name a folder, or a bucket of the store that STARLOOM_BACKUP_ENDPOINT (or the lake's) names.",
        )
    # Loading the clients of S3 takes a second that a folder need not pay.
    from starloom.backup.bucket import S3Place, access

    prefix, _, last = url.path.strip("/").rpartition("/")
    named = last if STAMP.fullmatch(last) else ""
    return S3Place(url.netloc, prefix if named else url.path, access(settings)), named
