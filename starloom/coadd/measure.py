"""Sky, noise, seeing and star fluxes of one frame (SEP: Barbary 2016, JOSS 1, 58)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from starloom.coadd.inputs import InputFrame, OpenFrame, pixel_scale_arcsec, wcs_from_cards
from starloom.errors import BadInput

_MESH_PX = 64
_MAX_STARS = 1500


@dataclass(frozen=True)
class Measured:
    """Noise and seeing of a frame."""

    sigma_adu: float
    fwhm_px: float
    n_stars: int


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
        raise BadInput("the frame holds no finite pixels", code="bad-noise", hint="Look at the raw frame.")
    if mask.any():
        data[mask] = np.median(data[~mask])
    mesh = max(8, min(_MESH_PX, ny // 2, nx // 2))
    return data, mask, sep.Background(data, mask=mask, bw=mesh, bh=mesh)


def _extract(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    sigma: float,
    saturation: float | None,
    peak_max: float | None,
) -> NDArray[np.void]:
    old = sep.get_extract_pixstack()
    sep.set_extract_pixstack(max(old, data.size // 4))
    try:
        found = sep.extract(data, 5.0, err=sigma, mask=mask, minarea=5, deblend_cont=0.005)
    except Exception as error:
        raise BadInput(
            f"stars cannot be detected: {error}", code="bad-noise", hint="Check the calibration of the frame."
        ) from error
    keep = (found["flag"] & ~1) == 0
    if peak_max is not None and saturation is not None:
        keep &= found["peak"] < peak_max
    return found[keep]  # type: ignore[no-any-return]


def measure_frame(frame: OpenFrame, *, saturation_adu: float | None = None) -> Measured:
    """Measure the sky noise (ADU per pixel) and the median FWHM (pixels) of a frame.

    A frame without usable stars gets a FWHM of 2 px, which makes the frame's own pixels the scale.

    Raises
    ------
    BadInput
        ``bad-noise`` for a frame with no finite pixels or no noise at all.
    """
    data, mask, back = _pixels(frame)
    data -= back.back()
    sigma = float(back.globalrms)
    if not np.isfinite(sigma) or sigma <= 0:
        raise BadInput("the frame has no sky noise", code="bad-noise", hint="Is it blank or already cut out?")
    limit = None if saturation_adu is None else 0.8 * saturation_adu - back.globalback
    stars = _extract(data, mask, sigma, saturation_adu, limit)
    stars = stars[(stars["peak"] > 15 * sigma) & (stars["npix"] > 6)]
    stars = stars[np.argsort(stars["flux"])[::-1][:300]]
    if len(stars) == 0:
        return Measured(sigma, 2.0, 0)
    # Half-light radius of a Gaussian is FWHM / 2; it is robust where second moments catch neighbours.
    radius, flag = sep.flux_radius(
        data, stars["x"], stars["y"], 6.0 * stars["a"] + 2, 0.5, subpix=5, normflux=None
    )
    good = (flag == 0) & np.isfinite(radius) & (radius > 0.4)
    fwhm = 2.0 * float(np.median(radius[good])) if good.any() else 2.0
    return Measured(sigma, fwhm, int(good.sum()))


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
    stars = _extract(data, mask, sigma, item.saturation_adu, limit)
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
    ra, dec = (np.radians(a) for a in wcs.all_pix2world(x, y, 0))
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    return StarFluxes(vectors, flux, error, coarse, (float(step_x), float(step_y)))
