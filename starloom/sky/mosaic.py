"""The colour filter of a one-shot-colour sensor: which pixel sees which colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


def mosaic(planes: dict[str, NDArray[np.float32]], pattern: str) -> NDArray[np.float32]:
    """Sample three colour images as a Bayer sensor does.

    Parameters
    ----------
    planes
        Images of one shape under ``"R"``, ``"G"``, ``"B"``.
    pattern
        Colours of the first row's first two pixels, then of the second row's.

    Raises
    ------
    BadInput
        ``bad-pattern``: not one of the four arrangements.
    """
    if pattern not in PATTERNS:
        raise BadInput(
            f"{pattern!r} is no Bayer pattern", code="bad-pattern", hint=f"One of {', '.join(PATTERNS)}."
        )
    image = np.empty_like(planes["G"])
    for k, colour in enumerate(pattern):
        cell = (slice(k // 2, None, 2), slice(k % 2, None, 2))
        image[cell] = planes[colour][cell]
    return image
