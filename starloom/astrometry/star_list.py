"""The stars of one frame and what they say about it: the list that solvers, fits and photometry share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MIN_STARS = 6
# Stars that each cell of a balanced list would hold if they lay evenly.
STARS_A_CELL = 8.0


@dataclass(frozen=True)
class StarList:
    """Stars of one frame, brightest first, and what they say about it.

    Parameters
    ----------
    x, y
        Windowed centroids, 0-based pixel centres, shape ``(n,)``.
    flux
        Light above the sky, ADU, shape ``(n,)``: under the frame's own profile, or within the isophote of a star
        that saturates.
    peak
        Highest pixel above the background, ADU, shape ``(n,)``.
    fwhm_px
        Full width at half maximum before the pixels widen it, across the trail where there is one, shape ``(n,)``.
    ellipticity
        ``1 - b/a``, shape ``(n,)``.
    saturated
        Whether the star's peak reaches the saturation level, shape ``(n,)``.
    shape
        ``(ny, nx)`` of the frame.
    background_adu, noise_adu
        Sky level and noise of one sky pixel, as medians over the frame.
    frame_fwhm_px, frame_ellipticity
        Full width at half maximum of the frame's profile (stacked stars), and median of the well-exposed stars'
        ellipticities; NaN without stars. Of a trailed frame the width is that across the trail, of a donut that of
        its outer rim.
    trailed
        Whether the stars are drawn out in one common direction.
    theta_deg
        Direction of the long axis from +x towards +y, -90 to 90 degrees, shape ``(n,)``; None stands for zeros.
    centroid_err_px
        1-sigma error of ``x`` and of ``y``, shape ``(n,)``; None stands for NaN.
    defocused
        Whether the stars are discs or rings rather than peaks.
    trail_px, trail_angle_deg
        Length of the path that all stars took during the exposure, 0 if none, and its direction from +x towards
        +y, -90 to 90 degrees (NaN if none).
    """

    x: Floats
    y: Floats
    flux: Floats
    peak: Floats
    fwhm_px: Floats
    ellipticity: Floats
    saturated: NDArray[np.bool_]
    shape: tuple[int, int]
    background_adu: float
    noise_adu: float
    frame_fwhm_px: float
    frame_ellipticity: float
    trailed: bool = False
    theta_deg: Floats = None  # type: ignore[assignment]
    centroid_err_px: Floats = None  # type: ignore[assignment]
    defocused: bool = False
    trail_px: float = 0.0
    trail_angle_deg: float = float("nan")

    def __post_init__(self) -> None:
        for name, unknown in (("theta_deg", 0.0), ("centroid_err_px", np.nan)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.x), unknown))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fault(self) -> str | None:
        """Why the frame will hardly solve: ``too-few-stars``, ``trailed``, or None."""
        if len(self) < MIN_STARS:
            return "too-few-stars"
        return "trailed" if self.trailed else None

    def take(self, index: Ints | slice | NDArray[np.bool_]) -> StarList:
        """Return the same frame's list with these of its stars, in the order given."""
        columns = [f.name for f in dataclasses.fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def brightest(self, n: int) -> StarList:
        """Return the same list cut to its ``n`` brightest stars."""
        return self.take(slice(0, n))

    def balanced(self, n: int) -> StarList:
        """Return ``n`` stars that are bright and spread over the frame, brightest first.

        Notes
        -----
        The frame is cut into cells so that each would hold a handful of the ``n``; every cell gives its brightest
        star, then its second, and so on, and within a round the brighter ones go first. Where stars lie evenly
        this is nearly the list of the brightest; where a cluster holds most of them it takes its share by area.
        """
        return self if n >= len(self) else self.take(spread(self.x, self.y, self.shape, n))


def spread(x: Floats, y: Floats, shape: tuple[int, int], n: int) -> Ints:
    """Return which ``n`` of stars sorted by brightness are bright and spread out, see `StarList.balanced`.

    Parameters
    ----------
    x, y
        0-based pixels, brightest first.
    shape
        ``(ny, nx)`` of the frame.
    n
        How many at most.

    Returns
    -------
    ndarray
        Indices in rising order, so that what they choose is brightest first too.
    """
    if n >= len(x):
        return np.arange(len(x))
    ny, nx = shape
    side = float(np.sqrt(nx * ny / max(n / STARS_A_CELL, 1.0)))
    columns, rows = max(round(nx / side), 1), max(round(ny / side), 1)
    cell = np.clip((x + 0.5) * columns / nx, 0, columns - 1).astype(np.intp)
    cell += columns * np.clip((y + 0.5) * rows / ny, 0, rows - 1).astype(np.intp)
    # A stable sort by cell leaves each cell's stars brightest first.
    order = np.argsort(cell, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    place = np.empty(len(x), np.intp)
    place[order] = np.arange(len(x)) - np.repeat(start, np.diff(np.r_[start, len(x)]))
    return np.sort(np.argsort(place, kind="stable")[:n])
