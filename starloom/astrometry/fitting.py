"""Least-squares fits of a frame's map onto the sky, from the stiffest model to the freest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.tangent import deproject, project
from starloom.astrometry.wcs import PlaneMap, polynomial

Floats = NDArray[np.float64]
Model = Literal["linear", "radial", "quadratic", "quadratic-radial", "cubic"]

# Fewest matches at which a model may be tried. Radial distortion is one number, which nine stars measure; a
# free quadratic needs 25 (measured: with fewer it is worse than none), a free cubic 60.
MIN_MATCHES: dict[Model, int] = {
    "linear": 4,
    "radial": 9,
    "quadratic": 25,
    "quadratic-radial": 25,
    "cubic": 60,
}
# How many pairs of coordinates each model swallows: that many matches are no evidence.
FREE_STARS: dict[Model, float] = {
    "linear": 3,
    "radial": 3.5,
    "quadratic": 6,
    "quadratic-radial": 6.5,
    "cubic": 10,
}
CLIP = 3.5
# No star is thrown out for a residual below this: centroids and catalogues are no better.
CLIP_FLOOR_PX = 0.1


@dataclass(frozen=True)
class Fit:
    """A fitted map, which stars it rests on, and how well its corners are known.

    Parameters
    ----------
    map
        The fitted map.
    model
        Which model it is.
    keep
        Stars the fit rests on, shape ``(n,)``.
    residual_px
        Distance of every star from the map, pixels, shape ``(n,)``.
    corner_error_px
        Expected error (1 sigma) of the map at its worst corner, pixels.
    """

    map: PlaneMap
    model: Model
    keep: NDArray[np.bool_]
    residual_px: Floats
    corner_error_px: float


def fit_map(
    x: Floats,
    y: Floats,
    ra_deg: Floats,
    dec_deg: Floats,
    start: PlaneMap,
    model: Model,
    *,
    clip: bool = True,
) -> Fit:
    """Fit a map to matched stars.

    Parameters
    ----------
    x, y
        Detected positions, 0-based pixels, shape ``(n,)``.
    ra_deg, dec_deg
        Catalogue positions of the same stars, degrees.
    start
        Map to start from; the reference pixel stays.
    model
        Freedom of the map. ``radial`` adds one cubic term about the reference pixel to the linear part, as lenses
        and correctors have it: ``u' = u (1 + k r²)``.
    clip
        Whether outliers are put aside.
    """
    u, v = (x - start.x0) / start.unit_px, (y - start.y0) / start.unit_px
    corners = _corners(start)
    ra0, dec0, slope = start.ra0_deg, start.dec0_deg, start.cd * start.unit_px
    keep = np.ones(len(x), bool)
    scale = start.scale_arcsec / 3600
    for _ in range(8):
        plane = np.stack(project(ra_deg, dec_deg, ra0, dec0), axis=1)
        design = _design(u, v, model, slope)
        rows = np.concatenate([keep, keep])
        solution = np.linalg.lstsq(design[rows], plane.T.ravel()[rows], rcond=None)[0]
        residual = (plane.T.ravel() - design @ solution).reshape(2, -1)
        distance = np.hypot(*residual) / scale
        powers, terms = _as_polynomial(solution, model, slope)
        new_slope = np.stack([terms[1], terms[2]], axis=1)
        # The tangent point follows the reference pixel, so that the constant of the polynomial vanishes.
        moved = terms[0].copy()
        ra0, dec0 = (float(a) for a in deproject(moved[0], moved[1], ra0, dec0))
        terms[0] = 0.0
        wanted = keep
        if clip and len(x) > MIN_MATCHES["linear"]:
            limit = max(CLIP * float(np.median(distance[keep])) / 1.1774, CLIP_FLOOR_PX)
            wanted = distance <= limit
            if wanted.sum() < MIN_MATCHES["linear"]:
                wanted = keep
        settled = np.hypot(*moved) < 1e-9 and np.allclose(new_slope, slope, rtol=1e-9, atol=1e-12)
        slope = new_slope
        if settled and bool((wanted == keep).all()):
            break
        keep = wanted
    found = PlaneMap(ra0, dec0, start.x0, start.y0, start.unit_px, powers, terms)
    return Fit(
        found, model, keep, distance, _corner_error(design[rows], residual[:, keep] / scale, corners, model, slope)
    )


def k_fold_residuals(
    x: Floats, y: Floats, ra_deg: Floats, dec_deg: Floats, start: PlaneMap, model: Model, *, folds: int = 8
) -> Floats:
    """Return each star's distance from a map that was fitted without it, pixels, shape ``(n,)``.

    Every star is held out exactly once. Stars come brightest first, so dealing them out in turn gives every fold
    the same mix.
    """
    n = len(x)
    folds = min(folds, n)
    fold = np.arange(n) % folds
    out = np.full(n, np.inf)
    scale = start.scale_arcsec / 3600
    for k in range(folds):
        test = fold == k
        train = ~test
        if train.sum() < 3:
            continue
        fitted = fit_map(x[train], y[train], ra_deg[train], dec_deg[train], start, model).map
        xi, eta = project(ra_deg[test], dec_deg[test], fitted.ra0_deg, fitted.dec0_deg)
        px, py = fitted.plane(x[test], y[test])
        out[test] = np.hypot(px - xi, py - eta) / scale
    return out


def _design(u: Floats, v: Floats, model: Model, slope: Floats) -> Floats:
    """Rows of both coordinates, ξ above η: shape ``(2 n, parameters)``."""
    order = {"linear": 1, "radial": 1, "quadratic": 2, "quadratic-radial": 2, "cubic": 3}[model]
    basis = np.stack([u**p * v**q for p, q in polynomial(order)], axis=1)
    none = np.zeros_like(basis)
    design = np.block([[basis, none], [none, basis]])
    if model.endswith("radial"):
        cubic = slope @ np.stack([u, v]) * (u**2 + v**2)
        design = np.column_stack([design, cubic.ravel()])
    return np.asarray(design, np.float64)


def _as_polynomial(solution: Floats, model: Model, slope: Floats) -> tuple[tuple[tuple[int, int], ...], Floats]:
    radial = model.endswith("radial")
    count = (len(solution) - radial) // 2
    terms = solution[: 2 * count].reshape(2, count).T
    if not radial:
        return polynomial({3: 1, 6: 2, 10: 3}[count]), terms.copy()
    powers = polynomial(3)
    full = np.zeros((len(powers), 2))
    full[:count] = terms
    k = solution[-1]
    # k r² (slope @ (u, v)), multiplied out
    for power, column in (((3, 0), 0), ((1, 2), 0), ((2, 1), 1), ((0, 3), 1)):
        full[powers.index(power)] += k * slope[:, column]
    return powers, full


def _corners(start: PlaneMap) -> tuple[Floats, Floats]:
    """Corners of the frame in units of the polynomial; the reference pixel is the frame's centre."""
    u, v = start.x0 / start.unit_px, start.y0 / start.unit_px
    return np.array([-u, u, u, -u]), np.array([-v, -v, v, v])


def _corner_error(
    design: Floats, residual: Floats, corners: tuple[Floats, Floats], model: Model, slope: Floats
) -> float:
    """Propagate the scatter of the stars through the fit to the corners."""
    rows, parameters = design.shape
    if rows <= parameters:
        return float("inf")
    variance = max(float((residual**2).sum()) / (rows - parameters), 0.03**2)
    spread = np.linalg.pinv(design.T @ design)
    at = _design(*corners, model, slope)
    per_row = np.einsum("ij,jk,ik->i", at, spread, at).reshape(2, -1)
    return float(np.sqrt(variance * per_row.sum(axis=0).max()))
