"""Putting frames on one flux scale, from the stars they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import lsqr
from scipy.spatial import cKDTree

from starloom.coadd.growth import total_factors

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_LOG_PER_MAG = 0.4 * np.log(10)
_FLUX_FLOOR = 0.005
"""Relative error no star beats: flat fields and the PSF over the field."""

_SPOILT = 0.25
"""Share of a star's frames that see a neighbour from which on it ties none: one may be a cosmic ray."""
_FEW_STARS = 25


@dataclass(frozen=True, eq=False)
class StarFluxes:
    """Stars of one frame as the flux scale takes them.

    ``vectors`` are ICRS unit vectors, shape ``(n, 3)``; ``flux`` and ``error`` are within an aperture, ADU, shape
    ``(n,)``; ``alone`` tells which no neighbour spoils. ``growth`` is explained by
    `starloom.coadd.measure.Measured`; frames of one ``node`` have like profiles. The flux is made of the
    ``share`` of each aperture's, None: of the smallest's alone. ``pedestal`` is what unseen neighbours
    and the sky may leave in it, ADU.
    """

    vectors: Floats
    flux: Floats
    error: Floats
    alone: NDArray[np.bool_]
    growth: float = 1.0
    growth_error: float = np.inf
    node: str = ""
    share: Floats | None = None
    pedestal: float = 0.0


@dataclass(frozen=True)
class FluxScales:
    """``log_scale`` (NaN where untied) and common stars of each frame, and the tie to magnitudes."""

    log_scale: Floats
    n_stars: Indices
    zero_point_mag: float | None
    zero_point_err: float | None


class _Union:
    """Stars that have been seen, with a tree that is rebuilt only when it has grown by a third.

    A tree per frame over all stars so far would make the matching grow with the square of the number of frames.
    """

    def __init__(self, radius: float) -> None:
        self._radius = radius
        self._old, self._new = np.zeros((0, 3)), np.zeros((0, 3))
        self._tree: cKDTree | None = None

    def match(self, vectors: Floats) -> Indices:
        distance = np.full(len(vectors), np.inf)
        ids = np.full(len(vectors), -1, np.intp)
        for tree, offset in ((self._tree, 0), (cKDTree(self._new) if len(self._new) else None, len(self._old))):
            if tree is None or not len(vectors):
                continue
            found, nearest = tree.query(vectors, distance_upper_bound=self._radius)
            closer = found < distance
            ids[closer] = nearest[closer] + offset
            distance[closer] = found[closer]
        return ids

    def add(self, vectors: Floats) -> Indices:
        """Add stars and return their numbers."""
        ids = len(self._old) + len(self._new) + np.arange(len(vectors))
        self._new = np.concatenate([self._new, vectors])
        if len(self._new) > 500 + len(self._old) // 3:
            self._old, self._new = np.concatenate([self._old, self._new]), np.zeros((0, 3))
            self._tree = cKDTree(self._old)
        return ids


def match_stars(stars: Sequence[Floats], radius_arcsec: float) -> list[Indices]:
    """Return, per frame, the number of each star in the union of all frames' stars.

    Parameters
    ----------
    stars
        ICRS unit vectors of each frame's stars, shape ``(n, 3)``.
    radius_arcsec
        Largest distance of one star in two frames.

    Returns
    -------
    list of ndarray
        -1 where two stars of a frame claim the same number.
    """
    union = _Union(float(np.radians(radius_arcsec / 3600)))
    numbers: list[Indices] = [np.zeros(0, np.intp)] * len(stars)
    for index in sorted(range(len(stars)), key=lambda i: (-len(stars[i]), i)):
        vectors = stars[index]
        ids = union.match(vectors)
        new = np.flatnonzero(ids < 0)
        ids[new] = union.add(vectors[new])
        unique, counts = np.unique(ids, return_counts=True)
        ids[np.isin(ids, unique[counts > 1])] = -1
        numbers[index] = ids
    return numbers


def shared_counts(numbers: Sequence[Indices]) -> Indices:
    """Return how many of each frame's stars another frame has seen too."""
    every = np.concatenate([ids[ids >= 0] for ids in numbers])
    seen = np.bincount(every, minlength=1)
    return np.array([int((seen[ids[ids >= 0]] > 1).sum()) for ids in numbers], np.intp)


def _joint_fit(frame: Indices, star: Indices, log_flux: Floats, error: Floats, lift: Floats, n: int) -> Floats:
    """Solve ``log_flux = m[star] - log_scale[frame] + c[frame] lift`` robustly (Huber weights).

    ``c`` is what lies under a frame's stars, of unit variance beforehand; the common level is free.
    """
    names, star = np.unique(star, return_inverse=True)
    rows, prior = np.arange(len(frame)), len(frame) + np.arange(n)
    under = n + len(names)
    columns = under + n
    weight = 1 / error
    solution = np.zeros(columns)
    entries = np.concatenate([rows, rows, rows, prior])
    unknowns = np.concatenate([frame, n + star, under + frame, under + np.arange(n)])
    for _ in range(8):
        # Columns of like length: a frame of bright stars would else need hundreds of LSQR's steps.
        values = np.concatenate([-weight, weight, weight * lift, np.ones(n)])
        length = 1 / np.sqrt(np.maximum(np.bincount(unknowns, values**2, columns), 1e-300))
        matrix = sparse.csr_matrix(
            (values * length[unknowns], (entries, unknowns)), shape=(len(frame) + n, columns)
        )
        # LSQR returns the least-norm solution, so the free common level needs no row of its own. What is left of
        # the last round is small: each round starts from it.
        left = log_flux - (solution[n + star] - solution[frame] + solution[under + frame] * lift)
        wanted = np.concatenate([weight * left, -solution[under:]])
        new = solution + length * lsqr(matrix, wanted, atol=1e-9, btol=1e-9, iter_lim=4000)[0]
        residual = np.abs(log_flux - (new[n + star] - new[frame] + new[under + frame] * lift)) / error
        weight = 1 / error / np.sqrt(np.maximum(1, residual / 2))
        done = np.allclose(new, solution, atol=1e-6)
        solution = new
        if done:
            break
    return solution[:n]


def flux_scales(
    stars: Sequence[StarFluxes],
    numbers: Sequence[Indices],
    zero_points: Sequence[tuple[float | None, float | None]],
    *,
    min_stars: int,
    output_zero_point: float,
) -> FluxScales:
    """Solve all frames' flux scales jointly and tie them once to magnitudes.

    Parameters
    ----------
    stars
        Aperture fluxes per frame.
    numbers
        From `match_stars`.
    zero_points
        ``(mag, err)`` per frame, None where unknown; they tie, weighted, the mean of what stars connect.

    Notes
    -----
    Weighted least squares in log flux over all stars seen by two frames or more, as SCAMP does for its
    photometric solution (Bertin 2006, ASP Conf. 351, 112). Frames that no common stars connect to the
    largest group are tied by their own zero points; without one they stay NaN.
    """
    n = len(stars)
    frame = np.concatenate([np.full(len(i), k, np.intp) for k, i in enumerate(numbers)])
    star = np.concatenate(list(numbers))
    factor = total_factors(stars)
    flux = np.concatenate([s.flux * f for s, f in zip(stars, factor, strict=True)])
    error = np.concatenate([s.error * f for s, f in zip(stars, factor, strict=True)])
    alone = np.concatenate([s.alone for s in stars])
    lift = np.concatenate([np.full(len(s.flux), s.pedestal * f) for s, f in zip(stars, factor, strict=True)])
    known = (star >= 0) & (flux > 0)
    use = _without_company(known & alone, frame, star, alone, max(_FEW_STARS, 3 * min_stars))
    n_stars = np.bincount(frame[use], minlength=n)
    if (n_stars >= min_stars).sum() < 2:
        # In a field where every star has a neighbour, neighbours are common to all frames as well.
        use = _shared(known, frame, star)
        n_stars = np.bincount(frame[use], minlength=n)
    frame, star, flux, error, lift = (a[use] for a in (frame, star, flux, error, lift))
    tied = n_stars >= min_stars
    log_scale = np.full(n, np.nan)
    component = np.arange(n)
    if tied.sum() > 1:
        keep = tied[frame]
        frame, star, flux, error, lift = (a[keep] for a in (frame, star, flux, error, lift))
        component = _components(frame, star, n, min_stars)
        relative = np.hypot(error / flux, _FLUX_FLOOR)
        log_scale = np.where(tied, _joint_fit(frame, star, np.log(flux), relative, lift / flux, n), np.nan)
    return _tie(log_scale, n_stars, component, zero_points, output_zero_point)


def _without_company(
    use: NDArray[np.bool_], frame: Indices, star: Indices, alone: NDArray[np.bool_], few: int
) -> NDArray[np.bool_]:
    """Narrow ``use`` to stars that two frames or more have, and that hardly a frame sees a neighbour of.

    The sharper and the deeper frames see neighbours that the others measure along with the star. Frames that would
    keep less than ``few`` keep all of ``use``.
    """
    known = star >= 0
    size = int(star.max(initial=0)) + 1
    seen, spoilt = (np.bincount(star[k], minlength=size) for k in (known, known & ~alone))
    lonely = use & (spoilt[star] <= _SPOILT * seen[star])
    narrowed = _shared(lonely, frame, star)
    poor = np.bincount(frame[narrowed], minlength=int(frame.max(initial=0)) + 1) < few
    return _shared(np.where(poor[frame], use, lonely), frame, star)


def _shared(use: NDArray[np.bool_], frame: Indices, star: Indices) -> NDArray[np.bool_]:
    """Narrow ``use`` to stars that two frames or more have."""
    result = use.copy()
    counts = np.bincount(star[use], minlength=int(star.max(initial=0)) + 1)
    result[use] = counts[star[use]] > 1
    return result


def _components(frame: Indices, star: Indices, n: int, min_stars: int) -> Indices:
    """Return the number of the group each frame belongs to, from 0; frames tie by ``min_stars`` common stars.

    A group grows by the frames that share that many stars with all its members together: pairs of frames, whose
    number is a square, are never looked at.
    """
    incidence = sparse.csr_matrix((np.ones(len(frame), np.int32), (frame, star)), shape=(n, int(star.max()) + 1))
    columns = incidence.tocsc()
    component = np.full(n, -1, np.intp)
    number = 0
    for seed in range(n):
        if component[seed] >= 0:
            continue
        component[seed] = number
        common = np.zeros(n, np.int64)
        known = np.zeros(incidence.shape[1], bool)
        fresh = incidence[seed].indices
        while len(fresh):
            known[fresh] = True
            # Every star is looked up once in a group's life.
            common += np.asarray(columns[:, fresh].sum(axis=1)).ravel()
            joining = np.flatnonzero((component < 0) & (common >= min_stars))
            component[joining] = number
            seen = incidence[joining].indices
            fresh = np.unique(seen[~known[seen]])
        number += 1
    return component


def _tie(
    log_scale: Floats,
    n_stars: Indices,
    component: Indices,
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


def sky_basis(u: Floats, v: Floats) -> Floats:
    """Return the terms of `SKY_POWERS` at positions of any one shape, stacked along a new first axis."""
    return np.stack([u**i * v**j for i, j in SKY_POWERS])
