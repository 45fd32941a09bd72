"""Whole products of one frame against reproject (nearest, bilinear, exact) and a Lanczos-3 written out in numpy.

    python benchmarks/coadd_peers_small.py [--size 400] [--json]

One frame with noise and stars, turned and of another scale than the grid, goes through `stack_files`; the peer
gets the same pixels and grid. Peers interpolate surface brightness, ours keeps flux: theirs is multiplied by each
pixel's area on the frame. The difference is told in units of the frame's noise on a pixel, on pixels well inside;
the goal is 0.001. Where the sky is distorted, positions between nodes are interpolated (error below 0.01 px by
plan), which moves steep stars by more than that: sky and stars are told apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from coadd_engines import scratch
from coadd_render import FWHM_PER_SIGMA, add_gaussians
from coadd_sets import arguments, tangent_header
from peers import show
from reproject import reproject_exact, reproject_interp
from scipy.ndimage import binary_dilation, binary_erosion

from starloom.coadd import StackOptions, stack_files

SKY, SIGMA, SCALE_ARCSEC = 800.0, 25.0, 1.0


def frame_on(folder: Path, size: int, *, distorted: bool) -> tuple[Path, np.ndarray, WCS, np.ndarray]:
    """Write one frame; return its path, pixels, WCS and where its stars are."""
    rng = np.random.default_rng(3)
    sip = {"A_2_0": 2e-6, "A_1_1": -1e-6, "B_0_2": 3e-6, "B_1_1": 1e-6, "A_3_0": 2e-9, "B_0_3": 2e-9}
    header = tangent_header(size, size, SCALE_ARCSEC, 11.3, 150.01, 20.004, sip=sip if distorted else None)
    image = np.zeros((size, size), np.float32)
    n = size * size // 4000
    x, y = rng.uniform(10, size - 10, (2, n))
    add_gaussians(image, x, y, 10 ** rng.uniform(3.3, 5.0, n), 2.7 / FWHM_PER_SIGMA)
    stars = image > 0.2 * SIGMA
    image += rng.normal(SKY, SIGMA, image.shape).astype(np.float32)
    header["FILTER"], header["MAGZPT"], header["EXPTIME"], header["GAIN"] = "r", 25.0, 60.0, 1.2
    header["DATE-OBS"] = "2026-03-01T00:00:00"
    path = folder / "frame.fits"
    fits.PrimaryHDU(image, header).writeto(path, overwrite=True)
    return path, image, WCS(header, fix=False), stars


def positions(grid: fits.Header, wcs: WCS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame x and y of every pixel of the grid, and its area on the frame (corners, exactly)."""
    nx, ny = grid["NAXIS1"], grid["NAXIS2"]
    out = WCS(grid, fix=False)

    def to_frame(gx, gy):
        found = wcs.all_world2pix(*out.all_pix2world(gx.ravel(), gy.ravel(), 0), 0, tolerance=1e-9, maxiter=60)
        return (a.reshape(gx.shape) for a in found)

    x, y = to_frame(*np.meshgrid(np.arange(nx, dtype=float), np.arange(ny, dtype=float)))
    cx, cy = to_frame(*np.meshgrid(np.arange(nx + 1) - 0.5, np.arange(ny + 1) - 0.5))
    ax, ay, bx, by = (
        cx[1:, 1:] - cx[:-1, :-1],
        cy[1:, 1:] - cy[:-1, :-1],
        cx[1:, :-1] - cx[:-1, 1:],
        cy[1:, :-1] - cy[:-1, 1:],
    )
    return x, y, 0.5 * np.abs(ax * by - ay * bx)


def lanczos3(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lanczos-3 with weights that sum to 1, in float64, tap by tap; NaN where a tap would lie outside."""
    result, norm = np.zeros(x.shape), np.zeros(x.shape)
    i0, j0 = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (i0 >= 2) & (j0 >= 2) & (i0 < image.shape[1] - 3) & (j0 < image.shape[0] - 3)
    for dj in range(-2, 4):
        for di in range(-2, 4):
            tx, ty = x - (i0 + di), y - (j0 + dj)
            weight = np.sinc(tx) * np.sinc(tx / 3) * np.sinc(ty) * np.sinc(ty / 3)
            i, j = np.clip(i0 + di, 0, image.shape[1] - 1), np.clip(j0 + dj, 0, image.shape[0] - 1)
            result += weight * image[j, i]
            norm += weight
    return np.where(inside, result / norm, np.nan)


def peer(kernel: str, image: np.ndarray, wcs: WCS, grid: fits.Header, x, y) -> tuple[str, np.ndarray]:
    """What the peer makes of the frame, surface brightness."""
    shape = (grid["NAXIS2"], grid["NAXIS1"])
    pixels = image.astype(np.float64)
    out = WCS(grid, fix=False)
    if kernel == "lanczos3":
        return "numpy Lanczos-3", lanczos3(pixels, x, y)
    if kernel == "area":
        return "reproject_exact", reproject_exact((pixels, wcs), out, shape_out=shape, return_footprint=False)
    order = {"nearest": "nearest-neighbor", "bilinear": "bilinear"}[kernel]
    found = reproject_interp((pixels, wcs), out, shape_out=shape, order=order, return_footprint=False)
    return f"reproject_interp, {order}", found


def compare(folder: Path, size: int, kernel: str, step: float, *, distorted: bool) -> dict[str, Any]:
    path, image, wcs, stars = frame_on(folder, size, distorted=distorted)
    side = round(0.9 * size / step)
    grid = tangent_header(side, side, SCALE_ARCSEC * step, -4.0, 150.0, 20.0)
    target = folder / "grid.hdr"
    grid.totextfile(target, overwrite=True)
    options = StackOptions(
        kernel=kernel, combine="mean", target=target, match_sky=False, register_frames=False, streaks=False
    )
    (product,) = stack_files([path], folder / "product.fits", options).products
    with fits.open(product.path) as hdus:
        ours, weight = hdus["SCI"].data.astype(np.float64), hdus["WEIGHT"].data
    x, y, area = positions(grid, wcs)
    name, theirs = peer(kernel, image, wcs, grid, x, y)
    theirs = theirs * area
    inner = binary_erosion((weight > 0) & np.isfinite(theirs), iterations=3)
    if kernel == "nearest":
        # A tie is decided by rounding: nobody's error.
        inner &= (np.abs(x - np.floor(x) - 0.5) > 0.01) & (np.abs(y - np.floor(y) - 0.5) > 0.01)
    # A lone frame has nobody to match its sky with; a level that the plan took off is none of the resampling.
    level = np.median(ours[inner] - theirs[inner])
    difference = np.abs(ours - theirs - level) / (SIGMA * np.sqrt(area))
    rows, columns = (np.clip(np.rint(a).astype(int), 0, size - 1) for a in (y, x))
    star = binary_dilation(stars[rows, columns], iterations=6)
    sky = difference[inner & ~star]
    return {
        "kernel": kernel, "peer": name, "WCS": "SIP" if distorted else "TAN", "grid / frame scale": step,
        "pixels": int(inner.sum()), "level / noise": f"{level / SIGMA:.1e}",
        "max on sky": f"{sky.max():.1e}", "99.9 % on sky": f"{np.percentile(sky, 99.9):.1e}",
        "max on stars": f"{difference[inner & star].max():.1e}",
        "within 1e-3": "yes" if sky.max() <= 1e-3 else "no",
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, sets=[])
    parser.add_argument("--size", type=int, default=400, help="side of the frame, px")
    parser.add_argument("--kernels", nargs="*", default=["nearest", "bilinear", "area", "lanczos3"])
    options = parser.parse_args()
    rows = []
    with scratch() as folder:
        for distorted in (False, True):
            for kernel in options.kernels:
                for step in (0.8, 1.0) if kernel != "area" else (1.0, 1.9):
                    rows.append(compare(folder, options.size, kernel, step, distorted=distorted))
    show("One frame's product against its peer, difference over the noise of a pixel", rows)


if __name__ == "__main__":
    main()
