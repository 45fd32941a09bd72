"""The hub's two anchors, lake and archive, opened once from the settings and handed to every step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starloom.archive import Archive
from starloom.archive.giving_back import Budget
from starloom.lake import Lake, connect
from starloom.settings import Settings, default_home, load_settings


@dataclass(frozen=True)
class Hub:
    """Settings, object store and metadata database that belong together."""

    settings: Settings
    lake: Lake
    archive: Archive

    @property
    def budget(self) -> Budget:
        """How often a mission is tried before it is FAILED."""
        return Budget(attempts=self.settings.stack_attempts, retries=self.settings.stack_retries)

    @classmethod
    def open(cls, settings: Settings | None = None) -> Hub:
        """Open lake and archive as the settings say; creates nothing."""
        settings = settings or load_settings()
        return cls(settings, connect(settings), Archive(settings.archive_url.get_secret_value()))


@lru_cache(maxsize=4)
def _open_for(home: Path) -> Hub:
    return Hub.open(load_settings(home))


def current_hub() -> Hub:
    """Return this process's hub: connections are pooled, so tasks of one worker share it."""
    return _open_for(default_home())
