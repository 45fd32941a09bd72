"""Least-squares fits of a frame's map: what the stars say, weighed against what is believed of the optics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.astrometry.distortion import SIMILARITY, Prior, as_map, design, everyday, similarity
from starloom.astrometry.tangent import deproject, project
from starloom.astrometry.wcs import PlaneMap

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Model = Literal["linear", "instrument", "radial", "quadratic-radial", "cubic", "quintic"]

# Fewest matches at which a model may be tried, from the stiffest to the freest: no more than a bar against
# nonsense, the choice is made by held-out stars.
MIN_MATCHES: dict[Model, int] = {
    "linear": 4,
    "instrument": 4,
    "radial": 6,
    "quadratic-radial": 20,
    "cubic": 35,
    "quintic": 80,
}
# How many pairs of coordinates each model swallows: that many matches are no evidence.
FREE_STARS: dict[Model, float] = {
    "linear": 3,
    "instrument": 2.5,
    "radial": 3.5,
    "quadratic-radial": 6.5,
    "cubic": 10,
    "quintic": 21,
}
# Powers of the distortion about which a model believes nothing beforehand.
FREED: dict[Model, int] = {"quadratic-radial": 2, "cubic": 3, "quintic": 5}
FREE_PX = 300.0
CLIP = 3.5
# No star is thrown out for a residual below this: centroids and catalogues are no better.
CLIP_FLOOR_PX = 0.1
# Errors of a star that the catalogue states nothing of, arcsec, and what pixels leave of any centroid.
UNKNOWN_POSITION_ARCSEC = 0.1
CENTROID_FLOOR_PX = 0.01
# The stated errors of the stars count as much as so many residuals.
TRUST = 6.0
# Below this no map is known: the PSF over the frame, the pixels' own geometry.
MAP_FLOOR_PX = 0.003
_RATIOS = np.geomspace(0.02, 400.0, 34) ** 2


@dataclass(frozen=True)
class Pairs:
    """Matched stars, with the errors that are stated for them.

    Parameters
    ----------
    x, y
        Detected positions, 0-based pixels, shape ``(n,)``.
    ra_deg, dec_deg
        Catalogue positions at the frame's epoch.
    star_err_px, catalog_err_px
        One sigma per axis, of the centroid and of the catalogue's position.
    """

    x: Floats
    y: Floats
    ra_deg: Floats
    dec_deg: Floats
    star_err_px: Floats
    catalog_err_px: Floats

    def __len__(self) -> int:
        return len(self.x)

    def only(self, which: NDArray[np.generic]) -> Pairs:
        """Return some of the pairs, by index or mask."""
        names = ("x", "y", "ra_deg", "dec_deg", "star_err_px", "catalog_err_px")
        return Pairs(*(getattr(self, name)[which] for name in names))


def plain_pairs(x: Floats, y: Floats, ra_deg: Floats, dec_deg: Floats, error_px: float = 0.1) -> Pairs:
    """Return pairs that are all as good as each other."""
    same = np.full(len(x), error_px / np.sqrt(2))
    return Pairs(x, y, ra_deg, dec_deg, same, same)


@dataclass(frozen=True)
class Fit:
    """A fitted map, the stars it rests on, and how well it is known.

    Parameters
    ----------
    map
        The fitted map.
    model
        Which model it is.
    keep
        Stars the fit rests on, shape ``(n,)``.
    residual
        Ideal pixel that the catalogue wants less the one that the map gives, pixels, shape ``(2, n)``.
    variance
        Expected square of a residual per axis, shape ``(n,)``.
    information, score
        Normal matrix and right side of the stars alone, without any prior, shapes ``(k, k)`` and ``(k,)``: four
        numbers of a similarity (zero at the solution), then the distortion's.
    numbers
        The fitted distortion, see `starloom.astrometry.distortion`.
    prior
        What was believed of the distortion before.
    belief
        The same as the errors of the map assume it: with nothing believed of the powers that the model frees.
    student
        Factor by which errors exceed a Gaussian's because the stars' scatter is known from few of them.
    """

    map: PlaneMap
    model: Model
    keep: Flags
    residual: Floats
    variance: Floats
    information: Floats
    score: Floats
    numbers: Floats
    prior: Prior
    belief: Prior
    student: float

    def only_kept(self) -> Fit:
        """Return the same without the stars that were put aside."""
        return replace(
            self,
            keep=self.keep[self.keep],
            residual=self.residual[:, self.keep],
            variance=self.variance[self.keep],
        )

    @property
    def residual_px(self) -> Floats:
        """Distance of every star from the map, pixels, shape ``(n,)``."""
        return np.asarray(np.hypot(*self.residual), np.float64)

    @cached_property
    def _expected(self) -> tuple[Floats, Floats]:
        """What the stars and the belief say together of all numbers, less the fit's; and its covariance."""
        mean, covariance = _posterior(self.information, self.score, self.belief)
        mean[SIMILARITY:] -= self.numbers
        return mean, covariance

    def error_px(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the error of the map, 1 sigma per axis in pixels, at 0-based pixel positions.

        Notes
        -----
        The covariance of the posterior under ``belief``, and what a stiffer model left out: the square of its
        distance from that posterior's mean.
        """
        shape = np.shape(x)
        u = (np.ravel(np.asarray(x, np.float64)) - self.map.x0) / self.map.unit_px
        v = (np.ravel(np.asarray(y, np.float64)) - self.map.y0) / self.map.unit_px
        at = design(u, v, self.belief.order)
        mean, covariance = self._expected
        variance = np.einsum("anj,jk,ank->n", at, covariance, at) * self.student**2
        neglected = ((at @ mean) ** 2).sum(axis=0)
        return np.asarray(np.sqrt((variance + neglected) / 2 + MAP_FLOOR_PX**2).reshape(shape))

    @property
    def neglected_px(self) -> float:
        """What a stiffer model leaves out of what stars and belief expect together, rms over the frame, pixels."""
        x, y = (a.ravel() for a in np.meshgrid(*(np.linspace(0, 2 * c, 7) for c in (self.map.x0, self.map.y0))))
        u, v = (x - self.map.x0) / self.map.unit_px, (y - self.map.y0) / self.map.unit_px
        left = design(u, v, self.belief.order) @ self._expected[0]
        return float(np.sqrt((left**2).sum(axis=0).mean()))

    @property
    def corner_error_px(self) -> float:
        """Expected error, both axes together, at the worst corner (1 sigma)."""
        x, y = _corners(self.map)
        return float(self.error_px(x, y).max() * np.sqrt(2))


def fit_map(
    pairs: Pairs,
    start: PlaneMap,
    model: Model,
    *,
    prior: Prior | None = None,
    clip: bool = True,
    turns: int = 10,
) -> Fit:
    """Fit a map to matched stars.

    Parameters
    ----------
    pairs
        The stars.
    start
        Map to start from; its reference pixel, the frame's centre, and its unit, the half diagonal, stay.
    model
        Freedom of the map: nothing beyond the linear part (``linear``), a learnt distortion (``instrument``), what
        may be expected of any optics, mostly radial (``radial``), or all powers to the second, third or fifth.
    prior
        Belief about the distortion; that of a camera nobody knows by default.
    clip
        Whether outliers are put aside.
    turns
        Most turns of weighing and fitting.

    Notes
    -----
    Weighted linear least squares with Gaussian priors: every model is the same fit under another belief, so that
    a few stars bend the map as little as they ought to, and many as much as they ask. The stars' variance is
    ``s² (σ_star² + β² σ_catalogue²)``; β and s are found from the residuals.
    """
    belief = prior or expected(start)
    assumed = _assumed(belief, model)
    u, v = (pairs.x - start.x0) / start.unit_px, (pairs.y - start.y0) / start.unit_px
    basis = design(u, v, belief.order)
    ra0, dec0, cd = start.ra0_deg, start.dec0_deg, similarity(start.cd)
    keep = np.ones(len(pairs), bool)
    variance = pairs.star_err_px**2 + pairs.catalog_err_px**2
    numbers = np.zeros(basis.shape[2])
    information, score = np.zeros((len(numbers), len(numbers))), numbers
    freedom = 0.0
    for _ in range(turns):
        plane = np.stack(project(pairs.ra_deg, pairs.dec_deg, ra0, dec0))
        wanted = np.linalg.inv(cd) @ plane - np.stack([pairs.x - start.x0, pairs.y - start.y0])
        information, score = _normal(basis, wanted, variance, keep)
        numbers, covariance = _posterior(information, score, assumed)
        residual = wanted - basis @ numbers
        moved, turned = numbers[:2].copy(), numbers[2:4] / start.unit_px
        ra0, dec0 = _moved(ra0, dec0, cd @ moved)
        cd = cd @ np.array([[1 + turned[0], -turned[1]], [turned[1], 1 + turned[0]]])
        lever = _leverage(basis, covariance, variance, keep)
        before, kept = variance, keep
        variance, freedom = _noise(pairs, residual, lever, keep)
        if clip and len(pairs) > MIN_MATCHES["linear"]:
            keep = _kept(residual, variance, lever, keep, kept)
        settled = np.hypot(*moved) < 1e-4 and np.abs(numbers[2:4]).max() < 1e-4
        still = bool((keep == kept).all()) and np.allclose(variance, before, rtol=0.02)
        if settled and still:
            break
    at_rest = information.copy(), score - information[:, :SIMILARITY] @ numbers[:SIMILARITY]
    return Fit(
        map=as_map(ra0, dec0, (start.x0, start.y0), start.unit_px, cd, numbers[SIMILARITY:]),
        model=model,
        keep=kept,
        residual=residual,
        variance=before,
        information=at_rest[0],
        score=at_rest[1],
        numbers=numbers[SIMILARITY:],
        prior=belief,
        belief=_wider(belief, model),
        student=float(np.sqrt((freedom + TRUST) / (freedom + TRUST - 2.0))),
    )


def held_out(
    pairs: Pairs, fit: Fit, model: Model, *, prior: Prior | None = None, folds: int | None = None
) -> Floats:
    """Return how far stars lie from a map fitted without them, pixels, shape ``(2, n)``.

    Parameters
    ----------
    pairs, fit
        Matched stars and a fit to all of them, for its weights and its place on the sky.
    model
        The model to try.
    prior
        As for `fit_map`.
    folds
        Deal the stars into so many groups and leave out one at a time; each star alone by default. Stars come
        brightest first, so dealing them out in turn gives every group the same mix.

    Notes
    -----
    Exact without any refit: with the hat matrix H of the weighted least squares (priors included), the residuals
    of a group fitted without it are ``(1 - H_gg)^-1 r_g``.

    References
    ----------
    Cook & Weisberg 1982, Residuals and Influence in Regression, section 2.2.
    """
    assumed = _assumed(prior or expected(fit.map), model)
    basis, wanted = _linearised(pairs, fit.map, assumed.order)
    information, score = _normal(basis, wanted, fit.variance, fit.keep)
    numbers, covariance = _posterior(information, score, assumed)
    residual = wanted - basis @ numbers
    weight = np.where(fit.keep, 1.0 / fit.variance, 0.0)
    if folds is None:
        half = basis @ covariance
        xx, yy = (np.einsum("nj,nj->n", half[i], basis[i]) * weight for i in (0, 1))
        xy = np.einsum("nj,nj->n", half[0], basis[1]) * weight
        a, b, c = 1 - xx, -xy, 1 - yy
        alone = np.stack([c * residual[0] - b * residual[1], a * residual[1] - b * residual[0]])
        return np.asarray(alone / (a * c - b * b))
    out = np.empty_like(residual)
    for fold in range(min(folds, len(pairs))):
        group = np.arange(len(pairs)) % folds == fold
        rows = np.concatenate(basis[:, group])
        hat = rows @ covariance @ (rows * np.tile(weight[group], 2)[:, None]).T
        out[:, group] = np.linalg.solve(np.eye(len(rows)) - hat, residual[:, group].ravel()).reshape(2, -1)
    return out


def expected(found: PlaneMap, *, order: int = 3) -> Prior:
    """Return what may be believed of the optics of a frame whose camera nobody knows."""
    return everyday(order, found.unit_px, found.unit_px * found.scale_arcsec / 3600)


def _assumed(belief: Prior, model: Model) -> Prior:
    """Return what the fit of a model assumes."""
    if model == "linear":
        return belief.frozen()
    return belief.freed(2, FREED[model], FREE_PX) if model in FREED else belief


def _wider(belief: Prior, model: Model) -> Prior:
    """Return what its errors assume: that what a linear map leaves out is there all the same."""
    return belief if model == "linear" else _assumed(belief, model)


def _linearised(pairs: Pairs, found: PlaneMap, order: int) -> tuple[Floats, Floats]:
    u, v = (pairs.x - found.x0) / found.unit_px, (pairs.y - found.y0) / found.unit_px
    plane = np.stack(project(pairs.ra_deg, pairs.dec_deg, found.ra0_deg, found.dec0_deg))
    ideal = np.linalg.inv(similarity(found.cd)) @ plane
    return design(u, v, order), ideal - np.stack([pairs.x - found.x0, pairs.y - found.y0])


def _normal(basis: Floats, wanted: Floats, variance: Floats, keep: Flags) -> tuple[Floats, Floats]:
    weight = np.where(keep, 1.0 / variance, 0.0)
    weighted = basis * weight[:, None]
    information: Floats = weighted[0].T @ basis[0] + weighted[1].T @ basis[1]
    score: Floats = weighted[0].T @ wanted[0] + weighted[1].T @ wanted[1]
    return information, score


def _posterior(information: Floats, score: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """Return mean and covariance of all numbers; nothing is known beforehand of the similarity."""
    # A touch on the similarity too, so that stars in one place make a poor map and no error.
    precision = np.diag(np.full(len(score), 1e-9))
    precision[SIMILARITY:, SIMILARITY:] = prior.precision
    right = score.copy()
    right[SIMILARITY:] += prior.precision @ prior.mean
    covariance = np.asarray(np.linalg.inv(information + precision), np.float64)
    return np.asarray(covariance @ right, np.float64), covariance


def _leverage(basis: Floats, covariance: Floats, variance: Floats, keep: Flags) -> Floats:
    """Return the part of each star's variance that the fit takes away, mean of both axes, shape ``(n,)``."""
    half = basis @ covariance
    pull = (half * basis).sum(axis=2).mean(axis=0) / variance
    return np.where(keep, np.clip(pull, 0.0, 0.95), 0.0).astype(np.float64)


def _noise(pairs: Pairs, residual: Floats, lever: Floats, keep: Flags) -> tuple[Floats, float]:
    """Return the variance of the stars that their residuals ask for, per axis, and its degrees of freedom."""
    square = (residual**2).sum(axis=0)[keep] / (1.0 - lever[keep])
    star, catalog = pairs.star_err_px**2, pairs.catalog_err_px**2
    trial = star[keep] + _RATIOS[:, None] * catalog[keep]
    weight = 1.0 - lever[keep]
    likelihood = -((np.log(trial) + square / (2 * trial)) * weight).sum(axis=1)
    likelihood -= TRUST / 2 * (np.log(_RATIOS) + 1.0 / _RATIOS)
    ratio = float(_RATIOS[int(np.argmax(likelihood))])
    found = star + ratio * catalog
    freedom = max(2.0 * float(weight.sum()), 0.0)
    chi2 = float((square * weight / found[keep]).sum())
    return found * max((chi2 + TRUST) / (freedom + TRUST), 0.05), freedom


def _kept(residual: Floats, variance: Floats, lever: Floats, keep: Flags, before: Flags) -> Flags:
    """Return the stars that are no outliers: against their own errors, and against the others' scatter."""
    distance = np.hypot(*residual)
    sigmas = distance / np.sqrt(variance * (1.0 - lever))
    scatter = max(float(np.median(sigmas[keep])) / 1.1774, 0.5)
    wanted = (sigmas <= CLIP * min(scatter, 1.0)) | (distance <= CLIP_FLOOR_PX)
    return wanted if wanted.sum() >= MIN_MATCHES["linear"] else before


def _moved(ra0_deg: float, dec0_deg: float, by_deg: Floats) -> tuple[float, float]:
    """Return the tangent point moved in its own plane: it follows the frame's centre."""
    ra, dec = deproject(by_deg[0], by_deg[1], ra0_deg, dec0_deg)
    return float(ra), float(dec)


def _corners(found: PlaneMap) -> tuple[Floats, Floats]:
    """Corners of the frame, pixels; the reference pixel is the frame's centre."""
    x, y = 2 * found.x0, 2 * found.y0
    return np.array([0.0, x, x, 0.0]), np.array([0.0, 0.0, y, y])
