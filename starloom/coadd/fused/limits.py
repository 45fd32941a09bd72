"""Where frames were saturated: what is left there is a lower limit, not a hole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import ABSENT, compiled


@compiled
def mark_limits(
    limit: NDArray[np.float32],
    coverage: NDArray[np.int16],
    sci: NDArray[np.float32],
    flags: NDArray[np.uint8],
    saturated: int,
    lower_limit: int,
) -> None:
    """Flag saturated pixels, and give those that no frame covers the limit: a core is at least this bright.

    Parameters
    ----------
    limit
        Brightest level at which a frame was saturated, ``(ny, nx)``; ``-ABSENT`` where none was.
    coverage, sci
        Frames that have a pixel, and the co-add, ``(ny, nx)``; ``sci`` is written.
    flags
        ``(ny, nx)``, written whole.
    saturated, lower_limit
        The two bits.
    """
    for y in range(sci.shape[0]):
        for x in range(sci.shape[1]):
            hit = limit[y, x] > -ABSENT
            alone = hit and coverage[y, x] == 0
            flags[y, x] = (saturated if hit else 0) | (lower_limit if alone else 0)
            sci[y, x] = limit[y, x] if alone else sci[y, x]
