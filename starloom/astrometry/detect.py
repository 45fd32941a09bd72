"""Detection: find the stars of a frame, and say what kind of frame it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.astrometry.bins import Bools
from starloom.astrometry.centroids import Frame, Measured, windowed
from starloom.astrometry.extract import (
    NARROW,
    THRESHOLD_SIGMA,
    Objects,
    extract,
    kernel_for,
    noise_left,
    white_noise,
    window_kernel,
)
from starloom.astrometry.look import Looked, look
from starloom.astrometry.profile import FWHM_PER_SIGMA, Profile
from starloom.astrometry.profile_fit import frame_width
from starloom.astrometry.seams import Unsolved
from starloom.astrometry.sizes import Sizes
from starloom.astrometry.star_list import StarList, spread
from starloom.errors import BadInput

__all__ = ["StarList", "detect_stars"]

Floats = NDArray[np.float64]

MIN_SIDE = 16
#: Least signal-to-noise against the sky, and against sky and the star's own photons.
MIN_SNR, MIN_SURENESS = 5.0, 4.0
#: Of a star's size squared: below it is sharper in some direction than optics can draw it,
MIN_SIZE = 0.6
#: above it is no point but a line, or a knot of a nebula.
MAX_SIZE, MAX_MEAN_SIZE = 1.75, 1.55
#: Scatter of the size along one direction at a signal-to-noise of 1, and how many of it are forgiven.
SIZE_SCATTER, FORGIVEN = 1.41, 1.5
#: A saturated core is as round as this, or it is a satellite's trail.
MIN_ROUNDNESS = 0.35
#: Stars that describe the frame stand out by this and are of its usual size within that.
PSF_SNR, PSF_SIZE = 30.0, 0.35
#: Light of a Moffat profile over what is under its matching window, where no star is bright enough to tell.
USUAL_WHOLE = 2.2
MAX_HIDDEN = 0.25


def detect_stars(
    data: NDArray[Any],
    *,
    max_stars: int = 2000,
    saturation_adu: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    gain_e_per_adu: float | None = None,
) -> StarList:
    """Find the stars of a frame.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``, any real type and byte order; NaN and infinite pixels are left out.
    max_stars
        Keep only this many, bright ones spread over the frame (`StarList.balanced`).
    saturation_adu
        Level at which a pixel counts as saturated; ``None`` looks for a plateau at the brightest stars' tops.
    mask
        True marks pixels that are not to be used, same shape.
    gain_e_per_adu
        Electrons per ADU, for the errors of the centroids; ``None`` estimates it from sky and noise.

    Returns
    -------
    StarList
        Possibly short or empty; `StarList.fault` says whether it is fit for solving.

    Raises
    ------
    Unsolved
        ``no-sky``: no usable pixels, or pixels that are all alike, so that there is no sky to stand out from.
    BadInput
        ``bad-mask``: the mask is not of the frame's shape.

    Notes
    -----
    Stars are looked for on means of 2 × 2 pixels (finer where they are undersampled, coarser where they are out of
    focus, through a kernel of the trail's shape where they are drawn out), and measured on the pixels themselves
    under a Gaussian window of the frame's own profile. What is sharper than that profile in any direction is a hot
    pixel, a bad column or a cosmic-ray hit; what is much broader a nebula, a trail or a blend.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393; Barbary 2016, JOSS 1, 58 (sep).
    """
    data, mask = _checked(data, mask)
    seen = look(data, mask, saturation_adu, gain_e_per_adu)
    kernel = kernel_for(seen.profile, seen.step)
    objects = extract(seen.image, kernel, THRESHOLD_SIGMA * noise_left(seen.image, kernel))
    x, y = (seen.step * objects[axis] + (seen.step - 1) / 2 for axis in "xy")
    shape = int(data.shape[0]), int(data.shape[1])
    # Rejection drops some, so look at more than asked for, but not at every blob of a crowded 60-megapixel frame.
    chosen = spread(x, y, shape, max(3 * max_stars, 6000))
    return _measured(seen, objects[chosen], x[chosen], y[chosen], max_stars, saturation_adu)


def _checked(data: NDArray[Any], mask: Bools | None) -> tuple[NDArray[Any], Bools | None]:
    if data.ndim != 2 or data.dtype.kind not in "biuf":
        raise Unsolved(f"an array of shape {data.shape} and type {data.dtype} is not a frame", code="no-sky")
    if mask is not None and mask.shape != data.shape:
        raise BadInput(
            f"a mask of shape {mask.shape} for a frame of {data.shape}",
            code="bad-mask",
            hint="A mask has one entry a pixel of the frame.",
        )
    if min(data.shape) < MIN_SIDE:
        raise Unsolved(f"{data.shape[1]} × {data.shape[0]} pixels hold no sky", code="no-sky")
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    return np.ascontiguousarray(data), None if mask is None else np.ascontiguousarray(mask, bool)


def _measured(
    seen: Looked, objects: Objects, x: Floats, y: Floats, max_stars: int, saturation_adu: float | None
) -> StarList:
    """Measure objects on the pixels, keep the stars among them, and describe the frame by them."""
    frame, profile = seen.frame, seen.profile
    core = FWHM_PER_SIGMA * profile.round_px / 2
    stars = windowed(frame, x, y, profile.window, core)
    top = stars.peak + stars.level + frame.base
    saturated = top >= (_plateau(frame, x, y, top) if saturation_adu is None else saturation_adu)
    stars = _beyond_saturation(
        frame, stars, profile, x, y, seen.step * np.sqrt(objects["a"] * objects["b"]), saturated
    )
    # Noise that is correlated from pixel to pixel is more, in all sums over pixels, than a pixel's noise says.
    whiteness = max(
        noise_left(seen.image, k) / white_noise(k) for k in (NARROW, window_kernel(profile, seen.step))
    )
    sizes = Sizes(stars, profile)
    good = ~saturated & (stars.snr > PSF_SNR) & (stars.hidden == 0) & (sizes.most < MAX_SIZE) & (sizes.least > 0.3)
    usual = _usual_size(stars, sizes, good, profile)
    keep = _are_stars(stars, sizes, usual, saturated, objects, profile, whiteness)
    keep &= np.hypot(stars.x - x, stars.y - y) < 1.5 * core + seen.step
    ny, nx = int(frame.data.shape[0]), int(frame.data.shape[1])
    keep &= (stars.x > 1) & (stars.x < nx - 2) & (stars.y > 1) & (stars.y < ny - 2)
    isophotal = objects["flux"] * seen.step * stars.noise
    whole = (
        np.median(isophotal[good & keep] / stars.light[good & keep]) if (good & keep).sum() >= 5 else USUAL_WHOLE
    )
    flux = np.where(saturated, isophotal, whole * stars.light)
    order = np.flatnonzero(keep)
    order = order[np.argsort(-flux[order], kind="stable")]
    order = order[_apart(stars.x[order], stars.y[order], max(0.7 * core, 1.0))]
    order = order[spread(stars.x[order], stars.y[order], (ny, nx), max_stars)]
    psf = order[good[order] & (np.abs(sizes.mean[order] - usual) < PSF_SIZE)]
    psf = psf if len(psf) >= 3 else order[~saturated[order]]
    fwhm, frame_fwhm, defocused = sizes.widths, float("nan"), False
    if len(psf):
        width = frame_width(frame, profile, stars.x[psf], stars.y[psf], stars.light[psf], stars.level[psf])
        frame_fwhm, defocused = width
        fwhm = fwhm * frame_fwhm / float(np.median(fwhm[psf]))
    trailed = profile.trail_px > 0 and len(order) > 0
    return StarList(
        x=stars.x[order],
        y=stars.y[order],
        flux=flux[order],
        peak=stars.peak[order],
        fwhm_px=fwhm[order],
        ellipticity=sizes.ellipticities[order],
        saturated=saturated[order],
        shape=(ny, nx),
        background_adu=frame.base + frame.sky.typical_level,
        noise_adu=frame.sky.typical_noise,
        frame_fwhm_px=frame_fwhm,
        frame_ellipticity=float(np.median(sizes.ellipticities[psf])) if len(psf) else float("nan"),
        trailed=trailed,
        theta_deg=sizes.theta_deg[order],
        centroid_err_px=stars.error_px[order] * whiteness,
        defocused=defocused,
        trail_px=profile.trail_px if trailed else 0.0,
        trail_angle_deg=float(np.degrees(profile.angle)) if trailed else float("nan"),
    )


def _usual_size(stars: Measured, sizes: Sizes, good: Bools, profile: Profile) -> float:
    """Return the size squared that most stars have, relative to the window."""
    if good.sum() >= 5:
        return float(np.median(sizes.mean[good]))
    if profile.stars:
        # What a star like the profile shows under its window, which is not its own where that is held wide.
        own, window = profile.round_px**2, float(np.sqrt(np.linalg.det(profile.window)))
        return 1.0 if profile.trail_px else 2 * own / (own + window)
    faint = np.isfinite(stars.x) & (stars.snr > MIN_SNR)
    # No star was bright enough to choose the window by, so the window may be far off.
    return float(np.clip(np.median(sizes.mean[faint]), 0.3, 1.0)) if faint.sum() >= 5 else 1.0


def _are_stars(
    stars: Measured,
    sizes: Sizes,
    usual: float,
    saturated: Bools,
    objects: Objects,
    profile: Profile,
    whiteness: float,
) -> Bools:
    """Tell stars from hot pixels, cosmic-ray hits, bad columns, trails, nebulae and noise."""
    slack = FORGIVEN * SIZE_SCATTER / np.maximum(stars.snr, 1e-3)
    keep = np.isfinite(stars.x) & (stars.hidden < MAX_HIDDEN)
    keep &= (stars.snr > MIN_SNR * whiteness) & (stars.sureness > MIN_SURENESS)
    keep &= sizes.least > MIN_SIZE * usual - slack
    # A saturated star is as wide as its light makes it.
    keep &= ((sizes.most < MAX_SIZE + slack) & (sizes.mean < MAX_MEAN_SIZE * usual)) | saturated
    keep &= ~saturated | (objects["b"] > MIN_ROUNDNESS * objects["a"]) | (profile.trail_px > 0)
    return np.asarray(keep, bool)


def _plateau(frame: Frame, x: Floats, y: Floats, top: Floats) -> float:
    """Guess the saturation level: several pixels stand within 0.1 % of the brightest only where they clip."""
    if not len(top) or top.max() <= 0:
        return float("inf")
    level = 0.999 * float(top.max())
    pixels = 0
    for i in np.flatnonzero(top >= level)[:20]:
        row, column = round(float(y[i])), round(float(x[i]))
        core = frame.data[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        pixels += int(np.count_nonzero(core >= level))
    return level if pixels >= 5 else float("inf")


def _beyond_saturation(
    frame: Frame, stars: Measured, profile: Profile, x: Floats, y: Floats, size_px: Floats, saturated: Bools
) -> Measured:
    """Measure saturated stars again, under windows that reach beyond their flat cores."""
    which = np.flatnonzero(saturated)
    if not len(which):
        return stars
    size = size_px[which]
    scale = np.clip(1.2 * size / profile.round_px, 1.0, 6.0)
    wide = windowed(frame, x[which], y[which], profile.window, profile.round_px, scale=scale)
    sound = np.isfinite(wide.x) & (np.hypot(wide.x - x[which], wide.y - y[which]) < size + 1)
    columns = {name: getattr(stars, name).copy() for name in ("x", "y", "error_px")}
    columns["x"][which] = np.where(sound, wide.x, x[which])
    columns["y"][which] = np.where(sound, wide.y, y[which])
    # Where even that fails the isophote's middle has to do, and is believed less.
    columns["error_px"][which] = np.where(sound, np.hypot(wide.error_px, 0.01 * scale), 0.2 * size)
    return replace(stars, **columns)


def _apart(x: Floats, y: Floats, distance: float) -> NDArray[np.intp]:
    """Return which of stars sorted by brightness are no second finding of a brighter one."""
    if len(x) < 2:
        return np.arange(len(x))
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(distance, output_type="ndarray")
    again = np.zeros(len(x), bool)
    again[pairs.max(axis=1)] = True
    return np.flatnonzero(~again)
