"""How deep an image is: the scatter of empty apertures of a fixed size."""

from __future__ import annotations

import numpy as np
import sep
from numpy.typing import NDArray


def aperture_scatter(
    data: NDArray[np.float32],
    radius_px: float,
    *,
    mask: NDArray[np.bool_] | None = None,
    n: int = 2000,
    seed: int = 1,
) -> float:
    """Return the robust scatter (image units) of empty apertures.

    Parameters
    ----------
    data
        Image, shape ``(ny, nx)``; NaN is skipped.
    radius_px
        Aperture radius, pixels; the same on the sky for images that are to be compared.
    mask
        True where an aperture may not reach, e.g. coverage below its maximum.
    n
        Apertures tried.

    Raises
    ------
    ValueError
        When fewer than 20 apertures are empty.
    """
    from photutils.aperture import CircularAperture, aperture_photometry

    bad = ~np.isfinite(data) if mask is None else mask | ~np.isfinite(data)
    clean = np.ascontiguousarray(np.where(bad, 0, data), dtype=np.float32)
    back = sep.Background(clean, mask=bad, bw=64, bh=64)
    clean -= back.back()
    _, segments = sep.extract(clean, 3.0, err=back.globalrms, mask=bad, segmentation_map=True)
    used = (segments > 0) | bad
    rng = np.random.default_rng(seed)
    ny, nx = data.shape
    xy = rng.uniform(radius_px + 1, [nx - radius_px - 2, ny - radius_px - 2], (n, 2))
    apertures = CircularAperture(xy, radius_px)
    touched = np.asarray(aperture_photometry(used.astype(np.float32), apertures)["aperture_sum"]) > 0
    sums = np.asarray(aperture_photometry(clean, apertures)["aperture_sum"])[~touched]
    if len(sums) < 20:
        raise ValueError(f"only {len(sums)} of {n} apertures are empty")
    return float(1.4826 * np.median(np.abs(sums - np.median(sums))))


def depth_mag(scatter: float, *, unit_flux: float = 1.0, n_sigma: float = 5.0) -> float:
    """Return the limiting magnitude for an aperture scatter, ``unit_flux`` being the flux of magnitude 0."""
    return float(-2.5 * np.log10(n_sigma * scatter / unit_flux))
