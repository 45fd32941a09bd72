"""What is known of a frame before its photometry, and what the photometry tells of it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from starloom.photometry.zero_point import ColourTerm


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
