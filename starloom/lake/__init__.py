"""The object store: keys, clients and the embedded server.

`connect` returns a `Lake`; `keys` says where everything lies in it.
"""

from __future__ import annotations

from starloom.lake.base import DiskFull, Lake, LakeDenied, ObjectMissing, Stored
from starloom.lake.connection import connect

__all__ = ["DiskFull", "Lake", "LakeDenied", "ObjectMissing", "Stored", "connect"]
