"""Reference star catalogues: where the stars of a patch of sky are, and how bright."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starloom.refcat.choose import Choice, Refcats, photometry_catalog
    from starloom.refcat.memory import StarsRefcat
    from starloom.refcat.provider import default_refcat
    from starloom.refcat.shipped import tycho2
    from starloom.refcat.stars import CatalogStars, Refcat
    from starloom.refcat.store import StoreCatalog

_HOME = {
    "CatalogStars": "stars",
    "Choice": "choose",
    "Refcat": "stars",
    "Refcats": "choose",
    "StarsRefcat": "memory",
    "StoreCatalog": "store",
    "default_refcat": "provider",
    "photometry_catalog": "choose",
    "tycho2": "shipped",
}

__all__ = [
    "CatalogStars",
    "Choice",
    "Refcat",
    "Refcats",
    "StarsRefcat",
    "StoreCatalog",
    "default_refcat",
    "photometry_catalog",
    "tycho2",
]


def __getattr__(name: str) -> Any:
    # Deferred: the settings look up a folder here, and have no time for numpy.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
