"""Write the hub's blocks from its settings: ``python -m blocks.register`` (``starloom up`` does it)."""

from __future__ import annotations

from blocks.archive import ArchiveCredentials
from blocks.lake import LakeCredentials
from starloom.settings import load_settings

NAME = "starloom"


def register() -> None:
    """Save both blocks under `NAME`, replacing what was there."""
    settings = load_settings()
    for kind in (LakeCredentials, ArchiveCredentials):
        kind.register_type_and_schema()
        kind.from_settings(settings).save(NAME, overwrite=True)


if __name__ == "__main__":
    register()
