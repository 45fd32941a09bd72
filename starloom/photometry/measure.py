"""Photometry of one solved frame: fluxes, zero point against the reference catalogue, seeing, sky, depth.

A frame's zero point is the magnitude of a star of the reference colour whose *total* flux is 1 ADU in the whole
exposure. Fluxes are corrected to the whole light by the frame's own bright stars, so that what FWHM means does not
matter to them.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.photometry.fluxes import Fluxes, measure_fluxes
from starloom.photometry.reference import Reference, reference_magnitudes
from starloom.photometry.results import FramePhotometry, PhotometryOptions
from starloom.photometry.selection import match
from starloom.photometry.sources import SourceFlag, sources_table
from starloom.photometry.zero_point import SATURATED, ZeroPoint, fit_zero_point
from starloom.refcat.provider import CatalogStars

if TYPE_CHECKING:
    from starloom.refcat import Refcats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: The brightest of a deep catalogue are enough, and the fainter ones are not on the frame's scale anyway.
CATALOG_STARS = 8000
#: Signal-to-noise of the faintest calibrator, predicted from the catalogue.
CALIBRATOR_SNR = 20.0
#: Detected stars per aperture from which stars with unseen company are to be reckoned with.
CROWDED = 0.03
#: Error of the correction for hidden stars, as a share of it: by simulation.
COMPANY_DOUBT = 0.8
#: PSF stars further from the middle than this share of the half diagonal stand for the corners.
CORNER = 0.7
MIN_CORNER_STARS = 8
MAG_PER_RELATIVE = 2.5 / np.log(10)


def cone_of(cards: dict[str, Any], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Return centre and radius (degrees) of the circle on the sky that holds a frame, with 5 % to spare."""
    wcs = WCS(fits.Header(cards), fix=False)
    ny, nx = shape
    ra, dec = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    radius = float(np.hypot(nx, ny) / 2 * _scale_arcsec(wcs) / 3600 * 1.05)
    return float(ra) % 360, float(dec), min(radius, 30.0)


def catalog_for(
    refcats: Refcats,
    cards: dict[str, Any],
    stars: StarList,
    band: str | None,
    *,
    match_arcsec: float,
    epoch: float | None = None,
) -> CatalogStars:
    """Return the stars around a solved frame, at its epoch, of the catalogue whose band and depth serve it best.

    Parameters
    ----------
    refcats
        The catalogues there are.
    cards, stars
        See `photometer`.
    band, match_arcsec
        See `PhotometryOptions`.
    epoch
        Julian year of the exposure.
    """
    wcs = WCS(fits.Header(cards), fix=False)
    ra, dec = (np.asarray(c, float) for c in wcs.all_pix2world(stars.x, stars.y, 0)) if len(stars) else _nowhere()

    def usable(catalog: CatalogStars) -> NDArray[np.intp]:
        return match(ra, dec, ~stars.saturated, catalog, match_arcsec=match_arcsec, blend_arcsec=0.0)[1]

    limit = max(CATALOG_STARS, 4 * len(stars))
    return refcats.for_photometry(*cone_of(cards, stars.shape), band, limit=limit, epoch=epoch, usable=usable)


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
    light = measure_fluxes(data, mask, stars, options)
    ra, dec = (np.asarray(c, float) for c in wcs.all_pix2world(stars.x, stars.y, 0)) if len(stars) else _nowhere()
    fitted, reference, used = _tie(light, ra, dec, stars, catalog, options, _scale_arcsec(wcs))
    return _summary(light, ra, dec, stars, options, catalog, fitted, reference, used, _scale_arcsec(wcs))


def _tie(
    light: Fluxes,
    ra: Floats,
    dec: Floats,
    stars: StarList,
    catalog: CatalogStars,
    options: PhotometryOptions,
    scale: float,
) -> tuple[ZeroPoint | None, Reference | None, Bools]:
    """Fit the zero point to the stars the catalogue knows; also return which carry it."""
    used = np.zeros(len(stars), bool)
    flux, error = light.flux_adu, light.flux_err_adu
    star, partner = match(
        ra, dec, (light.flags == 0) & (flux > 5 * error), catalog,
        match_arcsec=options.match_arcsec, blend_arcsec=1.5 * light.reach_px * scale,
    )  # fmt: skip
    if not len(star):
        return None, None, used
    reference = reference_magnitudes(_subset(catalog, partner), options.band)
    fitted = fit_zero_point(
        -2.5 * np.log10(flux[star]),
        MAG_PER_RELATIVE * error[star] / flux[star],
        reference,
        peak_share=None if options.saturation_adu is None else light.peak_adu[star] / options.saturation_adu,
        magnitude_limits=_limits(light, stars, options),
        learnt=options.colour_term,
        crowded=bool(len(stars) * np.pi * light.reach_px**2 > CROWDED * np.prod(stars.shape)),
    )
    if fitted is None:
        return None, None, used
    used[star[fitted.used]] = True
    return fitted, reference, used


def _limits(light: Fluxes, stars: StarList, options: PhotometryOptions) -> tuple[float, float]:
    """Return the instrumental magnitudes between which stars neither saturate nor sink into the noise."""
    per_photon = CALIBRATOR_SNR**2 / light.usable_gain * light.growth.correction
    sky_part = CALIBRATOR_SNR * light.noise_adu * light.growth.correction
    faintest = 0.5 * (per_photon + np.sqrt(per_photon**2 + 4 * sky_part**2))
    bright = -np.inf
    if options.saturation_adu is not None and light.psf.any():
        above = (light.peak_adu - light.background_adu)[light.psf]
        sharpness = float(np.median(above / light.flux_adu[light.psf]))
        room = SATURATED * options.saturation_adu - stars.background_adu
        if sharpness > 0 and room > 0:
            bright = float(-2.5 * np.log10(room / sharpness))
    return bright, float(-2.5 * np.log10(faintest))


def _subset(catalog: CatalogStars, index: NDArray[np.intp]) -> CatalogStars:
    changed: dict[str, Any] = {}
    for field in fields(catalog):
        value = getattr(catalog, field.name)
        if isinstance(value, np.ndarray):
            changed[field.name] = value[index]
        elif isinstance(value, dict):
            changed[field.name] = {name: np.asarray(column)[index] for name, column in value.items()}
    return replace(catalog, **changed)


def _scale_arcsec(wcs: WCS) -> float:
    return float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600)


def _nowhere() -> tuple[Floats, Floats]:
    return np.zeros(0), np.zeros(0)


def _summary(
    light: Fluxes,
    ra: Floats,
    dec: Floats,
    stars: StarList,
    options: PhotometryOptions,
    catalog: CatalogStars,
    fitted: ZeroPoint | None,
    reference: Reference | None,
    used: Bools,
    scale: float,
) -> FramePhotometry:
    psf, growth = light.psf, light.growth
    facts: dict[str, Any] = dict.fromkeys(
        (
            "zero_point_mag", "zero_point_err", "scatter_mag", "catalog_band", "relation", "catalog",
            "catalog_version", "colour_term", "colour_term_err", "colour_name", "colour_ref",
        )
    )  # fmt: skip
    limiting = brightness = None
    if fitted is not None and reference is not None:
        # Light of hidden stars makes the calibrators too bright: nobody knows how much of it stayed.
        company = MAG_PER_RELATIVE * light.company_share
        zero_point, doubt = fitted.mag - company, COMPANY_DOUBT * company
        facts |= {
            "zero_point_mag": zero_point,
            "zero_point_err": float(np.sqrt(fitted.err**2 + (MAG_PER_RELATIVE * growth.error) ** 2 + doubt**2)),
            "scatter_mag": fitted.scatter_mag,
            "catalog_band": reference.band,
            "relation": reference.relation,
            "catalog": catalog.catalog,
            "catalog_version": catalog.version or None,
        }
        if fitted.colour_term is not None:
            facts |= {
                "colour_term": fitted.colour_term,
                "colour_term_err": fitted.colour_term_err,
                "colour_name": reference.colour_name,
                "colour_ref": reference.colour_ref,
            }
        limiting = float(zero_point - 2.5 * np.log10(5 * light.noise_adu * growth.correction))
        if options.zero_level_adu is not None and stars.background_adu > options.zero_level_adu:
            per_arcsec2 = (stars.background_adu - options.zero_level_adu) / scale**2
            brightness = float(zero_point - 2.5 * np.log10(per_arcsec2))
    facts |= {
        "aperture_px": light.radius_px,
        "growth": growth.correction,
        "growth_err": growth.error,
        "gain_e_per_adu": light.gain_e_per_adu,
    }
    ny, nx = stars.shape
    off = np.hypot(stars.x - (nx - 1) / 2, stars.y - (ny - 1) / 2) / (np.hypot(nx, ny) / 2)
    corner = psf & (off > CORNER)
    shape_of = stars.ellipticity[psf if psf.any() else ~light.saturated]
    fwhm = float(np.median(stars.fwhm_px[psf])) if psf.any() else stars.frame_fwhm_px
    return FramePhotometry(
        **facts,
        calibrators=int(used.sum()),
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
        sources=sources_table(
            _columns(light, ra, dec, stars, used, scale, facts["zero_point_mag"]),
            band=facts["catalog_band"],
            meaning=facts,
        ),
    )


def _columns(
    light: Fluxes,
    ra: Floats,
    dec: Floats,
    stars: StarList,
    used: Bools,
    scale: float,
    zero_point_mag: float | None,
) -> dict[str, NDArray[Any]]:
    flux, error = light.flux_adu, light.flux_err_adu
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = np.where(flux > 0, -2.5 * np.log10(flux), np.nan) + (
            np.nan if zero_point_mag is None else zero_point_mag
        )
        mag_err = np.where(flux > 0, MAG_PER_RELATIVE * error / flux, np.nan)
    position_err = stars.centroid_err_px * scale
    return {
        "x": stars.x,
        "y": stars.y,
        "ra_deg": ra,
        "dec_deg": dec,
        "ra_err_arcsec": position_err,
        "dec_err_arcsec": position_err,
        "flux_adu": flux,
        "flux_err_adu": error,
        "snr": flux / error,
        "mag": mag,
        "mag_err": mag_err,
        "fwhm_px": stars.fwhm_px,
        "ellipticity": stars.ellipticity,
        "theta_deg": stars.theta_deg,
        "background_adu": light.background_adu,
        "peak_adu": light.peak_adu,
        "flags": light.flags,
        "saturated": (light.flags & SourceFlag.SATURATED) != 0,
        "calibrator": used,
    }
