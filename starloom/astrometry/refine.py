"""Refinement: from a solver's rough WCS to one that uses every star and the optics' distortion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from starloom.astrometry.detect import StarList
from starloom.astrometry.distortion import Prior
from starloom.astrometry.fitting import (
    CENTROID_FLOOR_PX,
    MIN_MATCHES,
    UNKNOWN_POSITION_ARCSEC,
    Fit,
    Model,
    Pairs,
    expected,
    fit_map,
    held_out,
)
from starloom.astrometry.instrument import InstrumentModel
from starloom.astrometry.samples import sample_of
from starloom.astrometry.seams import Candidate, CatalogProvider, Unsolved, WcsCards
from starloom.astrometry.tangent import project
from starloom.astrometry.wcs import PlaneMap, map_from_cards
from starloom.refcat import CatalogStars

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Tolerance (pixels), share of the catalogue and freedom of the map in successive rounds: first the bright stars of
# both lists, loosely, because faint ones only find false partners while the map is rough.
ROUNDS: tuple[tuple[float, float, Model], ...] = (
    (8.0, 0.4, "linear"),
    (6.0, 0.7, "radial"),
    (4.0, 1.0, "radial"),
    (3.0, 1.0, "quadratic-radial"),
)
MIN_TOLERANCE_PX, MAX_TOLERANCE_PX = 0.8, 2.5
# Stars as wide as this, or as sharp, are looked for within the tolerances above; wider ones within wider ones.
SHARP_PX = 5.0
# A freer model must foretell stars it has not seen better by this over the root of their number: a tenth better
# for 36 stars. Less is luck (measured on HAT-P-32, whose optics are linear and whose frames differed).
WORTH_IT = 0.6
# A linear map that leaves out more than this, rms over the frame, is none (measured: of the frames with fewer than
# 12 matches it made the median error 0.46 px instead of 0.34).
NEGLIGIBLE_PX = 0.1
# With fewer stars the verifier needs every one of them as evidence.
BENDING = 8
# Powers beyond the third are looked at on wide fields, where lenses need them, and where stars abound.
WIDE_DEG = 2.0
ABUNDANT = 150
FEWEST = 5
# What the air does to stars of one frame against each other, arcsec per axis: 1.3 θ^0.25 T^-0.5 with θ in radians
# and T in seconds is 0.05 for half a degree in a minute (Lindegren 1980, A&A 89, 41). No catalogue states it, and
# the bright stars of a good one would else outweigh all others.
AIR_ARCSEC = 0.05


@dataclass(frozen=True)
class WcsFit:
    """A refined WCS and the evidence for it.

    Parameters
    ----------
    cards
        FITS cards, TAN or TAN-SIP.
    map
        The same as a polynomial about the frame's centre.
    model
        Freedom of the map, see `starloom.astrometry.fitting`.
    order
        Its highest power: 1 to 5.
    star_index, catalog_index
        The matched pairs the fit rests on: indexes into the star list and into ``catalog``, shape ``(matches,)``.
    within
        Indexes into ``catalog`` of all stars with a partner within the tolerance, those put aside as outliers too.
    catalog
        The catalogue stars around the frame that were offered.
    rms_px, rms_arcsec
        Root mean square of the two-dimensional residuals of the matched stars.
    held_out_arcsec
        The same of stars held out of the fit.
    tolerance_px
        Radius within which the last round looked for partners.
    corner_error_px
        Expected error of the map at its worst corner, both axes together (1 sigma).
    residuals
        A row for the centre and each corner of the frame: ``where``, ``n``, ``dx_px``, ``dy_px`` (means of the
        catalogue's place less the star's), ``rms_px``; fit for JSON.
    sample
        What the frame says of its instrument, see `starloom.astrometry.instrument`; fit for JSON.
    model_used
        Whether the map rests on the instrument's learnt distortion.
    fit
        The least-squares fit behind it.
    """

    cards: WcsCards
    map: PlaneMap
    model: Model
    order: int
    star_index: Ints
    catalog_index: Ints
    within: Ints
    catalog: CatalogStars
    rms_px: float
    rms_arcsec: float
    held_out_arcsec: float
    tolerance_px: float
    corner_error_px: float
    residuals: list[dict[str, Any]] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    model_used: bool = False
    fit: Fit | None = None

    @property
    def matches(self) -> int:
        """Number of matched stars the fit rests on."""
        return len(self.star_index)

    def error_px(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the error of the map, 1 sigma per axis in pixels, at 0-based pixel positions of any shape."""
        assert self.fit is not None
        return self.fit.error_px(x, y)


def refine_wcs(
    candidate: Candidate,
    stars: StarList,
    catalog: CatalogProvider,
    *,
    epoch: float | None = None,
    instrument: InstrumentModel | None = None,
) -> WcsFit:
    """Match all stars to the catalogue and fit the map again, until nothing changes.

    Parameters
    ----------
    candidate
        What a solver proposes.
    stars
        The frame's stars.
    catalog
        Reference catalogue.
    epoch
        Julian year to which the catalogue's stars are moved; None: the catalogue's own.
    instrument
        What earlier frames of the same camera have taught. A model of another frame size is not used.

    Raises
    ------
    Unsolved
        ``no-match``: fewer than five stars find a partner.

    Notes
    -----
    The model is the one that best foretells held-out stars, the stiffer one when in doubt; but so few stars that
    they cannot tell do not make a camera linear, they leave it to what may be expected of any. Tolerances grow
    with the width of the stars: the centroid of a trail or of a ring is worth less.
    """
    shape = stars.shape
    current = map_from_cards(candidate.cards, shape)
    reach = float(np.hypot(*shape)) / 2 * current.scale_arcsec / 3600 * 1.1 + 0.02
    nearby = _cone(catalog, current, min(reach, 60.0), epoch)
    errors = star_errors(stars)
    learnt = None if instrument is None else instrument.prior(shape)
    known = learnt is not None
    wide = softness(stars)
    found: Fit | None = None
    for tolerance, share, freest in ROUNDS:
        star_index, catalog_index = match(current, stars, nearby, tolerance * wide, share)
        pairs = _pairs(stars, errors, nearby, star_index, catalog_index, current)
        model = _freest(len(pairs), "instrument" if known and freest != "linear" else freest)
        # The next round matches anew, so nothing need be settled here.
        found = _fit(pairs, current, model, learnt or expected(current), turns=4)
        current = found.map
    assert found is not None
    previous: list[tuple[int, int]] = []
    tolerance = MAX_TOLERANCE_PX * wide
    for _ in range(6):
        scatter = float(np.median(found.residual_px[found.keep])) / 1.1774
        tolerance = float(np.clip(4.0 * scatter, MIN_TOLERANCE_PX * wide, MAX_TOLERANCE_PX * wide))
        star_index, catalog_index = match(current, stars, nearby, tolerance, 1.0)
        now = list(zip(star_index.tolist(), catalog_index.tolist(), strict=True))
        if now == previous:
            break
        previous = now
        pairs = _pairs(stars, errors, nearby, star_index, catalog_index, current)
        unknown = expected(current, order=_order(len(pairs), current))
        prior = unknown if learnt is None else learnt.extended(unknown)
        model = best_model(pairs, current, found.model, prior, unknown, known=known)
        if model in ("radial", "linear"):
            prior = unknown
        found = _fit(pairs, current, model, prior)
        if model == "linear" and len(pairs) >= BENDING and found.neglected_px > NEGLIGIBLE_PX:
            found = _fit(pairs, current, "radial", prior)
        current = found.map
    kept = found.keep
    within, star_index, catalog_index = catalog_index, star_index[kept], catalog_index[kept]
    scale = current.scale_arcsec
    rms = float(np.sqrt(np.mean(found.residual_px[kept] ** 2)))
    unseen = held_out(pairs, found, found.model, prior=prior)[:, kept]
    return WcsFit(
        cards=current.cards(shape),
        map=current,
        model=found.model,
        order=current.order,
        star_index=star_index,
        catalog_index=catalog_index,
        within=within,
        catalog=nearby,
        rms_px=rms,
        rms_arcsec=rms * scale,
        held_out_arcsec=float(np.sqrt(np.mean((unseen**2).sum(axis=0)))) * scale,
        tolerance_px=tolerance,
        corner_error_px=found.corner_error_px,
        residuals=residual_map(pairs.x[kept], pairs.y[kept], found.residual[:, kept], shape),
        sample=sample_of(
            found.information,
            found.score,
            shape=shape,
            order=found.prior.order,
            matches=int(kept.sum()),
            scale_arcsec=scale,
            epoch=epoch,
        ).to_json(),
        model_used=found.model == "instrument",
        fit=found,
    )


def match(
    current: PlaneMap, stars: StarList, catalog: CatalogStars, tolerance_px: float, share: float
) -> tuple[Ints, Ints]:
    """Pair detected stars with catalogue stars that are each other's nearest within a tolerance.

    Parameters
    ----------
    current
        Map to match with.
    stars, catalog
        Both brightest first.
    tolerance_px
        Largest distance of a pair, pixels.
    share
        Fraction of the catalogue's stars on the frame to use, the brightest; detections are cut to four times that
        number.

    Returns
    -------
    star_index, catalog_index
        Indexes of the pairs, by brightness of the star.
    """
    xi, eta = project(catalog.ra_deg, catalog.dec_deg, current.ra0_deg, current.dec0_deg)
    inside = np.flatnonzero(on_frame(current, xi, eta, stars.shape, margin_px=tolerance_px))
    inside = inside[: max(int(np.ceil(share * len(inside))), 20)]
    detected = len(stars) if share >= 1.0 else min(len(stars), max(4 * len(inside), 60))
    none = np.zeros(0, np.int64)
    if not len(inside) or not detected:
        return none, none
    scale = current.scale_arcsec / 3600
    sx, sy = current.plane(stars.x[:detected], stars.y[:detected])
    star_tree = cKDTree(np.column_stack([sx, sy]) / scale)
    catalog_at = np.column_stack([xi[inside], eta[inside]]) / scale
    distance, nearest_star = star_tree.query(catalog_at, distance_upper_bound=tolerance_px)
    paired = np.flatnonzero(np.isfinite(distance))
    _, nearest_catalog = cKDTree(catalog_at).query(star_tree.data[nearest_star[paired]])
    paired = paired[nearest_catalog == paired]
    order = np.argsort(nearest_star[paired], kind="stable")
    return nearest_star[paired][order].astype(np.int64), inside[paired][order].astype(np.int64)


def on_frame(
    current: PlaneMap, xi_deg: Floats, eta_deg: Floats, shape: tuple[int, int], *, margin_px: float = 0.0
) -> NDArray[np.bool_]:
    """Return which standard coordinates fall on the frame, by the linear part of the map."""
    x, y = np.linalg.inv(current.cd) @ np.stack([xi_deg, eta_deg])
    x, y = x + current.x0, y + current.y0
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        inside = (x > -margin_px) & (x < nx - 1 + margin_px) & (y > -margin_px) & (y < ny - 1 + margin_px)
    return np.asarray(inside, bool)


def best_model(
    pairs: Pairs, current: PlaneMap, before: Model, prior: Prior, unknown: Prior, *, known: bool
) -> Model:
    """Return the stiffest model that foretells held-out stars about as well as any.

    Parameters
    ----------
    pairs, current
        Matched stars and the map they were matched with.
    before
        Model of the last fit.
    prior, unknown
        Belief about the distortion: the instrument's where known, and that of any camera.
    known
        Whether the instrument is known.
    """
    # Choosing needs hundreds of stars, not the thousands of a wide field.
    few = pairs.only(np.arange(len(pairs))[:: -(-len(pairs) // 500) or 1])
    # One fit gives the weights, the same for all contenders.
    weights = _fit(few, current, before, prior if before == "instrument" else unknown, turns=4)
    best: Model = "instrument" if known else "linear"
    score = float("inf")
    for model, least in MIN_MATCHES.items():
        if len(pairs) < least or model == ("linear" if known else "instrument"):
            continue
        if model == "quintic" and unknown.order < 5:
            continue
        belief = unknown if model in ("radial", "linear") else prior
        residual = held_out(few, weights, model, prior=belief)
        # The median of squares would not see a bad corner, the mean would see every mismatch: cut the worst tenth.
        ordered = np.sort(((residual**2).sum(axis=0) / weights.variance)[weights.keep])
        trimmed = float(np.sqrt(np.mean(ordered[: max(int(0.9 * len(ordered)), 3)])))
        if trimmed < (1.0 - WORTH_IT / np.sqrt(len(pairs))) * score:
            best, score = model, trimmed
    return best


def held_out_residual(
    fit: WcsFit, stars: StarList, *, folds: int | None = None, model: Model | None = None
) -> Floats:
    """Return how far each matched star lies from a map fitted without it, arcsec, shape ``(matches,)``.

    ``folds`` leaves out the stars in so many groups, each star alone by default.
    """
    assert fit.fit is not None
    pairs = _pairs(stars, star_errors(stars), fit.catalog, fit.star_index, fit.catalog_index, fit.map)
    rested = fit.fit.only_kept()
    residual = held_out(pairs, rested, model or fit.model, prior=rested.prior, folds=folds)
    return np.asarray(np.hypot(*residual) * fit.map.scale_arcsec)


def residual_map(x: Floats, y: Floats, residual: Floats, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Return mean and scatter of residuals in the centre and the corners of a frame.

    Parameters
    ----------
    x, y
        Places of the stars, pixels, shape ``(n,)``.
    residual
        Their residuals along x and y, pixels, shape ``(2, n)``.
    shape
        ``(ny, nx)`` of the frame.
    """
    ny, nx = shape
    column, row = np.clip(3 * x // nx, 0, 2), np.clip(3 * y // ny, 0, 2)
    places = {"centre": (1, 1), "(0, 0)": (0, 0), "(nx, 0)": (2, 0), "(nx, ny)": (2, 2), "(0, ny)": (0, 2)}
    rows: list[dict[str, Any]] = []
    for where, (i, j) in places.items():
        there = residual[:, (column == i) & (row == j)]
        n = there.shape[1]
        said: dict[str, Any] = {"where": where, "n": n, "dx_px": None, "dy_px": None, "rms_px": None}
        if n:
            dx, dy = (round(float(a), 4) for a in there.mean(axis=1))
            said |= {"dx_px": dx, "dy_px": dy, "rms_px": round(float(np.sqrt((there**2).sum(axis=0).mean())), 4)}
        rows.append(said)
    return rows


def star_errors(stars: StarList) -> Floats:
    """Return the error of the centroids, 1 sigma per axis in pixels, shape ``(n,)``.

    What the list does not state counts as a pixel.
    """
    found = np.where(np.isfinite(stars.centroid_err_px), stars.centroid_err_px, 1.0)
    # A clipped core leaves the wings to say where the star is.
    found = np.where(stars.saturated, np.maximum(found, 0.1), found)
    return np.asarray(np.hypot(np.clip(found, 0.0, 3.0), CENTROID_FLOOR_PX))


def softness(stars: StarList) -> float:
    """Return by how much the stars are wider than sharp ones, at least 1: tolerances are as much wider."""
    width = stars.frame_fwhm_px if np.isfinite(stars.frame_fwhm_px) else SHARP_PX
    return float(np.clip((width + stars.trail_px) / SHARP_PX, 1.0, 4.0))


def _cone(catalog: CatalogProvider, current: PlaneMap, radius: float, epoch: float | None) -> CatalogStars:
    return catalog.cone(current.ra0_deg, current.dec0_deg, radius, epoch=epoch)


def _order(matches: int, current: PlaneMap) -> int:
    wide = current.unit_px * current.scale_arcsec / 3600 > WIDE_DEG
    return 5 if wide or matches >= ABUNDANT else 3


def _pairs(
    stars: StarList,
    errors: Floats,
    catalog: CatalogStars,
    star_index: Ints,
    catalog_index: Ints,
    current: PlaneMap,
) -> Pairs:
    stated = catalog.position_err_arcsec
    if stated is None:
        error = np.full(len(catalog_index), UNKNOWN_POSITION_ARCSEC)
    else:
        error = np.where(np.isfinite(stated), stated, 3 * UNKNOWN_POSITION_ARCSEC)[catalog_index]
    return Pairs(
        stars.x[star_index],
        stars.y[star_index],
        catalog.ra_deg[catalog_index],
        catalog.dec_deg[catalog_index],
        errors[star_index],
        np.hypot(np.hypot(error, AIR_ARCSEC) / current.scale_arcsec, CENTROID_FLOOR_PX),
    )


def _freest(matches: int, wanted: Model) -> Model:
    """Return the wanted model, or the freest below it that the number of matches allows."""
    if matches >= MIN_MATCHES[wanted]:
        return wanted
    return "radial" if wanted == "quadratic-radial" and matches >= MIN_MATCHES["radial"] else "linear"


def _fit(pairs: Pairs, current: PlaneMap, model: Model, prior: Prior, *, turns: int = 10) -> Fit:
    if len(pairs) < FEWEST:
        raise Unsolved(f"only {len(pairs)} stars found a partner in the catalogue", code="no-match")
    return fit_map(pairs, current, model, prior=prior, turns=turns)
