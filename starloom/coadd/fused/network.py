"""Sorting networks: the same few comparisons whatever the values, so that 64 pixels are sorted side by side."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def comparators(n: int) -> NDArray[np.int32]:
    """Return the comparators of Batcher's odd-even merge sort of ``n`` rows.

    Returns
    -------
    ndarray of int32
        Pairs ``(low, high)`` of row numbers, in order, shape ``(k, 2)``: after row ``low`` has taken the lesser
        and row ``high`` the greater of both, for every pair, the rows are sorted.

    References
    ----------
    Batcher 1968, AFIPS 32, 307; Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M.
    """
    pairs = []
    span = 1
    while span < n:
        step = span
        while step >= 1:
            for start in range(step % span, n - step, 2 * step):
                for i in range(start, start + min(step, n - start - step)):
                    if i // (2 * span) == (i + step) // (2 * span):
                        pairs.append((i, i + step))
            step //= 2
        span *= 2
    out = np.array(pairs, np.int32).reshape(-1, 2)
    out.flags.writeable = False
    return out
