"""Reference star catalogues: where the stars of a patch of sky are, and how bright."""

from __future__ import annotations

from starloom.refcat.provider import CatalogStars, Refcat, Tycho2, default_refcat

__all__ = ["CatalogStars", "Refcat", "Tycho2", "default_refcat"]
