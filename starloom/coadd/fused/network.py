"""Sorting networks: the same few comparisons whatever the values, so that 64 pixels are sorted side by side."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def merging(n: int) -> NDArray[np.int32]:
    """Return the comparators that sort two parts of the rows of ``n`` frames, filled up to full fours.

    Each four is sorted already, see `fused.median`. The first part has the odd four, if there is one.

    Returns
    -------
    ndarray of int32
        Pairs ``(low, high)`` of row numbers, in order, shape ``(k, 2)``: after row ``low`` has taken the lesser
        and row ``high`` the greater of both, for every pair, each part is sorted.
    """
    fours = -(-n // 4)
    first = 4 * (fours - fours // 2)
    pairs = [*_batcher(first), *((first + a, first + b) for a, b in _batcher(4 * (fours // 2)))]
    out = np.array(pairs, np.int32).reshape(-1, 2)
    out.flags.writeable = False
    return out


def _batcher(n: int) -> list[tuple[int, int]]:
    # Odd-even merge sort: Batcher 1968, AFIPS 32, 307; Knuth, The Art of Computer Programming 3, 5.2.2, M.
    pairs = []
    span = 4
    while span < n:
        step = span
        while step >= 1:
            for start in range(step % span, n - step, 2 * step):
                for i in range(start, start + min(step, n - start - step)):
                    if i // (2 * span) == (i + step) // (2 * span):
                        pairs.append((i, i + step))
            step //= 2
        span *= 2
    return pairs
