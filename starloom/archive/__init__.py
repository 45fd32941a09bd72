"""The metadata database: what the hub knows, in SQL, away from the bulk. `models` holds the tables."""

from starloom.archive.engine import Archive

__all__ = ["Archive"]
