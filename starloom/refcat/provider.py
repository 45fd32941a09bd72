"""The catalogue at hand without any configuration."""

from __future__ import annotations

from functools import cache

from starloom.refcat.shipped import tycho2
from starloom.refcat.stars import CatalogStars, Refcat

__all__ = ["CatalogStars", "Refcat", "default_refcat"]


@cache
def default_refcat() -> Refcat:
    """Return the catalogue that ships with the package; opened once per process."""
    return tycho2()
