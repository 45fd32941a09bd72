"""Sky, noise, seeing and star fluxes of one frame (SEP: Barbary 2016, JOSS 1, 58)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from starloom.calibration.neighbours import filled
from starloom.calibration.saturation import saturation_from_histogram
from starloom.coadd.inputs import InputFrame, OpenFrame, pixel_scale_arcsec, wcs_from_cards
from starloom.errors import BadInput

_MESH_PX = 64
_MAX_STARS = 1500
_TOTAL_RADIUS = 2.0
"""Radius of the total flux over that of the aperture."""

_GROWTH_STARS, _MIN_GROWTH_STARS = 50, 7
_GROWTH_ERROR = 0.01
"""Standard error up to which a frame's own growth is believed: the model is off by that much as well."""


@dataclass(frozen=True)
class Measured:
    """Noise and seeing of a frame, and the level at which its pixels clip, if they do."""

    sigma_adu: float
    fwhm_px: float
    n_stars: int
    saturation_adu: float | None


@dataclass(frozen=True)
class StarFluxes:
    """Stars of one frame in an aperture of fixed sky radius, and its coarse sky.

    ``vectors`` are ICRS unit vectors, shape ``(n, 3)``; ``flux`` and ``error`` are in ADU, shape ``(n,)``;
    ``sky`` is the background mesh in ADU, of cells of `mesh_px` pixels.
    """

    vectors: NDArray[np.float64]
    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    sky: NDArray[np.float32]
    mesh_px: tuple[float, float]


def _pixels(frame: OpenFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_], sep.Background]:
    ny, nx = frame.shape
    data = frame.section(0, ny, 0, nx)
    mask = ~np.isfinite(data)
    if mask.mean() > 0.98:
        raise BadInput(
            f"{frame.path} holds hardly any finite pixels", code="bad-noise", hint="Look at the raw frame."
        )
    if mask.any():
        data[mask] = np.median(data[~mask])
    bad = frame.bad(0, ny, 0, nx)
    if bad is not None and bad.any():
        # A lone defect in a star's wing is guessed from its neighbours rather than costing the star; where whole
        # patches are bad (a saturated core), no guess stands for them.
        data = filled(data, bad)
        mask |= ndimage.binary_opening(bad, structure=np.ones((2, 2), bool))
    mesh = max(8, min(_MESH_PX, ny // 2, nx // 2))
    return data, mask, sep.Background(data, mask=mask, bw=mesh, bh=mesh)


def _extract(
    path: Path, data: NDArray[np.float32], mask: NDArray[np.bool_], sigma: float, peak_max: float | None
) -> NDArray[np.void]:
    old = sep.get_extract_pixstack()
    sep.set_extract_pixstack(max(old, data.size // 4))
    try:
        found = sep.extract(data, 5.0, err=sigma, mask=mask, minarea=5, deblend_cont=0.005)
    except Exception as error:
        raise BadInput(
            f"no star can be detected in {path}: {error}", code="bad-noise", hint="Check the frame's calibration."
        ) from error
    keep = (found["flag"] & ~1) == 0
    if peak_max is not None:
        keep &= found["peak"] < peak_max
    return found[keep]  # type: ignore[no-any-return]


def measure_frame(frame: OpenFrame, *, saturation_adu: float | None = None) -> Measured:
    """Measure the sky noise (ADU per pixel) and the median FWHM (pixels) of a frame.

    Without a saturation level, a plateau of equal brightest pixels tells it, if there is one.
    A frame without usable stars gets a FWHM of 2 px, which makes the frame's own pixels the scale.

    Raises
    ------
    BadInput
        ``bad-noise`` for a frame with no finite pixels or no noise at all.
    """
    data, mask, back = _pixels(frame)
    if saturation_adu is None:
        saturation_adu = saturation_from_histogram(data)
    data -= back.back()
    sigma = float(back.globalrms)
    # SEP calls the noise of a constant image 1.
    if not np.isfinite(sigma) or sigma <= 0 or not np.any(data):
        raise BadInput(
            f"{frame.path} has no sky noise", code="bad-noise", hint="Is it blank or cut out around an object?"
        )
    limit = None if saturation_adu is None else 0.8 * saturation_adu - back.globalback
    stars = _extract(frame.path, data, mask, sigma, limit)
    stars = stars[(stars["peak"] > 15 * sigma) & (stars["npix"] > 6)]
    stars = stars[np.argsort(stars["flux"])[::-1][:300]]
    if len(stars) == 0:
        return Measured(sigma, 2.0, 0, saturation_adu)
    # Half-light radius of a Gaussian is FWHM / 2; it is robust where second moments catch neighbours.
    radius, flag = sep.flux_radius(
        data, stars["x"], stars["y"], 6.0 * stars["a"] + 2, 0.5, subpix=5, normflux=None
    )
    good = (flag == 0) & np.isfinite(radius) & (radius > 0.4)
    fwhm = 2.0 * float(np.median(radius[good])) if good.any() else 2.0
    return Measured(sigma, fwhm, int(good.sum()), saturation_adu)


def _growth(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    error: NDArray[np.float64],
    radius: float,
    fwhm: float,
) -> float:
    """Return total flux over that within ``radius`` (pixels): the worse the seeing, the more wings lie outside.

    Without it the scales of frames of 4.5 and 7.5 arcsec were 2.5 % apart. Measured on the frame's own bright,
    isolated stars (Stetson 1990, PASP 102, 932), out to `_TOTAL_RADIUS` times ``radius``; with too few of them
    the wings are those of a Moffat profile of slope 3.5.
    """
    total = _TOTAL_RADIUS * radius
    # FWHM is measured as twice the half-light radius, which is 0.565 core radii of that profile.
    inside = 1 - (1 + (np.array([radius, total]) * 1.131 / max(fwhm, 1e-3)) ** 2) ** -2.5
    model = float(inside[1] / inside[0])
    ny, nx = data.shape
    near = cKDTree(np.column_stack([x, y])).query_pairs(2 * total, output_type="ndarray")
    alone = (x > total) & (y > total) & (x < nx - 1 - total) & (y < ny - 1 - total) & (flux > 100 * error)
    for a, b in ((0, 1), (1, 0)):
        alone[near[flux[near[:, b]] > 0.01 * flux[near[:, a]], a]] = False
    chosen = np.flatnonzero(alone)
    chosen = chosen[np.argsort(flux[chosen])[::-1][:_GROWTH_STARS]]
    if len(chosen) < _MIN_GROWTH_STARS:
        return model
    full, _, flag = sep.sum_circle(data, x[chosen], y[chosen], total, mask=mask, subpix=7)
    ratio = (full / flux[chosen])[flag == 0]
    if len(ratio) < _MIN_GROWTH_STARS:
        return model
    middle = float(np.median(ratio))
    uncertain = 1.4826 * float(np.median(np.abs(ratio - middle))) * 1.2533 / np.sqrt(len(ratio))
    return middle if uncertain < _GROWTH_ERROR else model


def star_fluxes(frame: OpenFrame, item: InputFrame, cards: dict[str, object], radius_arcsec: float) -> StarFluxes:
    """Measure the unsaturated stars of a frame in apertures of one radius on the sky.

    Parameters
    ----------
    radius_arcsec
        Aperture radius; the same for all frames that are to be compared, so that neighbours and PSF wings
        enter them alike, and large against the worst seeing, so that the PSF's core does not matter.
    """
    wcs = wcs_from_cards(cards)
    scale = pixel_scale_arcsec(wcs, frame.shape)
    data, mask, back = _pixels(frame)
    sigma = item.sky_sigma_adu
    sky = np.array(back.back())
    ny, nx = frame.shape
    step_y, step_x = max(1, ny // 32), max(1, nx // 32)
    coarse = sky[step_y // 2 :: step_y, step_x // 2 :: step_x].copy()
    data -= sky
    limit = None if item.saturation_adu is None else 0.8 * item.saturation_adu - back.globalback
    stars = _extract(frame.path, data, mask, sigma, limit)
    stars = stars[np.argsort(stars["flux"])[::-1][:_MAX_STARS]]
    radius = radius_arcsec / scale
    inside = (
        (stars["x"] > radius)
        & (stars["y"] > radius)
        & (stars["x"] < nx - 1 - radius)
        & (stars["y"] < ny - 1 - radius)
    )
    stars = stars[inside]
    x, y = stars["x"].astype(float), stars["y"].astype(float)
    flux = error = np.zeros(0)
    if len(stars):
        x, y, _ = sep.winpos(data, x, y, np.full(len(x), item.fwhm_arcsec / scale / 2.3548), subpix=11)
        flux, error, flag = sep.sum_circle(data, x, y, radius, err=sigma, mask=mask, subpix=7)
        good = (flag == 0) & (flux > 20 * error) & np.isfinite(x + y)
        x, y, flux, error = x[good], y[good], flux[good], error[good]
        factor = _growth(data, mask, x, y, flux, error, radius, item.fwhm_arcsec / scale)
        flux, error = flux * factor, error * factor
    ra, dec = (np.radians(a) for a in wcs.all_pix2world(x, y, 0))
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    return StarFluxes(vectors, flux, error, coarse, (float(step_x), float(step_y)))
