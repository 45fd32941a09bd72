"""Skies of a mosaic's frames from what neighbours differ by, of no higher order than the differences call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

from starloom.coadd.match import SKY_POWERS, sky_basis
from starloom.coadd.seams import Seam
from starloom.coadd.sky_match import SkySamples, common_surface, to_grid_terms

Floats = NDArray[np.float64]

_CHANCE = 1e-3
"""Of noise alone making a higher order look as good as it does (F-test)."""
_SPANS = (0.0, 0.2, 0.5)
"""Share of a frame, along a power's axis, over which its neighbours must see it, by order."""
_ROUNDS = 6
_OFFSET_RIDGE, _SLOPE_RIDGE = 1e-7, 1e-3
"""Of the information in a frame's cells; they decide only what the differences do not: whose the common surface
is, and what a strip hardly tells."""


@dataclass(frozen=True, eq=False)
class _Fit:
    terms: Floats
    weights: Floats
    misfit: Floats
    """Of each cell."""


def fit_seams(frames: Sequence[SkySamples], seams: Sequence[Seam], shape: tuple[int, int]) -> Floats | None:
    """Return the terms of each frame, shape ``(n, 6)``, as `starloom.coadd.sky_match.MatchedSky` has them.

    Parameters
    ----------
    frames
        Where each frame lies; their values are not looked at.
    seams
        From `starloom.coadd.seams.measure_seams`.
    shape
        ``(ny, nx)`` of the output grid.

    Returns
    -------
    ndarray or None
        None where the seams do not connect all frames.

    Notes
    -----
    Offsets, then gradients, then second powers: a higher order is kept where it takes more off the weighted
    squares of the differences, cell by cell, than noise would give it once in a thousand times (F-test). Eight
    tiles that shared strips of a nebula were bent by 14 sigma of a pixel where second order was free.
    """
    n = len(frames)
    first, second = (np.array([getattr(s, name) for s in seams], np.intp) for name in ("first", "second"))
    links = sparse.coo_matrix((np.ones(len(seams)), (first, second)), shape=(n, n))
    if n == 0 or connected_components(links, directed=False, return_labels=False) > 1:
        return None
    design, value, error = _design(frames, seams)
    kept = _fitted(design, value, error, 0)
    order = 0
    for higher in (1, 2):
        wider = _fitted(design, value, error, higher)
        # With the weights of the wider one for both, so that no outlier takes sides.
        before, after = (float(wider.weights @ fit.misfit**2) for fit in (kept, wider))
        used = [_columns(design, o) for o in (order, higher)]
        more, free = int(used[1].sum() - used[0].sum()), len(value) - int(used[1].sum())
        if more <= 0 or free <= 0 or after <= 0:
            break
        if special.fdtrc(more, free, max(before - after, 0.0) / more / (after / free)) > _CHANCE:
            break
        kept, order = wider, higher
    terms = np.array([_on_grid(f, shape) @ t for f, t in zip(frames, kept.terms, strict=True)])
    own = np.array([sum(powers) <= order for powers in SKY_POWERS])
    return terms - common_surface(frames, terms, shape, own)


def _half(frame: SkySamples) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = frame.extent
    return 0.5 * (x0 + x1), max(0.5 * (x1 - x0), 1.0), 0.5 * (y0 + y1), max(0.5 * (y1 - y0), 1.0)


def _on_grid(frame: SkySamples, shape: tuple[int, int]) -> Floats:
    x, half_x, y, half_y = _half(frame)
    return to_grid_terms((x, half_x), (y, half_y), shape)


def _design(frames: Sequence[SkySamples], seams: Sequence[Seam]) -> tuple[sparse.csc_matrix, Floats, Floats]:
    """Return the matrix from all frames' terms to the differences, what was measured, and its errors."""
    k, n = len(SKY_POWERS), len(frames)
    places: list[list[Floats]] = [[] for _ in frames]
    for seam in seams:
        for frame in (seam.first, seam.second):
            x, half_x, y, half_y = _half(frames[frame])
            places[frame].append(np.stack([(seam.x - x) / half_x, (seam.y - y) / half_y]))
    allowed = [_told(np.concatenate(p, axis=1)) for p in places]
    rows, columns, values = [], [], []
    taken = [iter(p) for p in places]
    at = 0
    for seam in seams:
        for frame, sign in ((seam.first, 1.0), (seam.second, -1.0)):
            basis = sign * sky_basis(*next(taken[frame])) * allowed[frame][:, None]
            rows.append(np.tile(at + np.arange(len(seam.x)), k))
            columns.append(np.repeat(frame * k + np.arange(k), len(seam.x)))
            values.append(basis.ravel())
        at += len(seam.x)
    matrix = sparse.csc_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(at, n * k)
    )
    return matrix, np.concatenate([s.difference for s in seams]), np.concatenate([s.error for s in seams])


def _told(places: Floats) -> NDArray[np.bool_]:
    """Return which powers of u and v a frame's cells can tell, by how far they reach along each."""
    reach = 0.5 * np.ptp(places, axis=1)
    return np.array(
        [all(r >= _SPANS[i + j] for r, power in zip(reach, (i, j), strict=True) if power) for i, j in SKY_POWERS]
    )


def _columns(design: sparse.csc_matrix, order: int) -> NDArray[np.bool_]:
    """Return which of all frames' terms are fitted at an order."""
    low = np.array([sum(powers) <= order for powers in SKY_POWERS])
    return np.asarray(np.tile(low, design.shape[1] // len(low)) & (np.diff(design.indptr) > 0))


def _fitted(design: sparse.csc_matrix, value: Floats, error: Floats, order: int) -> _Fit:
    """Solve for all frames' terms of an order at most (Huber weights about the cells' own scatter)."""
    use = _columns(design, order)
    part = design[:, use]
    slope = np.tile([sum(powers) > 0 for powers in SKY_POWERS], design.shape[1] // len(SKY_POWERS))[use]
    # Neighbours cut from one exposure differ by nothing at all.
    error = np.hypot(error, np.median(error)) + 1e-9 * max(float(np.abs(value).max()), 1.0)
    weights = 1 / error**2
    for _ in range(_ROUNDS):
        normal = (part.T @ part.multiply(weights[:, None])).tocsc()
        scale = float(weights.sum()) * len(SKY_POWERS) / design.shape[1]
        ridge = scale * np.where(slope, _SLOPE_RIDGE, _OFFSET_RIDGE)
        found = spsolve(normal + sparse.diags(ridge, format="csc"), part.T @ (weights * value))
        misfit = value - part @ found
        width = np.hypot(error, 1.4826 * float(np.median(np.abs(misfit))))
        weights = 1 / width**2 / np.maximum(1, np.abs(misfit) / (2 * width))
    terms = np.zeros(design.shape[1])
    terms[use] = found
    return _Fit(terms.reshape(-1, len(SKY_POWERS)), weights, misfit)
