"""Where star catalogues that can be made or fetched again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$STARLOOM_REFCAT_CACHE``, else ``starloom/refcat`` in the user's cache."""
    said = os.environ.get("STARLOOM_REFCAT_CACHE")
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "starloom" / "refcat"
