"""Refinement: from a solver's rough WCS to one that uses every star and the optics' distortion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.astrometry.detect import StarList
from starloom.astrometry.fitting import MIN_MATCHES, Fit, Model, fit_map, k_fold_residuals
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
# A freer model must foretell stars it has not seen better by this over the root of their number: a tenth better
# for 36 stars. Less is luck (measured on HAT-P-32, whose optics are linear and whose frames differed).
WORTH_IT = 0.6


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
        Its highest power: 1 to 3.
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
        Expected error of the map at its worst corner.
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

    @property
    def matches(self) -> int:
        """Number of matched stars the fit rests on."""
        return len(self.star_index)


def refine_wcs(candidate: Candidate, stars: StarList, catalog: CatalogProvider) -> WcsFit:
    """Match all stars to the catalogue and fit the map again, until nothing changes.

    Parameters
    ----------
    candidate
        What a solver proposes.
    stars
        The frame's stars.
    catalog
        Reference catalogue.

    Raises
    ------
    Unsolved
        ``no-match``: fewer than five stars find a partner.

    Notes
    -----
    The model is the one that best foretells held-out stars (k-fold), the stiffer one when in doubt. Linear below 9
    matches, one radial term from 9, quadratic from 25, cubic from 60.
    """
    shape = stars.shape
    current = map_from_cards(candidate.cards, shape)
    reach = float(np.hypot(*shape)) / 2 * current.scale_arcsec / 3600 * 1.1 + 0.02
    nearby = catalog.cone(current.ra0_deg, current.dec0_deg, min(reach, 60.0))
    found: Fit | None = None
    star_index = catalog_index = np.zeros(0, np.int64)
    for tolerance, share, freest in ROUNDS:
        star_index, catalog_index = match(current, stars, nearby, tolerance, share)
        model = _freest(len(star_index), freest)
        found = _fit(stars, nearby, star_index, catalog_index, current, model)
        current = found.map
    assert found is not None
    previous: tuple[int, ...] = ()
    tolerance = MAX_TOLERANCE_PX
    for _ in range(6):
        scatter = float(np.median(found.residual_px[found.keep])) / 1.1774
        tolerance = float(np.clip(4.0 * scatter, MIN_TOLERANCE_PX, MAX_TOLERANCE_PX))
        star_index, catalog_index = match(current, stars, nearby, tolerance, 1.0)
        model = best_model(stars, nearby, star_index, catalog_index, current)
        found = _fit(stars, nearby, star_index, catalog_index, current, model)
        current = found.map
        now = (*star_index[found.keep].tolist(), *catalog_index[found.keep].tolist())
        if now == previous:
            break
        previous = now
    within = catalog_index
    star_index, catalog_index = star_index[found.keep], catalog_index[found.keep]
    scale = current.scale_arcsec
    rms = float(np.sqrt(np.mean(found.residual_px[found.keep] ** 2)))
    held_out = k_fold_residuals(*_pairs(stars, nearby, star_index, catalog_index), current, found.model)
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
        held_out_arcsec=float(np.sqrt(np.mean(held_out**2))) * scale,
        tolerance_px=tolerance,
        corner_error_px=found.corner_error_px,
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
    _, nearest_catalog = cKDTree(catalog_at).query(star_tree.data)
    paired = np.flatnonzero(np.isfinite(distance))
    paired = paired[nearest_catalog[nearest_star[paired]] == paired]
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
    stars: StarList, catalog: CatalogStars, star_index: Ints, catalog_index: Ints, current: PlaneMap
) -> Model:
    """Return the stiffest model that foretells held-out stars about as well as any."""
    # Choosing needs hundreds of stars, not the thousands of a wide field.
    step = -(-len(star_index) // 500) or 1
    pairs = _pairs(stars, catalog, star_index[::step], catalog_index[::step])
    best: Model = "linear"
    score = float("inf")
    for model, least in MIN_MATCHES.items():
        if len(star_index) < least:
            continue
        # The median of squares would not see a bad corner, the mean would see every mismatch: cut the worst tenth.
        ordered = np.sort(k_fold_residuals(*pairs, current, model))
        trimmed = float(np.sqrt(np.mean(ordered[: max(int(0.9 * len(ordered)), 3)] ** 2)))
        if trimmed < (1.0 - WORTH_IT / np.sqrt(len(star_index))) * score:
            best, score = model, trimmed
    return best


def held_out_residual(fit: WcsFit, stars: StarList, *, folds: int = 8, model: Model | None = None) -> Floats:
    """Return how far each matched star lies from a map fitted without it, arcsec, shape ``(matches,)``."""
    pairs = _pairs(stars, fit.catalog, fit.star_index, fit.catalog_index)
    return k_fold_residuals(*pairs, fit.map, model or fit.model, folds=folds) * fit.map.scale_arcsec


def _pairs(
    stars: StarList, catalog: CatalogStars, star_index: Ints, catalog_index: Ints
) -> tuple[Floats, Floats, Floats, Floats]:
    return (
        stars.x[star_index],
        stars.y[star_index],
        catalog.ra_deg[catalog_index],
        catalog.dec_deg[catalog_index],
    )


def _freest(matches: int, wanted: Model) -> Model:
    """Return the wanted model, or the freest below it that the number of matches allows."""
    models = list(MIN_MATCHES)
    allowed = [m for m in models[: models.index(wanted) + 1] if matches >= MIN_MATCHES[m]]
    return allowed[-1] if allowed else "linear"


def _fit(
    stars: StarList,
    catalog: CatalogStars,
    star_index: Ints,
    catalog_index: Ints,
    current: PlaneMap,
    model: Model,
) -> Fit:
    if len(star_index) < 5:
        raise Unsolved(f"only {len(star_index)} stars found a partner in the catalogue", code="no-match")
    return fit_map(*_pairs(stars, catalog, star_index, catalog_index), current, model)
