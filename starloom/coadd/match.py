"""Putting frames on one flux scale and one sky, from what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lsqr
from scipy.spatial import cKDTree

from starloom.coadd.measure import StarFluxes

Floats = NDArray[np.float64]

_LOG_PER_MAG = 0.4 * np.log(10)
_FLUX_FLOOR = 0.005
"""Relative error no star beats: flat fields and the PSF over the field."""


@dataclass(frozen=True)
class FluxScales:
    """``log_scale`` (NaN where untied) and common stars of each frame, and the tie to magnitudes."""

    log_scale: Floats
    n_stars: NDArray[np.intp]
    zero_point_mag: float | None
    zero_point_err: float | None


def match_stars(stars: Sequence[StarFluxes], radius_arcsec: float) -> list[NDArray[np.intp]]:
    """Return, per frame, the number of each star in the union of all frames' stars (-1: ambiguous)."""
    radius = np.radians(radius_arcsec / 3600)
    union = np.zeros((0, 3))
    numbers: list[NDArray[np.intp]] = [np.zeros(0, np.intp)] * len(stars)
    for index in sorted(range(len(stars)), key=lambda i: (-len(stars[i].flux), i)):
        vectors = stars[index].vectors
        ids = np.full(len(vectors), -1, np.intp)
        if len(vectors) and len(union):
            distance, nearest = cKDTree(union).query(vectors, distance_upper_bound=radius)
            found = np.isfinite(distance)
            ids[found] = nearest[found]
        new = np.flatnonzero(ids < 0)
        ids[new] = len(union) + np.arange(len(new))
        union = np.concatenate([union, vectors[new]])
        unique, counts = np.unique(ids, return_counts=True)
        ids[np.isin(ids, unique[counts > 1])] = -1
        numbers[index] = ids
    return numbers


def _joint_fit(frame: NDArray[np.intp], star: NDArray[np.intp], log_flux: Floats, error: Floats, n: int) -> Floats:
    """Solve ``log_flux = m[star] - log_scale[frame]`` robustly (iterated Huber weights); gauge: mean 0."""
    names, star = np.unique(star, return_inverse=True)
    rows = np.arange(len(frame))
    columns = n + len(names)
    weight = 1 / error
    solution = np.zeros(columns)
    for _ in range(8):
        values = np.concatenate([-weight, weight])
        matrix = sparse.csr_matrix(
            (values, (np.concatenate([rows, rows]), np.concatenate([frame, n + star]))),
            shape=(len(frame), columns),
        )
        # LSQR returns the least-norm solution, so the free common level needs no row of its own.
        new = lsqr(matrix, weight * log_flux, atol=1e-12, btol=1e-12, iter_lim=4000)[0]
        residual = np.abs(log_flux - new[n + star] + new[frame]) / error
        weight = 1 / error / np.sqrt(np.maximum(1, residual / 2))
        done = np.allclose(new, solution, atol=1e-6)
        solution = new
        if done:
            break
    return solution[:n]


def flux_scales(
    stars: Sequence[StarFluxes],
    zero_points: Sequence[tuple[float | None, float | None]],
    *,
    match_radius_arcsec: float,
    min_stars: int,
    output_zero_point: float,
) -> FluxScales:
    """Solve all frames' flux scales jointly and tie them once to magnitudes.

    Parameters
    ----------
    stars
        Aperture fluxes per frame.
    zero_points
        ``(mag, err)`` per frame, None where unknown; they tie, weighted, the mean of what stars connect.

    Notes
    -----
    Weighted least squares in log flux over all stars seen by two frames or more, as SCAMP does for its
    photometric solution (Bertin 2006, ASP Conf. 351, 112). Frames that no common stars connect to the
    largest group are tied by their own zero points; without one they stay NaN.
    """
    n = len(stars)
    ids = match_stars(stars, match_radius_arcsec)
    frame = np.concatenate([np.full(len(i), k, np.intp) for k, i in enumerate(ids)])
    star = np.concatenate(ids)
    flux = np.concatenate([s.flux for s in stars])
    error = np.concatenate([s.error for s in stars])
    use = star >= 0
    counts = np.bincount(star[use], minlength=int(star.max(initial=0)) + 1)
    use[use] = counts[star[use]] > 1
    frame, star, flux, error = frame[use], star[use], flux[use], error[use]
    n_stars = np.bincount(frame, minlength=n)
    tied = n_stars >= min_stars
    log_scale = np.full(n, np.nan)
    component = np.arange(n)
    if tied.sum() > 1:
        keep = tied[frame]
        frame, star, flux, error = frame[keep], star[keep], flux[keep], error[keep]
        incidence = sparse.csr_matrix((np.ones(len(frame)), (frame, star)), shape=(n, int(star.max()) + 1))
        shared = (incidence @ incidence.T).toarray()
        _, component = connected_components(shared >= min_stars, directed=False)
        relative = np.hypot(error / flux, _FLUX_FLOOR)
        log_scale = np.where(tied, _joint_fit(frame, star, np.log(flux), relative, n), np.nan)
    return _tie(log_scale, n_stars, np.asarray(component), zero_points, output_zero_point)


def _tie(
    log_scale: Floats,
    n_stars: NDArray[np.intp],
    component: NDArray[np.intp],
    zero_points: Sequence[tuple[float | None, float | None]],
    output_zero_point: float,
) -> FluxScales:
    mag = np.array([np.nan if z is None else z for z, _ in zero_points])
    err = np.array([0.05 if e is None else max(e, 0.002) for _, e in zero_points])
    wanted = _LOG_PER_MAG * (output_zero_point - mag)
    alone = np.isnan(log_scale)
    if len(log_scale) == 1:
        alone[:] = True
    result = np.where(alone, wanted, np.nan)
    sizes = {c: int((component[~alone] == c).sum()) for c in np.unique(component[~alone])}
    errors = list(err[alone & np.isfinite(wanted)])
    for c in sizes:
        member = ~alone & (component == c)
        known = member & np.isfinite(mag)
        if known.any():
            w = 1 / err[known] ** 2
            offset = np.sum(w * (wanted[known] - log_scale[known])) / w.sum()
            # The frames share their calibrators, hence the catalogue's error: averaging frames does not shrink
            # it. The scatter of the zero points about the stars' solution counts where it exceeds their errors.
            chi2 = np.sum(w * ((wanted[known] - log_scale[known] - offset) / _LOG_PER_MAG) ** 2)
            excess = np.sqrt(max(1.0, chi2 / max(known.sum() - 1, 1)))
            errors.insert(0, float(excess * np.sum(w * err[known]) / w.sum()))
            result[member] = log_scale[member] + offset
    if np.isfinite(result).any():
        return FluxScales(result, n_stars, output_zero_point, float(errors[0]))
    if sizes:
        # Nobody knows a zero point: the largest connected group on its own scale, the median frame unchanged.
        largest = max(sizes, key=lambda c: (sizes[c], -c))
        member = ~alone & (component == largest)
        result[member] = log_scale[member] - np.median(log_scale[member])
    elif len(log_scale) == 1:
        result[:] = 0.0
    return FluxScales(result, n_stars, None, None)


SKY_POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Powers of u and v in a frame's sky: offset, gradient, and the bowl that vignetting leaves of a bright sky."""

_GRADIENT_POINTS, _BOWL_POINTS = 12, 60


def sky_basis(u: Floats, v: Floats) -> Floats:
    """Return the terms of `SKY_POWERS` at positions of any one shape, stacked along a new first axis."""
    return np.stack([u**i * v**j for i, j in SKY_POWERS])


def sky_terms(samples: Floats, u: Floats, v: Floats) -> Floats:
    """Fit a smooth sky per frame to the differences between frames; what is common stays.

    Parameters
    ----------
    samples
        Sky of each frame at common points, output units, shape ``(n, m)``, NaN off the frame.
    u, v
        Positions of the points, shape ``(m,)``.

    Returns
    -------
    ndarray
        ``(n, 6)`` terms of `SKY_POWERS` to subtract; their mean over the frames is zero, so that nebulosity and
        the sky's own level, which every frame shows, are left alone. Gradients are fitted only to frames with at
        least 12 points in common with others, second powers with 60.
    """
    n, k = len(samples), len(SKY_POWERS)
    terms = np.zeros((n, k))
    seen = np.isfinite(samples)
    shared = seen & (seen.sum(axis=0) > 1)
    points = np.flatnonzero(shared.any(axis=0))
    if n < 2 or len(points) == 0:
        return terms
    frame, point = np.nonzero(shared[:, points])
    data = samples[:, points][frame, point]
    basis = sky_basis(u[points][point], v[points][point])
    common = shared.sum(axis=1)
    order = np.where(common >= _BOWL_POINTS, 2, np.where(common >= _GRADIENT_POINTS, 1, 0))
    for term, powers in enumerate(SKY_POWERS):
        basis[term] *= (order >= sum(powers))[frame]
    rows = np.arange(len(frame))
    level = float(np.median(data))
    column = np.concatenate([k * frame + term for term in range(k)] + [k * n + point])
    value = np.concatenate([*basis, np.ones(len(frame))])
    weight = np.ones(len(frame))
    for _ in range(4):
        matrix = sparse.csr_matrix(
            (value * np.tile(weight, k + 1), (np.tile(rows, k + 1), column)),
            shape=(len(frame), k * n + len(points)),
        )
        solution = lsqr(matrix, weight * (data - level), atol=1e-12, btol=1e-12, iter_lim=4000)[0]
        residual = np.abs(matrix @ solution - weight * (data - level)) / weight
        spread = max(1.4826 * float(np.median(residual)), 1e-12)
        weight = 1 / np.sqrt(np.maximum(1, residual / (2 * spread)))
    terms = solution[: k * n].reshape(n, k)
    return np.asarray(terms - terms.mean(axis=0))
