"""Stars and sky of a stack against the truth: flux bias and scatter, centroids, noise, outliers.

    python benchmarks/coadd_truth.py A12 MIX18 HARD15 [--scale 0.25] [--no-swarp] [--json]
    python benchmarks/coadd_truth.py MIX18 --images mean.fits other.fits

Ours and SWarp stack each set onto the same grid; every column is told with its bootstrap error (over stars, over
patches of the sky), and the last column names what is worse than SWarp's by more than twice the error of SWarp's.
The true flux of an aperture follows from each frame's own profile where its stars have wings (`HARD`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from astropy.wcs import WCS
from coadd_engines import Product, ours, read_image, read_ours, read_swarp, scratch, swarp
from coadd_render import gaussian_within, moffat_within, nebula, sky_offsets
from coadd_sets import DEC_DEG, NEBULA_BRIGHTNESS, RA_DEG, SkySet, arguments, find_set, local_fwhm
from peers import show

APERTURE_PX, ANNULUS_PX = 12.0, (16.0, 22.0)
BRIGHT, FAINT = 3e4, (3e3, 1e4)
_BOOTSTRAPS = 300
_STAR_MASK_PX = 15


def deviation(values) -> float:
    """Standard deviation by the median absolute one."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def central(shape: tuple[int, int]) -> tuple[slice, slice]:
    """The part of the grid that all frames of a set cover: check.py's, for any size of it."""
    ny, nx = shape
    return (
        slice(round(ny * 500 / 4400), round(ny * 3900 / 4400)),
        slice(round(nx * 900 / 6400), round(nx * 5500 / 6400)),
    )


def stars_on(product: Product, found: SkySet):
    """x, y, true flux and the share of it that an aperture less its annulus holds, of the measured stars."""
    truth = found.truth
    wcs = WCS(product.header, fix=False)
    x, y = wcs.all_world2pix(truth["ra"], truth["dec"], 0)
    rows, columns = central(product.sci.shape)
    inside = (x > columns.start) & (x < columns.stop) & (y > rows.start) & (y < rows.stop)
    measured = inside & (truth["kind"] == 0) & ~_beside_a_giant(x, y, truth["kind"])
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    share = _aperture_share(found, truth["ra"][measured], truth["dec"][measured], scale)
    return x[measured], y[measured], truth["flux"][measured], share, np.stack([x, y, truth["kind"]], axis=1)


def _beside_a_giant(x, y, kind):
    """Stars in the wings of a saturated star, or near a galaxy."""
    result = np.zeros(x.size, bool)
    for reach, which in ((120.0, 2), (75.0, 1)):
        for gx, gy in zip(x[kind == which], y[kind == which], strict=True):
            result |= np.hypot(x - gx, y - gy) < reach
    return result


def _aperture_share(found: SkySet, ra, dec, scale_arcsec: float):
    """Share of a star's flux in the aperture, less what the annulus takes off, in the weighted mean stack."""
    total, weights = np.zeros(ra.size), np.zeros(ra.size)
    for frame, path in zip(found.frames, found.paths(".fits"), strict=True):
        x, y = WCS(fits.getheader(path), fix=False).all_world2pix(ra, dec, 0, quiet=True)
        covered = (x > 2) & (y > 2) & (x < frame["nx"] - 3) & (y < frame["ny"] - 3)
        if frame["beta"] is None:
            fwhm = np.full(ra.size, frame["fwhm_px"] * frame["scale_arcsec"])
            inner, first, last = (gaussian_within(r * scale_arcsec, fwhm) for r in (APERTURE_PX, *ANNULUS_PX))
        else:
            fwhm = local_fwhm(frame, x, y)[0] * frame["scale_arcsec"]
            inner, first, last = (
                moffat_within(r * scale_arcsec, fwhm, frame["beta"]) for r in (APERTURE_PX, *ANNULUS_PX)
            )
        sky = (last - first) * APERTURE_PX**2 / (ANNULUS_PX[1] ** 2 - ANNULUS_PX[0] ** 2)
        variance = frame["sky"] / frame["gain"] + frame["read_noise"] ** 2
        weight = covered * frame["scale_arcsec"] ** 2 / (variance * frame["flux_scale"] ** 2)
        total += weight * (inner - sky)
        weights += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-30), np.nan)


def _sky(product: Product, objects) -> list[np.ndarray]:
    """Pixels away from all objects, in 48 patches, each without its own low-order level."""
    rows, columns = central(product.sci.shape)
    free = np.ones(product.sci.shape, bool)
    for x, y, kind in objects:
        reach = {0: _STAR_MASK_PX, 1: 35, 2: 150}[int(kind)]
        i, j = int(y), int(x)
        free[max(0, i - reach) : max(0, i + reach + 1), max(0, j - reach) : max(0, j + reach + 1)] = False
    free &= np.isfinite(product.sci)
    patches = []
    for some_rows in np.array_split(np.arange(rows.start, rows.stop), 6):
        for some in np.array_split(np.arange(columns.start, columns.stop), 8):
            cut = slice(some_rows[0], some_rows[-1] + 1), slice(some[0], some[-1] + 1)
            y, x = np.nonzero(free[cut])
            values = product.sci[cut][y, x].astype(np.float64)
            if values.size > 200:
                patches.append(values - _level(x / some.size, y / some_rows.size, values))
    return patches


def _level(x, y, values):
    """A quadratic surface through pixels: the sky that a stack may keep is none of its noise."""
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    keep = np.abs(values - np.median(values)) < 5 * deviation(values)
    return design @ np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]


def _true_nebula(product: Product):
    """What the nebula puts into each pixel of a stack: its curvature is not the stars' or the sky's error."""
    wcs = WCS(product.header, fix=False)
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    offsets = sky_offsets(wcs, product.sci.shape, (RA_DEG, DEC_DEG))
    return (scale**2 * nebula(NEBULA_BRIGHTNESS)(*offsets)).astype(np.float32)


def measure(product: Product, found: SkySet) -> dict[str, tuple[float, float]]:
    """Return every column with its bootstrap error."""
    if found.family == "hard":
        product = replace(product, sci=product.sci - _true_nebula(product))
    x, y, flux, share, objects = stars_on(product, found)
    data, bad = np.ascontiguousarray(product.sci), ~np.isfinite(product.sci)
    data = np.where(bad, np.float32(0), data)
    got, _, _ = sep.sum_circle(data, x, y, APERTURE_PX, mask=bad, bkgann=ANNULUS_PX, subpix=7)
    offset = 100 * (got / (flux * share) - 1)
    bright, faint = flux > BRIGHT, (flux > FAINT[0]) & (flux < FAINT[1])
    wx, wy, _ = sep.winpos(data, x[bright], y[bright], np.full(bright.sum(), 2.0))
    dx, dy = 1e3 * (wx - x[bright]), 1e3 * (wy - y[bright])
    rng = np.random.default_rng(1)
    result: dict[str, tuple[float, float]] = {}

    def column(name: str, statistic, *samples) -> None:
        n = len(samples[0])
        draws = [statistic(*(s[i] for s in samples)) for i in rng.integers(0, n, (_BOOTSTRAPS, n))]
        result[name] = (float(statistic(*samples)), float(np.std(draws)))

    column("bias bright %", np.median, offset[bright])
    column("scatter bright %", deviation, offset[bright])
    column("max bright %", lambda values: np.abs(values).max(), offset[bright])
    column("bias faint %", np.median, offset[faint])
    column("scatter faint %", deviation, offset[faint])
    column("dx mpx", np.median, dx)
    column("dy mpx", np.median, dy)
    column("rms centroid mpx", lambda a, b: np.hypot(deviation(a), deviation(b)), dx, dy)
    patches = _sky(product, objects)
    sizes = np.array([patch.size for patch in patches], float)
    sd = np.array([deviation(patch) for patch in patches])
    column("sky sd", lambda values, n: np.average(values, weights=n), sd, sizes)
    low, high = (np.array([np.percentile(patch, q) for patch in patches]) / sd for q in (0.01, 99.99))
    column("sky 0.01 % sd", np.median, low)
    column("sky 99.99 % sd", np.median, high)
    far = np.array([1e6 * np.mean(np.abs(patch) > 6 * s) for patch, s in zip(patches, sd, strict=True)])
    column("beyond 6 sd ppm", lambda values, n: np.average(values, weights=n), far, sizes)
    return result


def worse(mine: dict[str, tuple[float, float]], peer: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the columns that are further from nought than the peer's by over twice the peer's error."""
    return [name for name, (value, _) in mine.items() if abs(value) > abs(peer[name][0]) + 2 * peer[name][1]]


def row(product: Product, found: SkySet, peer: dict[str, tuple[float, float]] | None, measured) -> dict[str, Any]:
    cells = {name: f"{value:.4g} ± {error:.2g}" for name, (value, error) in measured.items()}
    behind = [] if peer is None else worse(measured, peer)
    verdict = "" if peer is None else (f"worse: {', '.join(behind)}" if behind else "not worse")
    return {"set": found.name, "stack": product.name, "unit": product.unit} | cells | {"against SWarp": verdict}


def main() -> None:
    parser = arguments(__doc__, sets=["MIX18"])
    parser.add_argument("--images", nargs="*", type=Path, help="judge these instead of stacking")
    parser.add_argument("--combine", nargs="*", default=["clipped", "mean"], help="of ours")
    parser.add_argument("--kernel", default="lanczos3", help="of ours")
    parser.add_argument("--no-swarp", action="store_true")
    parser.add_argument("--no-streaks", action="store_true", help="ours does not look for trails")
    parser.add_argument("--keep", type=Path, help="folder where the stacks stay; SWarp's is used again")
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        found = find_set(name, options.data, options.scale)
        with scratch() as temporary:
            folder = options.keep or temporary
            products, peer = [], None
            if not options.no_swarp:
                out = folder / f"{name}-{options.scale:g}-swarp.fits"
                if not out.with_suffix(".weight.fits").exists():
                    swarp(found.paths(), out, found.target)
                product = read_swarp(out, "SWarp, clipped")
                peer = measure(product, found)
                rows.append(row(product, found, None, peer))
            if options.images:
                products = [read_image(path) for path in options.images]
            else:
                for combine in options.combine:
                    out = folder / f"{name}-{combine}.fits"
                    ours(found, out, kernel=options.kernel, combine=combine, streaks=not options.no_streaks)
                    products.append(read_ours(out, found, f"starloom, {options.kernel}, {combine}"))
            for product in products:
                # A mean keeps every cosmic ray: its bias is of interest, its outliers are not SWarp's.
                judged = None if product.name.endswith("mean") else peer
                rows.append(row(product, found, judged, measure(product, found)))
    show("Stars and sky against the truth (0.01 % of a Gaussian lies beyond 3.72 sd)", rows)


if __name__ == "__main__":
    main()
