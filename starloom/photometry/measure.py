"""Photometry of one solved frame: apertures, growth, zero point against the reference catalogue, depth.

A frame's zero point is the magnitude of a star of the reference colour whose *total* flux is 1 ADU in the whole
exposure. Fluxes are measured in apertures of 1.25 FWHM and corrected to the whole light by the frame's own bright
isolated stars, so that what FWHM means does not matter to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.photometry.apertures import Apertures, peaks
from starloom.photometry.empty_apertures import empty_apertures
from starloom.photometry.growth import Growth, measure_growth
from starloom.photometry.reference import Reference, reference_magnitudes
from starloom.photometry.selection import ISOLATION_FWHM, ISOLATION_SHARE, Neighbours, match, neighbours
from starloom.photometry.sky_mesh import CELL_PX, sky_mesh
from starloom.photometry.sources import SourceFlag, sources_table
from starloom.photometry.zero_point import SATURATED, ColourTerm, ZeroPoint, fit_zero_point
from starloom.refcat.provider import CatalogStars

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

APERTURE_FWHM = 1.25
#: Smaller apertures lose too much to centroids and pixels.
MIN_APERTURE_PX = 1.8
PSF_SNR = 20.0
#: Signal-to-noise of the faintest calibrator, predicted from the catalogue.
CALIBRATOR_SNR = 20.0
#: Electrons per ADU where nobody knows: few, so that the photon noise is rather overstated.
CAUTIOUS_GAIN = 0.5
#: PSF stars further from the middle than this share of the half diagonal stand for the corners.
CORNER = 0.7
MIN_CORNER_STARS = 8
MAG_PER_RELATIVE = 2.5 / np.log(10)


@dataclass(frozen=True)
class PhotometryOptions:
    """What is known of a frame besides its pixels.

    Parameters
    ----------
    band
        The frame's band; None or ``node:name`` where nobody knows: the catalogue's own band is then used.
    match_arcsec
        How far a star may lie from its catalogue position.
    saturation_adu
        Level above which pixels are not trusted.
    gain_e_per_adu
        Electrons per ADU; None estimates it, on the cautious side.
    zero_level_adu
        Level of an unexposed pixel; None where bias or pedestal are unknown, which leaves no sky brightness.
    colour_term
        The instrument's colour term from other frames.
    """

    match_arcsec: float
    band: str | None = None
    saturation_adu: float | None = None
    gain_e_per_adu: float | None = None
    zero_level_adu: float | None = None
    colour_term: ColourTerm | None = None


@dataclass(frozen=True)
class FramePhotometry:
    """What a frame tells about itself.

    Parameters
    ----------
    zero_point_mag, zero_point_err, scatter_mag
        Magnitude in ``catalog_band`` of a star of colour ``colour_ref`` and a total flux of 1 ADU; its standard
        error; the scatter of one calibrator. None with fewer than five calibrators.
    calibrators
        Catalogue stars that carry the zero point.
    catalog_band
        Band of the zero point and of all magnitudes: the frame's own where the catalogue has it or a published
        relation gives it, else the nearest band of the catalogue.
    relation
        Where the catalogue's magnitudes in that band come from.
    catalog, catalog_version
        Which catalogue.
    colour_term, colour_term_err, colour_name, colour_ref
        ``catalogue - instrumental`` magnitude per magnitude of a colour, its error, which colour (``BT-VT``), and
        for which value of it the zero point holds; None without colours.
    fwhm_px, fwhm_arcsec, fwhm_corner_px, ellipticity
        Medians over the PSF stars, and over those near the corners.
    psf_stars
        Unsaturated isolated stars of S/N 20 and more.
    sky_adu, sky_sigma_adu
        Median sky level and its standard deviation in one pixel.
    sky_brightness_mag_arcsec2
        Of the sky, in ``catalog_band``; None without a zero point or a known zero level.
    limiting_mag
        Magnitude of a star of 5 sigma of the empty apertures; None without a zero point.
    saturation_adu
        Level above which pixels were not trusted.
    aperture_px, growth, growth_err
        Radius of the apertures, total light over theirs in the middle of the frame, and its relative error.
    gain_e_per_adu
        Given or estimated; None where it was only assumed.
    sources
        One row per source, see `starloom.photometry.sources.COLUMNS`.
    """

    zero_point_mag: float | None
    zero_point_err: float | None
    scatter_mag: float | None
    calibrators: int
    catalog_band: str | None
    relation: str | None
    catalog: str | None
    catalog_version: str | None
    colour_term: float | None
    colour_term_err: float | None
    colour_name: str | None
    colour_ref: float | None
    fwhm_px: float
    fwhm_arcsec: float
    fwhm_corner_px: float | None
    ellipticity: float | None
    psf_stars: int
    sky_adu: float
    sky_sigma_adu: float
    sky_brightness_mag_arcsec2: float | None
    limiting_mag: float | None
    saturation_adu: float | None
    aperture_px: float
    growth: float
    growth_err: float
    gain_e_per_adu: float | None
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
    if header_value is not None and header_value > 0 and top <= header_value * 1.01:
        return float(header_value)
    clipped = int(np.count_nonzero(data == top))
    # A star's own peak is one pixel; a clipped core is a plateau. The sky is asked of one pixel in many.
    if clipped >= 4 and top > 10 * abs(float(np.nanmedian(data[::7, ::7]))) / 3:
        return top
    if data.dtype.kind == "u":
        return float(np.iinfo(data.dtype).max)
    return None


def cone_of(cards: dict[str, Any], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Return centre and radius (degrees) of the circle on the sky that holds a frame, with 5 % to spare."""
    wcs = WCS(fits.Header(cards), fix=False)
    ny, nx = shape
    ra, dec = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    radius = float(np.hypot(nx, ny) / 2 * _scale_arcsec(wcs) / 3600 * 1.05)
    return float(ra) % 360, float(dec), min(radius, 30.0)


def photometer(
    data: NDArray[Any],
    cards: dict[str, Any],
    stars: StarList,
    catalog: CatalogStars,
    options: PhotometryOptions,
    *,
    mask: Bools | None = None,
) -> FramePhotometry:
    """Measure the stars of a solved frame and tie them to the reference catalogue.

    Parameters
    ----------
    data
        Pixels in ADU, shape ``(ny, nx)``; NaN is masked.
    cards
        The frame's WCS as FITS cards.
    stars
        The frame's stars.
    catalog
        Catalogue stars around the frame (`cone_of`), at its epoch.
    options
        What is known of the frame.
    mask
        True marks pixels that are not to be used, same shape.

    Notes
    -----
    Errors of fluxes are the noise of empty apertures, the star's own photons and what the PSF's changes leave. The
    zero point's has the scatter of the calibrators, the colour term and the curve of growth in it.

    References
    ----------
    Stetson 1990, PASP 102, 932 (growth curves); Høg et al. 2000, A&A 355, L27 (VT magnitudes).
    """
    wcs = WCS(fits.Header(cards), fix=False)
    scale = _scale_arcsec(wcs)
    fwhm = stars.frame_fwhm_px if np.isfinite(stars.frame_fwhm_px) and stars.frame_fwhm_px > 0 else 3.0
    radius = max(APERTURE_FWHM * fwhm, MIN_APERTURE_PX)
    apertures, base_adu = _apertures(data, mask, stars, fwhm)
    x, y = np.ascontiguousarray(stars.x, np.float64), np.ascontiguousarray(stars.y, np.float64)
    raw = apertures.sums(x, y, radius)
    peak = peaks(apertures.pixels, x, y) + base_adu if len(x) else np.zeros(0)
    saturated = np.asarray(stars.saturated, bool).copy()
    if options.saturation_adu is not None:
        saturated |= peak >= SATURATED * options.saturation_adu
    reach = apertures.reach(radius)
    near = neighbours(x, y, np.asarray(stars.flux), fwhm_px=fwhm + apertures.trail_px / 2, reach_px=reach)
    masked = apertures.spoiled(x, y, max(0.6 * fwhm, 1.0))
    edge = apertures.over_the_edge(x, y, radius)
    empty = empty_apertures(
        apertures, x, y, radius_px=radius, clear_px=reach + 2.5 * fwhm, sigma_adu=stars.noise_adu
    )
    # Stars too faint to be seen lift the sky above the mesh's mode, under stars as elsewhere.
    raw, noise = raw - empty.level_adu, empty.noise_adu
    gain = options.gain_e_per_adu or _estimated_gain(stars, options.zero_level_adu)
    psf = near.isolated & ~saturated & ~masked & ~edge & np.isfinite(raw) & (raw > PSF_SNR * noise)
    point_like = apertures.trail_px == 0 and not getattr(stars, "defocused", False)
    growth = measure_growth(
        apertures, x, y, raw, noise, psf,
        isolation_px=ISOLATION_FWHM * (fwhm + apertures.trail_px / 2), isolation_share=ISOLATION_SHARE,
        radius_px=radius, fwhm_px=fwhm, extrapolate=point_like,
    )  # fmt: skip
    correction = growth.at(x, y)
    flux = raw * correction
    photons = np.maximum(raw, 0.0) / (gain or CAUTIOUS_GAIN)
    error = np.sqrt((noise**2 + photons) * correction**2 + (growth.scatter * flux) ** 2)
    ra, dec = (np.asarray(c, float) for c in wcs.all_pix2world(x, y, 0)) if len(x) else (np.zeros(0),) * 2
    used = np.zeros(len(x), bool)
    fitted, reference = None, None
    candidates = ~saturated & ~masked & ~edge & ~near.blended & np.isfinite(flux) & (flux > 5 * error)
    star, partner = match(
        ra, dec, candidates, catalog, match_arcsec=options.match_arcsec, blend_arcsec=1.5 * reach * scale
    )
    if len(star):
        reference = reference_magnitudes(_subset(catalog, partner), options.band)
        fitted = fit_zero_point(
            -2.5 * np.log10(flux[star]),
            MAG_PER_RELATIVE * error[star] / flux[star],
            reference,
            peak_share=None if options.saturation_adu is None else peak[star] / options.saturation_adu,
            magnitude_limits=_limits(flux, peak - stars.background_adu, psf, noise, gain, growth, options, stars),
            learnt=options.colour_term,
        )
    if fitted is not None:
        used[star[fitted.used]] = True
    return _summary(
        stars, options, catalog, fitted, reference, growth,
        scale=scale, fwhm=_median(stars.fwhm_px[psf], fwhm), psf=psf, noise=noise, gain=gain, radius=radius,
        columns={
            "x": x, "y": y, "ra_deg": ra, "dec_deg": dec,
            **_centroid_errors(stars, flux, error, fwhm, scale),
            "flux_adu": flux, "flux_err_adu": error,
            "fwhm_px": np.asarray(stars.fwhm_px, float), "ellipticity": np.asarray(stars.ellipticity, float),
            "theta_deg": np.asarray(getattr(stars, "theta_deg", np.full(len(x), np.nan)), float),
            "background_adu": apertures.sky.at(x, y) + base_adu if len(x) else np.zeros(0),
            "peak_adu": peak, "saturated": saturated, "calibrator": used,
            "flags": _flags(saturated, near, masked, edge),
        },
    )  # fmt: skip


def _apertures(data: NDArray[Any], mask: Bools | None, stars: StarList, fwhm: float) -> tuple[Apertures, float]:
    """Make the frame ready: less its median sky, so that sub-pixels at an aperture's rim do not sum a pedestal."""
    base = np.float32(stars.background_adu if np.isfinite(stars.background_adu) else 0.0)
    pixels = np.subtract(data, base, dtype=np.float32, casting="unsafe")
    if data.dtype.kind == "f":
        bad = ~np.isfinite(pixels)
        if bad.any():
            pixels[bad] = 0.0
            mask = bad if mask is None else mask | bad
    trail = float(getattr(stars, "trail_px", 0.0) or 0.0)
    trail = trail if trail > fwhm else 0.0
    angle = float(getattr(stars, "trail_angle_deg", 0.0))
    if not np.isfinite(angle):
        trail = 0.0
    cell = int(max(CELL_PX, 12 * fwhm, 4 * trail))
    sky = sky_mesh(pixels, mask, cell_px=cell)
    return Apertures(pixels, mask, sky, trail, angle if trail else 0.0), float(base)


def _estimated_gain(stars: StarList, zero_level_adu: float | None) -> float | None:
    """Return electrons per ADU from the sky's level and noise; read noise makes it too small, never too large."""
    if zero_level_adu is None or not (stars.noise_adu > 0):
        return None
    sky = stars.background_adu - zero_level_adu
    return float(sky / stars.noise_adu**2) if sky > 0 else None


def _limits(
    flux: Floats,
    peak_above_sky: Floats,
    psf: Bools,
    noise: float,
    gain: float | None,
    growth: Growth,
    options: PhotometryOptions,
    stars: StarList,
) -> tuple[float, float]:
    """Return the instrumental magnitudes between which stars neither saturate nor sink into the noise."""
    per_photon = CALIBRATOR_SNR**2 / (gain or CAUTIOUS_GAIN) * growth.correction
    sky_part = CALIBRATOR_SNR * noise * growth.correction
    faintest = 0.5 * (per_photon + np.sqrt(per_photon**2 + 4 * sky_part**2))
    bright = -np.inf
    if options.saturation_adu is not None and psf.any():
        sharpness = float(np.median(peak_above_sky[psf] / flux[psf]))
        room = SATURATED * options.saturation_adu - stars.background_adu
        if sharpness > 0 and room > 0:
            bright = float(-2.5 * np.log10(room / sharpness))
    return bright, float(-2.5 * np.log10(faintest))


def _subset(catalog: CatalogStars, index: NDArray[np.intp]) -> CatalogStars:
    from dataclasses import fields, replace

    changed: dict[str, Any] = {}
    for field in fields(catalog):
        value = getattr(catalog, field.name)
        if isinstance(value, np.ndarray):
            changed[field.name] = value[index]
        elif isinstance(value, dict):
            changed[field.name] = {name: np.asarray(column)[index] for name, column in value.items()}
    return replace(catalog, **changed)


def _flags(saturated: Bools, near: Neighbours, masked: Bools, edge: Bools) -> NDArray[np.int16]:
    bits = saturated * SourceFlag.SATURATED + near.blended * SourceFlag.BLENDED
    return np.asarray(bits + masked * SourceFlag.MASKED + edge * SourceFlag.EDGE, np.int16)


def _centroid_errors(stars: StarList, flux: Floats, error: Floats, fwhm: float, scale: float) -> dict[str, Floats]:
    known = getattr(stars, "centroid_err_px", None)
    if known is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            # King 1983, PASP 95, 163: a Gaussian's sigma over the signal-to-noise.
            known = np.where(flux > 0, np.hypot(fwhm / 2.355 * error / flux, 0.01), np.nan)
    both = np.asarray(known, float) * scale
    return {"ra_err_arcsec": both, "dec_err_arcsec": both.copy()}


def _median(values: Floats, otherwise: float) -> float:
    return float(np.median(values)) if len(values) else otherwise


def _scale_arcsec(wcs: WCS) -> float:
    return float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600)


def _summary(
    stars: StarList,
    options: PhotometryOptions,
    catalog: CatalogStars,
    fitted: ZeroPoint | None,
    reference: Reference | None,
    growth: Growth,
    *,
    scale: float,
    fwhm: float,
    psf: Bools,
    noise: float,
    gain: float | None,
    radius: float,
    columns: dict[str, Any],
) -> FramePhotometry:
    zero_point = limiting = brightness = err = None
    if fitted is not None and reference is not None:
        zero_point = fitted.mag
        err = float(np.hypot(fitted.err, MAG_PER_RELATIVE * growth.error))
        limiting = float(zero_point - 2.5 * np.log10(5 * noise * growth.correction))
        if options.zero_level_adu is not None and stars.background_adu > options.zero_level_adu:
            per_arcsec2 = (stars.background_adu - options.zero_level_adu) / scale**2
            brightness = float(zero_point - 2.5 * np.log10(per_arcsec2))
    tied = reference if fitted is not None else None
    coloured = tied is not None and fitted is not None and fitted.colour_term is not None
    ny, nx = stars.shape
    off = np.hypot(stars.x - (nx - 1) / 2, stars.y - (ny - 1) / 2) / (np.hypot(nx, ny) / 2)
    corner = psf & (off > CORNER)
    flux, error = columns["flux_adu"], columns["flux_err_adu"]
    with np.errstate(all="ignore"):
        columns["snr"] = flux / error
        columns["mag"] = np.where(flux > 0, -2.5 * np.log10(flux), np.nan)
        columns["mag"] = columns["mag"] + (np.nan if zero_point is None else zero_point)
        columns["mag_err"] = np.where(flux > 0, MAG_PER_RELATIVE * error / flux, np.nan)
    good = ~columns["saturated"]
    shape_of = stars.ellipticity[psf] if psf.sum() >= 5 else stars.ellipticity[good]
    facts: dict[str, Any] = {
        "zero_point_mag": zero_point,
        "zero_point_err": err,
        "catalog_band": None if tied is None else tied.band,
        "relation": None if tied is None else tied.relation,
        "catalog": None if tied is None else catalog.catalog,
        "catalog_version": None if tied is None else (getattr(catalog, "version", "") or None),
        "colour_term": fitted.colour_term if coloured and fitted is not None else None,
        "colour_term_err": fitted.colour_term_err if coloured and fitted is not None else None,
        "colour_name": tied.colour_name if coloured and tied is not None else None,
        "colour_ref": tied.colour_ref if coloured and tied is not None else None,
        "aperture_px": radius,
        "growth": growth.correction,
        "growth_err": growth.error,
        "gain_e_per_adu": gain,
    }
    return FramePhotometry(
        **facts,
        scatter_mag=None if fitted is None else fitted.scatter_mag,
        calibrators=int(columns["calibrator"].sum()),
        fwhm_px=fwhm,
        fwhm_arcsec=fwhm * scale,
        fwhm_corner_px=float(np.median(stars.fwhm_px[corner])) if corner.sum() >= MIN_CORNER_STARS else None,
        ellipticity=float(np.median(shape_of)) if len(shape_of) else None,
        psf_stars=int(psf.sum()),
        sky_adu=stars.background_adu,
        sky_sigma_adu=stars.noise_adu,
        sky_brightness_mag_arcsec2=brightness,
        limiting_mag=limiting,
        saturation_adu=options.saturation_adu,
        sources=sources_table(columns, band=facts["catalog_band"], meaning=facts),
    )
