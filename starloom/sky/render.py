"""Render one exposure: stars, sky, trail, cosmic rays, detector; and say exactly what was put in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.sky.field import Sky, offset_position
from starloom.sky.headers import capture_header
from starloom.sky.telescope import Card, Telescope, wcs_from_cards

Floats = NDArray[np.float64]

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
# Magnitude whose flux is the unit of `FrameTruth.flux_scale`.
REFERENCE_ZERO_POINT = 25.0
# Three Gauss-Legendre nodes a pixel and axis: flux right to 0.1 % down to a FWHM of 1.5 px.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True)
class Trail:
    """A satellite's straight trail from ``(x0, y0)`` to ``(x1, y1)``, 0-based pixels.

    ``sigma_per_px`` is the brightness of its ridge in units of the background noise of one pixel.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    sigma_per_px: float = 12.0


@dataclass(frozen=True)
class FrameTruth:
    """What was rendered into a frame.

    Parameters
    ----------
    node, start, exposure_s, band, filter_name
        Who took it, when (UTC) and through what.
    seed
        Seed of the frame's noise.
    wcs
        The exact WCS as FITS cards (1-based ``CRPIX``, SIP included).
    zero_point_mag
        Magnitude that gives 1 ADU in the whole exposure, transparency included, at the frame's centre.
    flux_scale
        ADU per unit of flux, where a star of magnitude 25 has unit flux: ``10^(0.4 (zero_point_mag - 25))``.
    fwhm_px
        Full width at half maximum of the point spread function before the pixels integrate it.
    sky_adu, noise_adu
        Background above the pedestal and noise of one background pixel at the frame's centre.
    pointing_error_deg
        How far the header's pointing is from the truth.
    trail
        The satellite trail, if there is one.
    """

    node: str
    start: str
    exposure_s: float
    band: str
    filter_name: str
    seed: int
    width: int
    height: int
    wcs: dict[str, Card]
    zero_point_mag: float
    flux_scale: float
    fwhm_px: float
    sky_adu: float
    noise_adu: float
    pointing_error_deg: float
    trail: Trail | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def to_wcs(self) -> WCS:
        """Return the exact WCS as an astropy object."""
        return wcs_from_cards(self.wcs)


class Rendered(NamedTuple):
    """An exposure as the detector gives it (``(height, width)``), its header and the truth about it."""

    image: NDArray[Any]
    header: fits.Header
    truth: FrameTruth


def render(
    telescope: Telescope,
    sky: Sky,
    pointing_deg: tuple[float, float],
    *,
    seed: int,
    start: datetime,
    fwhm_px: float | None = None,
    transparency: float = 1.0,
    trail: Trail | None = None,
    pointing_error_deg: float = 0.2,
    object_name: str = "",
) -> Rendered:
    """Render one exposure.

    Parameters
    ----------
    telescope
        Optics and detector.
    sky
        True stars; the field should reach beyond the frame.
    pointing_deg
        True centre of the frame, degrees ICRS.
    seed
        The same seed gives the same pixels.
    start
        Start of the exposure, an aware time.
    fwhm_px
        Seeing; drawn from the telescope's range when ``None``.
    transparency
        Fraction of starlight that passes the clouds, 0 to 1.
    trail
        A satellite trail to add.
    pointing_error_deg
        The header's pointing misses the truth by up to this much.
    object_name
        ``OBJECT`` of the header.

    Raises
    ------
    BadInput
        ``naive-time``: ``start`` has no time zone.
    """
    if start.tzinfo is None:
        raise BadInput(f"the start {start} has no time zone", code="naive-time")
    start = start.astimezone(UTC)
    rng = np.random.default_rng(seed)
    fwhm = float(rng.uniform(*telescope.fwhm_px)) if fwhm_px is None else fwhm_px
    missed_by = float(pointing_error_deg * np.sqrt(rng.random()))
    noted = offset_position(*pointing_deg, missed_by, float(rng.uniform(0, 2 * np.pi)))
    zero_point = telescope.zero_point_mag + 2.5 * np.log10(transparency)
    cards = telescope.wcs_cards(*pointing_deg)
    noise_e = np.hypot(np.sqrt(telescope.sky_adu * telescope.gain_e_per_adu), telescope.read_noise_e)
    noise = float(noise_e / telescope.gain_e_per_adu)

    light = stars_image(telescope, sky, wcs_from_cards(cards), zero_point, fwhm, noise)
    if trail is not None:
        add_trail(light, trail, trail.sigma_per_px * noise, fwhm / FWHM_PER_SIGMA)
    image = _expose(telescope, light, rng)

    truth = FrameTruth(
        node=telescope.node,
        start=start.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        exposure_s=telescope.exposure_s,
        band=sky.band,
        filter_name=telescope.filter_name,
        seed=seed,
        width=telescope.width,
        height=telescope.height,
        wcs=cards,
        zero_point_mag=float(zero_point),
        flux_scale=float(10 ** (0.4 * (zero_point - REFERENCE_ZERO_POINT))),
        fwhm_px=fwhm,
        sky_adu=telescope.sky_adu,
        noise_adu=noise,
        pointing_error_deg=missed_by,
        trail=trail,
    )
    header = capture_header(telescope, (float(noted[0]), float(noted[1])), start, object_name)
    return Rendered(image, header, truth)


def star_pixels(telescope: Telescope, sky: Sky, wcs: WCS, margin_px: float) -> tuple[Floats, Floats, Floats]:
    """Return ``x, y, mag`` of the stars on a frame (0-based pixels), up to ``margin_px`` outside it."""
    ra0, dec0 = wcs.wcs.crval
    # TAN wraps the far side of the sky onto the frame, and SIP diverges outside: keep to the neighbourhood.
    reach = telescope.radius_deg * 1.3 + margin_px * telescope.scale_arcsec / 3600
    cosine = np.sin(np.radians(dec0)) * np.sin(np.radians(sky.dec_deg)) + np.cos(np.radians(dec0)) * np.cos(
        np.radians(sky.dec_deg)
    ) * np.cos(np.radians(sky.ra_deg - ra0))
    near = cosine > np.cos(np.radians(reach))
    if not near.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    x, y = wcs.all_world2pix(sky.ra_deg[near], sky.dec_deg[near], 0, tolerance=1e-5, maxiter=50)
    on = (
        (x > -margin_px)
        & (x < telescope.width - 1 + margin_px)
        & (y > -margin_px)
        & (y < telescope.height - 1 + margin_px)
    )
    return x[on], y[on], sky.mag[near][on]


def stars_image(
    telescope: Telescope, sky: Sky, wcs: WCS, zero_point_mag: float, fwhm_px: float, noise_adu: float
) -> Floats:
    """Return the light of the stars alone, ADU, shape ``(height, width)``.

    Each star is a Moffat profile integrated over the pixels, cut where it has sunk well below the noise.
    """
    image = np.zeros((telescope.height, telescope.width))
    beta = telescope.moffat_beta
    alpha = fwhm_px / 2 / np.sqrt(2 ** (1 / beta) - 1)
    x, y, mag = star_pixels(telescope, sky, wcs, margin_px=12 * fwhm_px)
    for x0, y0, flux in zip(x, y, 10 ** (-0.4 * (mag - zero_point_mag)), strict=True):
        peak = flux * (beta - 1) / (np.pi * alpha**2)
        # Radius where the profile falls to a fiftieth of the noise; never less than 99.9 % of the light.
        reach = alpha * np.sqrt(max((50 * peak / noise_adu) ** (1 / beta) - 1, 0.0))
        half = int(np.ceil(np.clip(reach, 4.2 * fwhm_px, 25 * fwhm_px)))
        cx, cy = round(x0), round(y0)
        left, right = max(cx - half, 0), min(cx + half + 1, telescope.width)
        low, high = max(cy - half, 0), min(cy + half + 1, telescope.height)
        if left < right and low < high:
            dx, dy = np.arange(left, right) - x0, np.arange(low, high) - y0
            image[low:high, left:right] += peak * _moffat(dx, dy, alpha, beta)
    return image


def _moffat(dx: Floats, dy: Floats, alpha: float, beta: float) -> Floats:
    """Mean of a unit-peak Moffat profile over each pixel, shape ``(len(dy), len(dx))``."""
    total = np.zeros((len(dy), len(dx)))
    x2 = [((dx + node / 2) / alpha) ** 2 for node in _NODES]
    y2 = [((dy + node / 2) / alpha) ** 2 for node in _NODES]
    for wx, xx in zip(_WEIGHTS, x2, strict=True):
        for wy, yy in zip(_WEIGHTS, y2, strict=True):
            total += (wx * wy / 4) * np.exp(-beta * np.log1p(yy[:, None] + xx[None, :]))
    return total


def add_trail(image: Floats, trail: Trail, peak_adu: float, sigma_px: float) -> None:
    """Add a trail with a Gaussian cross-section of ``sigma_px`` and ridge ``peak_adu``, in place."""
    ny, nx = image.shape
    length = np.hypot(trail.x1 - trail.x0, trail.y1 - trail.y0)
    ux, uy = (trail.x1 - trail.x0) / length, (trail.y1 - trail.y0) / length
    dx = np.arange(nx)[None, :] - trail.x0
    dy = np.arange(ny)[:, None] - trail.y0
    along, across = dx * ux + dy * uy, dx * uy - dy * ux
    near = (np.abs(across) < 6 * sigma_px) & (along >= 0) & (along <= length)
    image[near] += peak_adu * np.exp(-0.5 * (across[near] / sigma_px) ** 2)


def _expose(telescope: Telescope, light_adu: Floats, rng: np.random.Generator) -> NDArray[Any]:
    """Turn light into the numbers a detector gives: vignetting, sky, shot and read noise, hits, clipping."""
    ny, nx = light_adu.shape
    v = np.linspace(-1, 1, ny)[:, None]
    u = np.linspace(-1, 1, nx)[None, :]
    sky = telescope.sky_adu * (1 + telescope.gradient * (0.8 * u + 0.6 * v) / 2)
    expected_e = (light_adu + sky) * (1 - telescope.vignetting * (u**2 + v**2) / 2) * telescope.gain_e_per_adu
    electrons = rng.poisson(expected_e) + rng.normal(0.0, telescope.read_noise_e, (ny, nx))
    adu = electrons / telescope.gain_e_per_adu + telescope.pedestal_adu
    _add_cosmic_rays(adu, telescope, rng)
    adu = np.clip(adu, 0.0, telescope.full_well_adu)
    if telescope.bitpix == -32:
        return adu.astype(np.float32)
    return np.rint(adu).astype(np.uint16 if telescope.bitpix == 16 else np.int32)


def _add_cosmic_rays(adu: Floats, telescope: Telescope, rng: np.random.Generator) -> None:
    ny, nx = adu.shape
    noise = np.sqrt(max(telescope.sky_adu, 1.0) / telescope.gain_e_per_adu)
    for _ in range(rng.poisson(telescope.cosmic_rays * nx * ny / 1e6)):
        steps = np.arange(rng.integers(1, 9))
        angle = rng.uniform(0, 2 * np.pi)
        x = np.rint(rng.uniform(0, nx) + steps * np.cos(angle)).astype(int)
        y = np.rint(rng.uniform(0, ny) + steps * np.sin(angle)).astype(int)
        on = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        np.add.at(adu, (y[on], x[on]), rng.uniform(20, 200) * noise)
