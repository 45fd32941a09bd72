"""Which frames to read whole, so that every frame has stars in common with one of them.

Bands of frames that are turned against each other share a hundredth of the sky: too few stars. A frame that was
read whole shares its stars with all bands that lie on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.celestial import Vectors

_LEAST_OVERLAP = 0.4
_ENOUGH_COMMON = 40
_POINTS = 5
_CANDIDATES = 8
"""Frames weighed against each other for the next reference: with all of them time would grow as a square."""


def choose_references(corners: Sequence[Vectors], n_stars: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return the frames that are to be read whole, by greedy cover: the richest in stars that cover most.

    Parameters
    ----------
    corners
        Footprints, from `starloom.coadd.group.footprint`.
    n_stars
        Usable stars found in each frame's sample.
    shares
        Part of each frame that was sampled; those of 1 need not be read again.

    Returns
    -------
    list of int
        Sorted. Empty when everything was read whole, or there is but one frame.
    """
    n = len(corners)
    if n < 2 or all(share >= 1 for share in shares):
        return []
    points = np.stack([_grid(c) for c in corners])
    stars = np.asarray(n_stars, float)
    # Deep, sharp and large, all at once: what counts is how many stars the frame would have if read whole.
    richness = stars / np.asarray(shares)
    # What has been read whole costs nothing: another must have many times its stars to be read instead.
    richness = np.where(np.asarray(shares) >= 1, 4 * richness, richness)
    order = np.lexsort((np.arange(n), -richness))
    waiting = np.ones(n, bool)
    chosen: list[int] = []
    while waiting.any():
        best: tuple[float, int] | None = None
        for index in [i for i in order if waiting[i]][:_CANDIDATES]:
            served = _served(corners[index], points, stars) & waiting
            worth = float(served.sum()) * float(np.sqrt(max(richness[index], 1.0)))
            if best is None or worth > best[0]:
                best = (worth, int(index))
        assert best is not None
        chosen.append(best[1])
        waiting &= ~_served(corners[best[1]], points, stars)
        waiting[best[1]] = False
    # The last one alone on its patch helps nobody, but its own bands may miss its neighbours': it is read as well.
    return sorted(i for i in chosen if shares[i] < 1)


def _grid(corners: Vectors) -> Vectors:
    """Return points spread over a footprint, shape ``(25, 3)``."""
    f = (np.arange(_POINTS) + 0.5) / _POINTS
    u, v = (a.ravel()[:, None] for a in np.meshgrid(f, f))
    a, b, c, d = corners
    return np.asarray((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c))


def _served(reference: Vectors, points: NDArray[np.float64], stars: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which frames share enough sky with a reference."""
    normals = np.cross(reference, np.roll(reference, -1, axis=0))
    side = points @ normals.T
    inside = (side > 0).all(axis=2) | (side < 0).all(axis=2)
    overlap = inside.mean(axis=1)
    return np.asarray((overlap >= _LEAST_OVERLAP) | ((stars * overlap >= _ENOUGH_COMMON) & (overlap > 0.1)))
