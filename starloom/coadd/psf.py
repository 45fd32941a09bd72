"""The PSF on the output grid, measured: of each frame for proper co-addition, and of a finished product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sep
from astropy.wcs.utils import pixel_to_pixel
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.coadd.inputs import wcs_from_cards
from starloom.coadd.plan import PlanFrame, StackPlan, Tile
from starloom.coadd.psf_fit import BORDER_PX, Floats, Moffat, Plane, cutouts, finished, psf_of_cutouts
from starloom.errors import BadInput

Read = Callable[[int, int, int, int], NDArray[np.float32]]

WINDOW_PX = 512
ENOUGH_STARS = 80
_LEAST_SIDE, _LARGEST_SIDE, _SIDE_FWHM = 15, 65, 7.0
_DETECT_SIGMA, _BRIGHT_SNR, _SNR_PER_PEAK = 4.0, 25.0, 1.5
_ALONE_FWHM, _COMPANY = 3.0, 0.02
_PLACES = (
    (0.5, 0.5),
    (0.25, 0.25),
    (0.75, 0.75),
    (0.75, 0.25),
    (0.25, 0.75),
    (0.5, 0.1),
    (0.5, 0.9),
    (0.1, 0.5),
    (0.9, 0.5),
)
"""Where windows lie across a frame or a product, as shares of its sides, in turn until there are enough stars."""


def moffat_psf(fwhm_px: float, beta: float = 3.5, size: int = 33) -> Plane:
    """Return a round Moffat PSF, integrated over pixels, faded to nothing at its rim, unit sum, ``size`` odd."""
    return finished(Moffat(fwhm_px, beta).drawn(size))


def measure_psf(
    image: NDArray[Any], x: Sequence[float] | Floats, y: Sequence[float] | Floats, *, size: int, fwhm_px: float
) -> Plane:
    """Measure the PSF of an image from its stars.

    Parameters
    ----------
    image
        Shape ``(ny, nx)``, any unit, any slowly varying sky; NaN where nothing is known.
    x, y
        0-based positions of isolated, unsaturated stars, brightest first; good to 1 px.
    size
        Side of the result, pixels, odd.
    fwhm_px
        What the width is about.

    Returns
    -------
    ndarray
        ``(size, size)``, unit sum, its centroid in the middle of the middle pixel.

    Raises
    ------
    BadInput
        ``too-few-stars``: less than `MIN_STARS` usable ones.
    """
    return psf_of_cutouts(cutouts(image, x, y, size=size), fwhm_px=fwhm_px)


def psf_side(fwhm_px: float) -> int:
    """Return the side that holds the PSF of a seeing, odd, pixels: seven FWHM, at most 65."""
    side = int(np.ceil(_SIDE_FWHM * fwhm_px))
    return min(max(side + 1 - side % 2, _LEAST_SIDE), _LARGEST_SIDE)


def lone_stars(image: NDArray[Any], fwhm_px: float) -> tuple[Floats, Floats, Floats]:
    """Find bright stars without company: positions (0-based) and fluxes, brightest first.

    Parameters
    ----------
    image
        Shape ``(ny, nx)``; NaN where nothing is known, saturated cores among them.
    fwhm_px
        What the width is about.
    """
    mask = ~np.isfinite(image)
    none = np.zeros(0)
    if mask.mean() > 0.9 or min(image.shape) < 4 * fwhm_px:
        return none, none, none
    data = np.ascontiguousarray(np.where(mask, 0, image), dtype=np.float32)
    mesh = max(16, min(64, *(length // 2 for length in image.shape)))
    sky = sep.Background(data, mask=mask, bw=mesh, bh=mesh)
    if not sky.globalrms > 0:
        return none, none, none
    found = sep.extract(data - sky.back(), _DETECT_SIGMA, err=sky.globalrms, mask=mask)
    found = found[np.argsort(-found["flux"], kind="stable")]
    x, y, flux = (np.asarray(found[name], np.float64) for name in ("x", "y", "flux"))
    if not x.size:
        return none, none, none
    # Of a profile the signal-to-noise ratio is about that of its peak times its width.
    bright = found["peak"] * fwhm_px * _SNR_PER_PEAK > _BRIGHT_SNR * sky.globalrms
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(_ALONE_FWHM * fwhm_px, output_type="ndarray")
    alone = np.ones(x.size, np.bool_)
    for one, other in ((0, 1), (1, 0)):
        alone[pairs[flux[pairs[:, other]] > _COMPANY * flux[pairs[:, one]], one]] = False
    good = bright & alone & (found["b"] > 0.5 * found["a"])
    return x[good], y[good], flux[good]


def effective_psf(read: Read, shape: tuple[int, int], fwhm_px: float, *, size: int | None = None) -> Plane:
    """Measure the PSF of a finished product.

    Parameters
    ----------
    read
        ``read(y0, y1, x0, x1)`` returns that section of SCI; NaN where nothing is known or saturated. It is asked
        for at most nine windows of `WINDOW_PX` a side, one after the other.
    shape
        ``(ny, nx)`` of the product.
    fwhm_px
        What the width is about.
    size
        Side of the result, odd; None: `psf_side`.

    Returns
    -------
    ndarray
        ``(size, size)``, unit sum, centred.

    Raises
    ------
    BadInput
        ``too-few-stars``.
    """
    ny, nx = shape
    windows = (_window(nx * right - 0.5, ny * up - 0.5, shape) for right, up in _PLACES)
    images = (read(tile.y0, tile.y0 + tile.ny, tile.x0, tile.x0 + tile.nx) for tile in _apart(windows))
    return _psf_of(images, size or psf_side(fwhm_px), fwhm_px)


def with_psfs(plan: StackPlan, warp: Callable[[PlanFrame, Tile], NDArray[np.float32] | None]) -> StackPlan:
    """Return the plan with the PSF of every frame that is used.

    Parameters
    ----------
    warp
        Returns a frame resampled on a tile of the grid, float32 ``(tile.ny, tile.nx)``, NaN where it has nothing
        or is saturated; None: they do not overlap.

    Notes
    -----
    All PSFs have one size, that of the worst frame's. A frame with too few stars gets a Moffat profile of slope
    3.5 and its own FWHM: what the frame adds then depends on how well that is known, fluxes do not.
    """
    if not plan.used:
        return plan
    size = psf_side(max(frame.fwhm_px for frame in plan.used))
    frames = []
    for frame in plan.frames:
        if frame.weight > 0:
            images = (warp(frame, tile) for tile in _apart(_windows_of(plan, frame)))
            try:
                psf = _psf_of((image for image in images if image is not None), size, frame.fwhm_px)
            except BadInput as error:
                if error.code != "too-few-stars":
                    raise
                psf = moffat_psf(frame.fwhm_px, size=size)
            rounded = tuple(tuple(float(f"{value:.7g}") for value in row) for row in psf.tolist())
            frame = frame.model_copy(update={"psf": rounded})
        frames.append(frame)
    return plan.model_copy(update={"frames": tuple(frames)})


def _psf_of(images: Iterator[NDArray[np.float32]], size: int, fwhm_px: float) -> Plane:
    stars, fluxes = [np.zeros((0, size + 2 * BORDER_PX, size + 2 * BORDER_PX))], [np.zeros(0)]
    for image in images:
        x, y, flux = lone_stars(image, fwhm_px)
        stars.append(cutouts(image, x, y, size=size))
        fluxes.append(flux)
        if sum(map(len, fluxes)) >= ENOUGH_STARS:
            break
    order = np.argsort(-np.concatenate(fluxes), kind="stable")
    return psf_of_cutouts(np.concatenate(stars)[order], fwhm_px=fwhm_px)


def _window(x: float, y: float, shape: tuple[int, int]) -> Tile:
    """Return the window around a position, moved onto the grid."""
    ny, nx = shape
    wide, high = min(WINDOW_PX, nx), min(WINDOW_PX, ny)
    x0, y0 = round(x - wide / 2), round(y - high / 2)
    return Tile(x0=min(max(x0, 0), nx - wide), y0=min(max(y0, 0), ny - high), nx=wide, ny=high)


def _apart(windows: Iterator[Tile]) -> Iterator[Tile]:
    """Yield windows in turn, without those that show mostly what an earlier one did."""
    seen: list[Tile] = []
    for window in windows:
        if all(2 * abs(window.x0 - old.x0) >= old.nx or 2 * abs(window.y0 - old.y0) >= old.ny for old in seen):
            seen.append(window)
            yield window


def _windows_of(plan: StackPlan, frame: PlanFrame) -> Iterator[Tile]:
    """Yield windows across a frame, where it lies on the grid."""
    grid = wcs_from_cards({key: value for key, value in plan.grid.items() if not key.startswith("NAXIS")})
    own = wcs_from_cards(frame.wcs_cards)
    (ny, nx), (high, wide) = frame.shape, plan.shape
    for right, up in _PLACES:
        x, y = pixel_to_pixel(own, grid, nx * right - 0.5, ny * up - 0.5)
        if -WINDOW_PX / 2 < x < wide + WINDOW_PX / 2 and -WINDOW_PX / 2 < y < high + WINDOW_PX / 2:
            yield _window(float(x), float(y), plan.shape)
