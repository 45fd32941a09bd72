from __future__ import annotations

import numpy as np
from numba.core import caching

from starloom.coadd.jit import compiled


def test_code_runs_where_no_cache_can_be_written(monkeypatch):
    """As in a container with a read-only root and no home."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def doubled(values):
        return values * np.float32(2)

    assert compiled(doubled)(np.ones(3, np.float32)).tolist() == [2, 2, 2]
