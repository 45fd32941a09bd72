"""Where catalogues meet the hub: the ones its settings name, opened once and again when one has been imported."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from starloom.refcat.choose import Refcats

if TYPE_CHECKING:
    from starloom.hub import Hub
    from starloom.settings import Settings


def refcats_of(hub: Hub) -> Refcats:
    """Return the hub's catalogues; one that was imported meanwhile is among them."""
    settings = hub.settings
    imported = sorted(
        (path.parent.name, path.stat().st_mtime_ns) for path in settings.refcat_dir.glob("*/catalog.json")
    )
    said = (settings.refcat_cache, settings.refcat_online, settings.refcat_services, settings.refcat_urls)
    return _open(_Key(settings, repr((settings.refcat_dir, imported, said))))


class _Key:
    """Settings that are the same where they name the same catalogues."""

    def __init__(self, settings: Settings, text: str) -> None:
        self.settings, self.text = settings, text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=4)
def _open(key: _Key) -> Refcats:
    return Refcats.from_settings(key.settings)
