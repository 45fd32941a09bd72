"""Photometry of one solved frame: apertures, growth, zero point against the reference catalogue, depth.

A frame's zero point is the magnitude of a star whose *total* flux is 1 ADU in the whole exposure. Fluxes are
measured in an aperture of 1.5 FWHM and corrected to 4.5 FWHM by the frame's own bright isolated stars: the wings
of a Moffat profile with β = 3.5 hold 6.6 % beyond 1.5 FWHM and 0.1 % beyond 4.5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.stats import SigmaClip
from astropy.wcs import WCS
from numpy.typing import NDArray
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from scipy.spatial import cKDTree

from starloom.refcat.provider import Refcat

Floats = NDArray[np.float64]

APERTURE_FWHM = 1.5
TOTAL_FWHM = 4.5
ANNULUS_FWHM = (5.5, 8.0)
MIN_CALIBRATORS = 5
#: Distance, in FWHM, within which a neighbour of a tenth of the flux spoils a star.
ISOLATION_FWHM = 6.0
#: Relative error no star beats in one frame: flat field, PSF over the field.
FLUX_FLOOR = 0.01


@dataclass(frozen=True)
class FramePhotometry:
    """What a frame tells about itself, magnitudes in the catalogue's band.

    Parameters
    ----------
    zero_point_mag, zero_point_err, scatter_mag
        Magnitude of 1 ADU, its standard error, and the scatter of one calibrator; None with fewer than five.
    calibrators
        Unsaturated catalogue stars that were used.
    catalog_band
        Passband of the catalogue's magnitudes.
    fwhm_px, fwhm_arcsec, ellipticity
        Medians over the frame's unsaturated stars.
    sky_adu, sky_sigma_adu
        Median sky level and its standard deviation in one pixel.
    limiting_mag
        Magnitude of a star of 5 sigma in an aperture of 1.5 FWHM; None without a zero point.
    saturation_adu
        Level above which pixels were not trusted.
    sources
        One row per source: position, flux, magnitude, shape, flags.
    """

    zero_point_mag: float | None
    zero_point_err: float | None
    scatter_mag: float | None
    calibrators: int
    catalog_band: str | None
    fwhm_px: float
    fwhm_arcsec: float
    ellipticity: float | None
    sky_adu: float
    sky_sigma_adu: float
    limiting_mag: float | None
    saturation_adu: float | None
    sources: pa.Table


def saturation_level(data: NDArray[Any], header_value: float | None = None) -> float | None:
    """Return the level at which pixels clip: the header's, else a pile-up at the brightest value, else None.

    Parameters
    ----------
    data
        Pixels in ADU, any integer or float type, shape ``(ny, nx)``.
    header_value
        What the header says; believed where pixels reach it or stay below.
    """
    top = float(np.nanmax(data))
    clipped = int(np.count_nonzero(data == top))
    if header_value is not None and header_value > 0 and top <= header_value * 1.01:
        return float(header_value)
    # A star's own peak is one pixel; a clipped core is a plateau.
    if clipped >= 4 and top > 10 * abs(float(np.nanmedian(data))) / 3:
        return top
    if data.dtype.kind == "u":
        return float(np.iinfo(data.dtype).max)
    return None


def photometer(
    data: NDArray[Any],
    cards: dict[str, Any],
    x: Floats,
    y: Floats,
    *,
    fwhm_px: float,
    ellipticity: Floats,
    sky_adu: float,
    sky_sigma_adu: float,
    refcat: Refcat,
    match_arcsec: float,
    saturation_adu: float | None = None,
) -> FramePhotometry:
    """Measure the sources of a solved frame and tie them to the reference catalogue.

    Parameters
    ----------
    data
        Pixels in ADU, shape ``(ny, nx)``; NaN is masked.
    cards
        The frame's WCS as FITS cards.
    x, y
        0-based centres of the detected stars, pixels, shape ``(n,)``.
    fwhm_px
        Seeing of the frame, pixels.
    ellipticity
        ``1 - b/a`` of each star, shape ``(n,)``.
    sky_adu, sky_sigma_adu
        Level and standard deviation of the sky in one pixel.
    match_arcsec
        How far a star may lie from its catalogue position.

    References
    ----------
    Stetson 1990, PASP 102, 932 (growth curves); Høg et al. 2000, A&A 355, L27 (VT magnitudes).
    """
    wcs = WCS(fits.Header(cards), fix=False)
    pixels = np.asarray(data, dtype=np.float32)
    flux, error, peak, correction, correction_err = _fluxes(pixels, x, y, fwhm_px, sky_sigma_adu, saturation_adu)
    saturated = np.zeros(len(x), bool) if saturation_adu is None else peak >= 0.85 * saturation_adu
    ra, dec = wcs.all_pix2world(x, y, 0) if len(x) else (np.zeros(0), np.zeros(0))
    zero_point, zero_point_err, scatter, used = _zero_point(
        wcs, data.shape, x, y, flux, error, ~saturated, refcat, match_arcsec
    )
    if zero_point_err is not None:
        zero_point_err = float(np.hypot(zero_point_err, 1.0857 * correction_err))
    scale = _scale_arcsec(wcs)
    limiting = None
    if zero_point is not None:
        noise = sky_sigma_adu * np.sqrt(np.pi) * APERTURE_FWHM * fwhm_px * correction
        limiting = float(zero_point - 2.5 * np.log10(5 * noise))
    with np.errstate(all="ignore"):
        magnitude = np.where(flux > 0, -2.5 * np.log10(flux), np.nan)
        magnitude += np.nan if zero_point is None else zero_point
        mag_err = np.where(flux > 0, 1.0857 * error / flux, np.nan)
    sources = pa.table(
        {
            "x": x,
            "y": y,
            "ra_deg": np.asarray(ra, float),
            "dec_deg": np.asarray(dec, float),
            "flux_adu": flux,
            "flux_err_adu": error,
            "mag": magnitude,
            "mag_err": mag_err,
            "ellipticity": np.asarray(ellipticity, float),
            "saturated": saturated,
            "calibrator": used,
        }
    )
    good = ~saturated
    return FramePhotometry(
        zero_point_mag=zero_point,
        zero_point_err=zero_point_err,
        scatter_mag=scatter,
        calibrators=int(used.sum()),
        catalog_band=refcat.band if zero_point is not None else None,
        fwhm_px=fwhm_px,
        fwhm_arcsec=fwhm_px * scale,
        ellipticity=float(np.median(ellipticity[good])) if good.any() else None,
        sky_adu=sky_adu,
        sky_sigma_adu=sky_sigma_adu,
        limiting_mag=limiting,
        saturation_adu=saturation_adu,
        sources=sources,
    )


def _scale_arcsec(wcs: WCS) -> float:
    matrix = wcs.pixel_scale_matrix
    return float(np.sqrt(abs(np.linalg.det(matrix))) * 3600)


def _fluxes(
    pixels: NDArray[np.float32], x: Floats, y: Floats, fwhm_px: float, sigma: float, saturation_adu: float | None
) -> tuple[Floats, Floats, Floats, float, float]:
    """Return total fluxes, their errors, peaks, the aperture correction and its standard error."""
    if len(x) == 0:
        return np.zeros(0), np.zeros(0), np.zeros(0), 1.0, 0.0
    mask = ~np.isfinite(pixels)
    xy = np.column_stack([x, y])
    inner, outer = (max(r * fwhm_px, low) for r, low in zip(ANNULUS_FWHM, (6.0, 9.0), strict=True))
    with warnings.catch_warnings():
        # Annuli that lie off the frame or are fully masked give NaN, which is what is wanted of them.
        warnings.simplefilter("ignore")
        sky = ApertureStats(
            pixels, CircularAnnulus(xy, inner, outer), mask=mask, sigma_clip=SigmaClip(3.0, maxiters=5)
        ).median
    small = CircularAperture(xy, APERTURE_FWHM * fwhm_px)
    large = CircularAperture(xy, TOTAL_FWHM * fwhm_px)
    raw_small, _ = small.do_photometry(pixels, mask=mask)
    raw_large, _ = large.do_photometry(pixels, mask=mask)
    flux = raw_small - sky * small.area
    total = raw_large - sky * large.area
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peak = np.asarray(ApertureStats(pixels, small, mask=mask).max, float)
    ring = np.pi * (outer**2 - inner**2)
    error = np.full(len(flux), sigma * np.sqrt(small.area * (1 + small.area / ring)))
    correction, correction_err = _growth(xy, flux, total, error, peak, fwhm_px, saturation_adu, pixels.shape)
    bad = ~np.isfinite(flux)
    return (
        np.where(bad, np.nan, flux * correction),
        np.hypot(error * correction, FLUX_FLOOR * np.abs(flux) * correction),
        peak,
        correction,
        correction_err,
    )


def _growth(
    xy: Floats,
    flux: Floats,
    total: Floats,
    error: Floats,
    peak: Floats,
    fwhm_px: float,
    saturation_adu: float | None,
    shape: tuple[int, ...],
) -> tuple[float, float]:
    """Return total over small-aperture flux, from bright isolated unsaturated stars, and its standard error."""
    margin = ANNULUS_FWHM[1] * fwhm_px
    ny, nx = shape
    inside = (xy > margin).all(axis=1) & (xy[:, 0] < nx - 1 - margin) & (xy[:, 1] < ny - 1 - margin)
    pairs = cKDTree(xy).query_pairs(ISOLATION_FWHM * fwhm_px, output_type="ndarray")
    alone = np.ones(len(xy), bool)
    for a, b in ((0, 1), (1, 0)):
        alone[pairs[flux[pairs[:, b]] > 0.1 * flux[pairs[:, a]], a]] = False
    good = inside & alone & np.isfinite(flux) & np.isfinite(total) & (flux > 100 * error)
    if saturation_adu is not None:
        good &= peak < 0.85 * saturation_adu
    bright = np.flatnonzero(good)
    bright = bright[np.argsort(flux[bright])[::-1][:50]]
    if len(bright) < 3:
        # Moffat β = 3.5: too few stars to measure the frame's own growth, so its uncertainty is 3 %.
        return 1.069, 0.03
    ratio = total[bright] / flux[bright]
    middle = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    return middle, float(1.2533 * spread / np.sqrt(len(ratio)) / middle)


def _zero_point(
    wcs: WCS,
    shape: tuple[int, ...],
    x: Floats,
    y: Floats,
    flux: Floats,
    error: Floats,
    usable: NDArray[np.bool_],
    refcat: Refcat,
    match_arcsec: float,
) -> tuple[float | None, float | None, float | None, NDArray[np.bool_]]:
    """Return zero point, its error, the scatter of one star, and which sources were used."""
    used = np.zeros(len(x), bool)
    ny, nx = shape
    centre = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    scale = _scale_arcsec(wcs)
    radius = float(np.hypot(nx, ny) / 2 * scale / 3600 * 1.05)
    catalog = refcat.cone(float(centre[0]) % 360, float(centre[1]), min(radius, 30.0))
    good = np.flatnonzero(usable & np.isfinite(flux) & (flux > 10 * error) & np.isfinite(x + y))
    if len(catalog) == 0 or len(good) == 0:
        return None, None, None, used
    cx, cy = wcs.all_world2pix(catalog.ra_deg, catalog.dec_deg, 0, quiet=True)
    within = np.isfinite(cx + cy) & (cx > -1) & (cy > -1) & (cx < nx) & (cy < ny)
    cx, cy, mag = cx[within], cy[within], catalog.mag[within]
    if len(cx) == 0:
        return None, None, None, used
    limit = match_arcsec / scale
    distance, nearest = cKDTree(np.column_stack([x[good], y[good]])).query(
        np.column_stack([cx, cy]), distance_upper_bound=limit
    )
    found = np.isfinite(distance)
    star, mag = good[nearest[found]], mag[found]
    # Two catalogue stars on one source are a blend whose magnitude nobody knows.
    _, first, counts = np.unique(star, return_index=True, return_counts=True)
    star, mag = star[first[counts == 1]], mag[first[counts == 1]]
    if len(star) < MIN_CALIBRATORS:
        return None, None, None, used
    values = mag + 2.5 * np.log10(flux[star])
    keep = np.ones(len(values), bool)
    for _ in range(5):
        middle = np.median(values[keep])
        spread = max(1.4826 * float(np.median(np.abs(values[keep] - middle))), 0.01)
        keep = np.abs(values - middle) < 3 * spread
    if keep.sum() < MIN_CALIBRATORS:
        return None, None, None, used
    used[star[keep]] = True
    scatter = float(np.std(values[keep], ddof=1))
    return float(np.mean(values[keep])), scatter / float(np.sqrt(keep.sum())), scatter, used
