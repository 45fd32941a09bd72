"""Backups in a bucket on S3."""

from __future__ import annotations

from pathlib import Path

from starloom.backup import manifest
from starloom.backup.places import STAMP, Place
from starloom.lake.answers import explained
from starloom.lake.clients import SEND_S, Access
from starloom.settings import Settings


class S3Place(Place):
    """Backups under ``s3://BUCKET/PREFIX``; the bucket must be there."""

    def __init__(self, bucket: str, prefix: str, access: Access) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = access.minio(SEND_S)

    def keep(self, folder: Path, name: str) -> str:
        """Store a finished backup; see `Place.keep`."""
        files = sorted(folder.iterdir(), key=lambda path: path.name == manifest.NAME)
        for path in files:
            with explained(self._key(name, path.name)):
                self._client.fput_object(self.bucket, self._key(name, path.name), str(path))
        return f"s3://{self.bucket}/{self._key(name, '')}"

    def names(self) -> list[str]:
        """Return the names of the finished backups; see `Place.names`."""
        with explained(self.bucket):
            keys = [
                item.object_name
                for item in self._client.list_objects(self.bucket, prefix=self.prefix, recursive=True)
            ]
        found = (key.removeprefix(self.prefix).split("/") for key in keys)
        return sorted(
            parts[0]
            for parts in found
            if len(parts) == 2 and parts[1] == manifest.NAME and STAMP.fullmatch(parts[0])
        )

    def fetch(self, name: str, folder: Path) -> Path:
        """Copy a backup into a folder; see `Place.fetch`."""
        self._get(name, manifest.NAME, folder)
        for file in manifest.read_manifest(folder).files:
            self._get(name, file.name, folder)
        return folder

    def remove(self, name: str) -> None:
        """Remove a backup; see `Place.remove`."""
        with explained(self.bucket):
            found = self._client.list_objects(self.bucket, prefix=self._key(name, ""), recursive=True)
            for key in sorted(
                (item.object_name for item in found), key=lambda key: not key.endswith(manifest.NAME)
            ):
                self._client.remove_object(self.bucket, key)

    def _get(self, name: str, file: str, folder: Path) -> None:
        with explained(self._key(name, file)):
            self._client.fget_object(self.bucket, self._key(name, file), str(folder / file))

    def _key(self, name: str, file: str) -> str:
        return f"{self.prefix}{name}/{file}"


def access(settings: Settings) -> Access:
    """Return the store of backups: its own, which is better, or the lake's."""
    if settings.backup_endpoint:
        return Access(
            settings.backup_endpoint,
            settings.backup_region,
            settings.backup_access_key,
            settings.backup_secret_key.get_secret_value(),
        )
    return Access(
        settings.lake_endpoint,
        settings.lake_region,
        settings.lake_access_key,
        settings.lake_secret_key.get_secret_value(),
    )
