"""Finding what stands out of the sky: at the scale of the frame's stars, along its trail."""

from __future__ import annotations

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.ndimage import convolve

from starloom.astrometry.background import ONE_BELOW
from starloom.astrometry.bins import Image
from starloom.astrometry.profile import Profile

Objects = NDArray[np.void]

# Signal-to-noise under the kernel from which pixels belong to an object, and the least of them.
THRESHOLD_SIGMA = 4.0
MIN_AREA = 4
# Of a blend's light, the share that makes a star of its own.
DEBLEND_SHARE = 0.002
NARROW = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)
# Pixels of unfinished objects that sep holds. It writes to the whole buffer before it begins, so a large one costs
# more than the search itself.
PIXELS_HELD, MOST_PIXELS_HELD = 250_000, 10_000_000
# Patches of sky asked whether noise is white: after interpolation it is not, and smoothing takes less of it away.
PATCH = 96
PATCHES = 4


def kernel_for(profile: Profile, step: int) -> Image:
    """Return the kernel to look through: small and round, or the frame's trail; shape odd × odd."""
    if profile.trail_px == 0:
        return NARROW
    sigma, length = max(profile.minor_px / step, 0.7), profile.trail_px / step
    half = int(np.ceil(length / 2 + 1.5 * sigma))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    c, s = np.cos(profile.angle), np.sin(profile.angle)
    along, across = c * x + s * y, c * y - s * x
    past = np.maximum(np.abs(along) - length / 2, 0.0)
    kernel = np.exp(-0.5 * (across**2 + past**2) / sigma**2)
    kernel[kernel < 0.05] = 0.0
    used = kernel.any(axis=1), kernel.any(axis=0)
    return np.ascontiguousarray(kernel[np.ix_(*used)], np.float32)


def window_kernel(profile: Profile, step: int) -> Image:
    """Return the kernel that sums an image as the window sums a star, 7 × 7 at most."""
    sigma = float(np.clip(np.linalg.det(profile.window) ** 0.25 / step, 0.5, 2.0))
    half = min(int(np.ceil(2 * sigma)), 3)
    at = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return np.outer(at, at).astype(np.float32)


def white_noise(kernel: Image) -> float:
    """Return what smoothing with a kernel leaves of white noise."""
    return float(np.sqrt((kernel**2).sum()) / kernel.sum())


def noise_left(image: Image, kernel: Image) -> float:
    """Return the noise of an image of unit noise after smoothing, as measured on patches of it.

    Never less than white noise would leave.
    """
    white = white_noise(kernel)
    ny, nx = image.shape
    size_y, size_x = min(PATCH, ny), min(PATCH, nx)
    found = []
    for top in np.linspace(0, ny - size_y, PATCHES).astype(int):
        for left in np.linspace(0, nx - size_x, PATCHES).astype(int):
            patch = image[top : top + size_y, left : left + size_x]
            if np.count_nonzero(patch) < 0.5 * patch.size:
                continue
            found.append(_spread_below(convolve(patch, kernel / kernel.sum(), mode="nearest").ravel()))
    # Stars widen it in a crowded frame, so the quiet patches speak.
    return max(float(np.percentile(found, 30)), white) if found else white


def _spread_below(values: Image) -> float:
    """Return how far one sigma lies below the middle of the sky, stars clipped away."""
    ordered, n, spread = np.sort(values), len(values), 0.0
    for _ in range(5):
        middle = float(ordered[n // 2])
        spread = middle - float(ordered[int(ONE_BELOW * n)])
        kept = int(np.searchsorted(ordered, middle + 3.0 * spread))
        if kept == n or kept < 0.3 * len(values):
            break
        n = kept
    return spread


def extract(image: Image, kernel: Image | None, threshold: float, *, deblend: float = DEBLEND_SHARE) -> Objects:
    """Return the objects of an image less its sky, brightest first (sep's table).

    Parameters
    ----------
    image
        float32, shape ``(ny, nx)``.
    kernel
        What it is smoothed with; None takes sep's own, small and round.
    threshold
        In units of the image, after smoothing.
    deblend
        Of a blend's light, the share that makes a star of its own; 1 leaves blends whole.

    Notes
    -----
    A frame so crowded that sep's largest buffer does not hold it is looked at less deeply.
    """
    sep.set_sub_object_limit(8192)
    image, held = np.ascontiguousarray(image), PIXELS_HELD
    while True:
        sep.set_extract_pixstack(held)
        try:
            found: Objects = sep.extract(
                image,
                threshold,
                minarea=MIN_AREA,
                filter_kernel=NARROW if kernel is None else kernel,
                deblend_cont=deblend,
                clean=deblend < 1,
            )
            break
        except Exception as error:
            # sep raises bare Exception when one of its buffers is full; anything else is not ours to hide.
            if threshold > 1000 or not any(word in str(error) for word in ("overflow", "buffer", "limit")):
                raise
            if held < MOST_PIXELS_HELD:
                held *= 8
            else:
                threshold *= 2
    found = found[np.isfinite(found["flux"]) & (found["flux"] > 0)]
    return found[np.argsort(-found["flux"], kind="stable")]
