"""Rows that were read of a frame: what is measured on them knows where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows of a frame, one below the other.

    ``pixels`` are ADU, float32, shape ``(n, nx)``, not finite where unknown; ``rows`` the frame row of each; bands
    of consecutive rows are ``[first[i], last[i])`` of the strip. ``holes`` tells whether any pixel may be unknown;
    ``bad`` marks patches no star may touch.
    """

    path: Path
    shape: tuple[int, int]
    pixels: NDArray[np.float32]
    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    holes: bool = True
    bad: NDArray[np.bool_] | None = None


def absent_pixels(strip: Strip) -> NDArray[np.bool_] | None:
    """Return which pixels are not to be believed; None: all are."""
    if not strip.holes and strip.bad is None:
        return None
    absent = ~np.isfinite(strip.pixels)
    if strip.bad is not None:
        absent |= strip.bad
    if absent.mean() > 0.98:
        raise BadInput(
            f"{strip.path} holds hardly any finite pixels", code="bad-noise", hint="Look at the raw frame."
        )
    return absent if absent.any() else None


def band_of(strip: Strip, y: Floats) -> NDArray[np.intp]:
    """Return the band that each strip row ``y`` belongs to."""
    return np.searchsorted(strip.last, y, side="right").clip(0, len(strip.last) - 1)


def inside_band(strip: Strip, x: Floats, y: Floats, margin: float) -> NDArray[np.bool_]:
    """Whether all within ``margin`` of a place of the strip was read, and is of its own band."""
    nx = strip.shape[1]
    band = band_of(strip, y)
    low, high = strip.first[band] + margin, strip.last[band] - 1 - margin
    return (x > margin) & (x < nx - 1 - margin) & (y > low) & (y < high)
