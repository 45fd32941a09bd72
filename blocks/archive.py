"""The archive's address as a Prefect block."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from starloom.archive import Archive
from starloom.settings import Settings


class ArchiveCredentials(Block):
    """Address of the metadata database, password included."""

    _block_type_name = "Starloom Archive"
    _block_type_slug = "starloom-archive"
    _description = "Address of the metadata database."

    url: SecretStr = Field(description="SQLAlchemy URL, sqlite:///… or postgresql+psycopg://…")

    @classmethod
    def from_settings(cls, settings: Settings) -> ArchiveCredentials:
        """Return the block that the settings describe; not saved yet."""
        return cls(url=settings.archive_url)

    def client(self) -> Archive:
        """Return the archive; nothing is contacted yet."""
        return Archive(self.url.get_secret_value())
