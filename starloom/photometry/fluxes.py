"""Total fluxes of a frame's stars: apertures of 1.5 FWHM, corrected to the whole light by the curve of growth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.photometry.apertures import Apertures, filled, peaks
from starloom.photometry.empty_apertures import empty_apertures
from starloom.photometry.growth import LEAST_SCATTER, Growth, field_basis, measure_growth, over_field
from starloom.photometry.results import PhotometryOptions
from starloom.photometry.selection import neighbours
from starloom.photometry.sky_mesh import CELL_PX, sky_mesh, without_discs
from starloom.photometry.sources import SourceFlag
from starloom.photometry.zero_point import SATURATED

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

APERTURE_FWHM = 1.5
#: Smaller apertures lose too much to centroids and pixels.
MIN_APERTURE_PX = 1.8
#: Nothing of a star's centre may be masked within this radius, and of its aperture not more than this share.
CORE_FWHM, MASKED_SHARE = 0.6, 0.06
PSF_SNR = 20.0
#: Company that the detection did not part shows in the light within half the aperture over that in all of it.
INNER, COMPANY_SIGMA, MIN_COMPANY = 0.5, 2.5, 12
#: Stars hide this close to another. Those of a larger share of its light are noticed (and looked for with these
#: samples at most, at least).
HIDDEN_FWHM, NOTICED_SHARE, COMPANY_SAMPLES, MIN_COMPANY_SAMPLES = 1.2, 0.15, 300_000, 1000
#: How far PSF stars stand alone, FWHM: as far as is asked for, and what will do where those are too few.
PSF_CLEAR_FWHM, PSF_CLEAR_LEAST_FWHM = 4.0, 2.5
ENOUGH_PSF_STARS = 10
#: A trail shorter than this share of the FWHM leaves stars as good as round.
MIN_TRAIL_FWHM = 1.0
#: Electrons per ADU where nobody knows: few, so that the photon noise is rather overstated.
CAUTIOUS_GAIN = 0.5
#: FWHM to go by where the list of stars tells none, px.
USUAL_FWHM_PX = 3.0


@dataclass(frozen=True)
class Fluxes:
    """The light of the stars of a frame; arrays of shape ``(n,)`` in the order of the star list.

    Parameters
    ----------
    flux_adu, flux_err_adu
        Total flux and its 1-sigma error: noise of empty apertures, the star's own photons, the PSF's changes.
    peak_adu, background_adu
        Highest pixel (sky included) and level of the sky.
    saturated
        Whether the core is clipped or nearly so.
    flags
        `SourceFlag` of each star.
    psf
        Stars that tell the PSF: bright, alone, neither saturated nor masked nor at the edge.
    radius_px, reach_px
        Radius of the apertures, and how far they extend from their centres.
    noise_adu
        Standard deviation of the sum in an empty aperture.
    gain_e_per_adu
        Given or estimated; None where it was only assumed.
    growth
        The correction to the whole light.
    company_share
        Light of fainter stars that may hide close to a typical PSF star, as a share of its own.
    """

    flux_adu: Floats
    flux_err_adu: Floats
    peak_adu: Floats
    background_adu: Floats
    saturated: Bools
    flags: NDArray[np.int16]
    psf: Bools
    radius_px: float
    reach_px: float
    noise_adu: float
    gain_e_per_adu: float | None
    growth: Growth
    company_share: float

    @property
    def usable_gain(self) -> float:
        """Electrons per ADU for photon noise, cautious where nobody knows."""
        return self.gain_e_per_adu or CAUTIOUS_GAIN


def measure_fluxes(data: NDArray[Any], mask: Bools | None, stars: StarList, options: PhotometryOptions) -> Fluxes:
    """Measure the total flux of every star.

    Parameters
    ----------
    data
        Pixels in ADU, any real type, shape ``(ny, nx)``; NaN is masked.
    mask
        True marks pixels that are not to be used, same shape.
    """
    fwhm = stars.frame_fwhm_px if stars.frame_fwhm_px > 0 else USUAL_FWHM_PX  # NaN without stars
    radius = max(APERTURE_FWHM * fwhm, MIN_APERTURE_PX)
    apertures = prepare(data, mask, stars, fwhm)
    x, y = np.ascontiguousarray(stars.x, np.float64), np.ascontiguousarray(stars.y, np.float64)
    reach = apertures.reach(radius)
    peak = peaks(apertures.pixels, x, y)
    saturated = np.asarray(stars.saturated, bool).copy()
    if options.saturation_adu is not None:
        saturated |= peak >= SATURATED * options.saturation_adu
    near = neighbours(x, y, stars.flux, far_px=PSF_CLEAR_FWHM * fwhm + apertures.trail_px, reach_px=reach)
    masked = apertures.masked_pixels(x, y, max(CORE_FWHM * fwhm, 1.0)) > 0
    masked |= apertures.masked_pixels(x, y, radius) > MASKED_SHARE * apertures.area(radius)
    edge = apertures.over_the_edge(x, y, radius)
    empty = empty_apertures(
        apertures, x, y, radius_px=radius, clear_px=reach + 2.5 * fwhm, sigma_adu=stars.noise_adu
    )
    # Stars too faint to be seen lift the sky above the mesh's mode, under stars as elsewhere.
    raw, noise = apertures.sums(x, y, radius) - empty.level_adu, empty.noise_adu
    gain = options.gain_e_per_adu or _estimated_gain(stars, options.zero_level_adu)
    fit = ~saturated & ~masked & ~edge & ~near.blended & (raw > PSF_SNR * noise)
    growth = measure_growth(
        apertures, x, y, raw, fit,
        noise_adu=noise, gain_e_per_adu=gain or CAUTIOUS_GAIN, radius_px=radius, fwhm_px=fwhm,
        extrapolate=apertures.trail_px == 0 and not stars.defocused,
    )  # fmt: skip
    company = _company(apertures, x, y, raw, fit, noise, gain or CAUTIOUS_GAIN, radius) & ~saturated
    correction = growth.at(x, y)
    flux = raw * correction
    photons = np.maximum(raw, 0.0) / (gain or CAUTIOUS_GAIN)
    error = np.sqrt((noise**2 + photons) * correction**2 + (growth.scatter * flux) ** 2)
    clear = near.clear_px - apertures.trail_px
    alone = fit & (clear > PSF_CLEAR_FWHM * fwhm)
    if alone.sum() < ENOUGH_PSF_STARS:
        alone = fit & (clear > PSF_CLEAR_LEAST_FWHM * fwhm)
    return Fluxes(
        flux_adu=flux,
        flux_err_adu=error,
        peak_adu=peak,
        background_adu=apertures.sky.at(x, y),
        saturated=saturated,
        flags=_flags(saturated, near.blended | company, masked, edge),
        psf=alone,
        radius_px=radius,
        reach_px=reach,
        noise_adu=noise,
        gain_e_per_adu=gain,
        growth=growth,
        company_share=_company_share(apertures, stars, raw, fit, fwhm),
    )


def prepare(data: NDArray[Any], mask: Bools | None, stars: StarList, fwhm_px: float) -> Apertures:
    """Make a frame ready for apertures of the shape of its stars: bad pixels filled, the sky measured."""
    # What is float32 already is taken as it lies: a copy of 24 Mpix costs as much as all sums together.
    pixels = np.ascontiguousarray(data, np.float32)
    if data.dtype.kind == "f" and not np.isfinite(np.add.reduce(pixels, axis=None)):
        bad = ~np.isfinite(pixels)
        mask = bad if mask is None else mask | bad
    trail = stars.trail_px if stars.trail_px > MIN_TRAIL_FWHM * fwhm_px else 0.0
    cell = int(max(CELL_PX, 12 * fwhm_px, 4 * trail))
    sky = sky_mesh(pixels, mask, cell_px=cell, discs=(stars.x, stars.y, _wings(stars, fwhm_px) + trail / 2))
    if mask is not None:
        pixels = filled(pixels, mask)
    return Apertures(pixels, mask, sky, trail, stars.trail_angle_deg if trail else 0.0)


def _company(
    apertures: Apertures,
    x: Floats,
    y: Floats,
    raw: Floats,
    fit: Bools,
    noise_adu: float,
    gain: float,
    radius: float,
) -> Bools:
    """Return which stars are less concentrated than those around them: somebody unseen stands in the aperture."""
    none = np.zeros(len(x), bool)
    if fit.sum() < MIN_COMPANY:
        return none
    inner = apertures.sums(x, y, INNER * radius)
    share = np.divide(inner, raw, out=np.full(len(x), np.nan), where=raw > 0)
    typical = float(np.median(share[fit]))
    # The inner light is part of the whole: what differs between them is the ring's noise.
    ring = noise_adu * np.sqrt(1 - apertures.area(INNER * radius) / apertures.area(radius))
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.hypot(typical * ring, (1 - typical) * INNER * noise_adu) / raw
        sigma = np.sqrt(sigma**2 + typical * (1 - typical) / (gain * np.maximum(raw, 1e-9)))
    ny, nx = apertures.pixels.shape
    # Turned around, so that company stands out above as it does in a curve of growth.
    terms, scatter, _ = over_field(-share[fit], sigma[fit], x[fit], y[fit], (ny, nx))
    expected = field_basis(x, y, (ny, nx), terms.size) @ terms
    with np.errstate(invalid="ignore"):
        return np.asarray(-share - expected > COMPANY_SIGMA * np.hypot(sigma, max(scatter, LEAST_SCATTER)), bool)


def _company_share(apertures: Apertures, stars: StarList, raw: Floats, fit: Bools, fwhm_px: float) -> float:
    """Return the light of fainter stars so close to a typical one that nobody parts them, as a share of its light.

    As many hide behind each bright star as elsewhere show between them: the mean of the frame above its sky, away
    from stars that would be noticed, tells how much light that is.
    """
    if not fit.any():
        return 0.0
    typical = float(np.median(raw[fit]))
    bright = raw > NOTICED_SHARE * typical
    ny, nx = apertures.pixels.shape
    stride = max(int(np.sqrt(nx * ny / COMPANY_SAMPLES)), 1)
    discs = (stars.x[bright], stars.y[bright], _wings(stars, fwhm_px)[bright] + apertures.trail_px / 2)
    some = without_discs(apertures.pixels[stride // 2 :: stride, stride // 2 :: stride], discs, stride)
    row, column = np.nonzero(np.isfinite(some))
    if len(row) < MIN_COMPANY_SAMPLES:
        return 0.0
    at_x, at_y = (np.asarray(stride * k + stride // 2, np.float64) for k in (column, row))
    above = some[row, column] - apertures.sky.at(at_x, at_y)
    # Hits and hot pixels are no stars.
    light = float(np.mean(np.minimum(above, 20 * apertures.sky.sigma_adu)))
    return max(light * np.pi * (HIDDEN_FWHM * fwhm_px) ** 2 / typical, 0.0)


def _wings(stars: StarList, fwhm_px: float) -> Floats:
    """Return the radius at which each star has sunk to a tenth of the noise, px: profiles fall as r^-5."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(10 * stars.peak / stars.noise_adu, nan=1.0, posinf=1e9)
    return np.asarray(fwhm_px * np.clip(1.1 * ratio**0.2, 1.8, 14.0), np.float64)


def _estimated_gain(stars: StarList, zero_level_adu: float | None) -> float | None:
    """Return electrons per ADU from the sky's level and noise; read noise makes it too small, never too large."""
    if zero_level_adu is None or not (stars.noise_adu > 0):
        return None
    sky = stars.background_adu - zero_level_adu
    return float(sky / stars.noise_adu**2) if sky > 0 else None


def _flags(saturated: Bools, blended: Bools, masked: Bools, edge: Bools) -> NDArray[np.int16]:
    bits = saturated * SourceFlag.SATURATED + blended * SourceFlag.BLENDED
    return np.asarray(bits + masked * SourceFlag.MASKED + edge * SourceFlag.EDGE, np.int16)
