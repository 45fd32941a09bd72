"""Is the noise what the products say it is: block sums against the inputs, single pixels against WEIGHT.

    python benchmarks/coadd_noise.py A12 [--scale 0.5] [--kernels lanczos3 bilinear area] [--no-swarp] [--json]

Block sums
    Scatter of sums over 16x16 pixels of sky over what the input's noise propagates to. Resampling moves noise
    between neighbours, so single pixels are too smooth; a block keeps it but for what crosses its rim, which is
    taken into account (`rim_loss`). Goal 0.98 to 1.02.
Pixels
    Standard deviation of a pixel × sqrt(WEIGHT) over the published factor (NOISECOR). Goal within 2 % of 1.
    SWarp publishes none: 1 is taken.

Blocks hold no object; the sky's low orders, which ours keeps by design, are taken off by a cubic surface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from coadd_engines import Product, ours, read_ours, read_swarp, scratch, swarp
from coadd_sets import SkySet, arguments, find_set
from coadd_truth import central, deviation
from peers import show

BLOCK_PX = 16
_STAR_MASK_PX = 15


def kernel_values(kernel: str, distance):
    """The one-dimensional kernel at distances in frame pixels."""
    d = np.abs(distance)
    if kernel == "lanczos3":
        return np.where(d < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    if kernel == "bilinear":
        return np.maximum(1 - d, 0)
    raise ValueError(kernel)


def rim_loss(kernel: str, step: float) -> float:
    """Variance of a row of 16 resampled pixels over that of the frame pixels under it, mean of all phases.

    Parameters
    ----------
    step
        Frame pixels per output pixel.
    """
    phases = np.linspace(0, 1, 40, endpoint=False)
    source = np.arange(-8, int(BLOCK_PX * step) + 9)
    found = []
    for phase in phases:
        centres = phase + step * np.arange(BLOCK_PX)
        if kernel == "area":
            low, high = centres[:, None] - step / 2, centres[:, None] + step / 2
            shares = np.clip(np.minimum(source + 0.5, high) - np.maximum(source - 0.5, low), 0, None)
        else:
            shares = kernel_values(kernel, centres[:, None] - source)
            shares = step * shares / shares.sum(axis=1, keepdims=True)
        found.append((shares.sum(axis=0) ** 2).sum() / (BLOCK_PX * step))
    return float(np.mean(found))


def propagated(found: SkySet, product: Product, kernel: str, x, y):
    """Variance of a block's sum at its centre, units of zero point 25, and whether all frames cover it."""
    sky = WCS(product.header, fix=False).all_pix2world(x, y, 0)
    beside = [
        WCS(product.header, fix=False).all_pix2world(x + dx, y + dy, 0) for dx, dy in ((1.0, 0.0), (0.0, 1.0))
    ]
    total, weights = np.zeros(x.size), np.zeros(x.size)
    for frame, path in zip(found.frames, found.paths(".fits"), strict=True):
        wcs = WCS(fits.getheader(path), fix=False)
        (fx, fy), right, up = (wcs.all_world2pix(*place, 0, quiet=True) for place in (sky, *beside))
        area = np.abs((right[0] - fx) * (up[1] - fy) - (up[0] - fx) * (right[1] - fy))
        u, v = 2 * fx / (frame["nx"] - 1) - 1, 2 * fy / (frame["ny"] - 1) - 1
        level = frame["sky"] + frame["slopes"][0] * u + frame["slopes"][1] * v + frame["slopes"][2] / 2 * u * v
        rounding = 1 / 12
        variance = level / frame["gain"] + frame["read_noise"] ** 2 + rounding
        loss = rim_loss(kernel, float(np.sqrt(np.median(area)))) ** 2
        per_block = variance * frame["flux_scale"] ** 2 * area * BLOCK_PX**2 * loss
        mean = frame["sky"] / frame["gain"] + frame["read_noise"] ** 2
        weight = 1 / (mean * frame["flux_scale"] ** 2 / frame["scale_arcsec"] ** 2)
        margin = BLOCK_PX * np.sqrt(np.median(area))
        covered = (fx > margin) & (fy > margin) & (fx < frame["nx"] - margin) & (fy < frame["ny"] - margin)
        total += covered * weight**2 * per_block
        weights += covered * weight
    return total / np.maximum(weights, 1e-30) ** 2


def _free(product: Product, found: SkySet):
    truth = found.truth
    x, y = WCS(product.header, fix=False).all_world2pix(truth["ra"], truth["dec"], 0)
    free = np.ones(product.sci.shape, bool)
    for i, j in zip(y.astype(int), x.astype(int), strict=True):
        free[
            max(0, i - _STAR_MASK_PX) : max(0, i + _STAR_MASK_PX + 1),
            max(0, j - _STAR_MASK_PX) : max(0, j + _STAR_MASK_PX + 1),
        ] = False
    return free


def _residual(x, y, values, shape):
    """Values less a cubic surface, fitted twice, without outliers the second time."""
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    design = np.stack([u**i * v**j for i in range(4) for j in range(4 - i)], axis=1)
    keep = np.ones(values.size, bool)
    for _ in range(2):
        rest = values - design @ np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]
        keep = np.abs(rest) < 4 * deviation(rest)
    return rest


def measure(product: Product, found: SkySet, kernel: str) -> dict[str, Any]:
    """Return both figures with their standard errors."""
    free, (rows, columns) = _free(product, found), central(product.sci.shape)
    ys, xs = (np.arange(s.start // BLOCK_PX + 1, s.stop // BLOCK_PX) for s in (rows, columns))
    inner = np.s_[ys[0] * BLOCK_PX : (ys[-1] + 1) * BLOCK_PX, xs[0] * BLOCK_PX : (xs[-1] + 1) * BLOCK_PX]

    def blocks(plane):
        return plane[inner].reshape(ys.size, BLOCK_PX, xs.size, BLOCK_PX).swapaxes(1, 2)

    # SWarp's clipping leaves holes, 1.5 % of the pixels of four frames: their block's mean stands for them.
    whole = blocks(free).all(axis=(2, 3)) & (np.isfinite(blocks(product.sci)).mean(axis=(2, 3)) > 0.9)
    pixels, weight = (blocks(plane)[whole].astype(np.float64) for plane in (product.sci, product.weight))
    holes = ~np.isfinite(pixels)
    pixels = np.where(holes, np.nanmean(pixels, axis=(1, 2), keepdims=True), pixels)
    row, column = np.nonzero(whole)
    x, y = (xs[column] + 0.5) * BLOCK_PX - 0.5, (ys[row] + 0.5) * BLOCK_PX - 0.5
    expected = np.sqrt(propagated(found, product, kernel, x, y))
    sums = _residual(x, y, pixels.sum(axis=(1, 2)), product.sci.shape)
    ratio = deviation(sums / expected)
    # Within a block the mean is its own: 255 of 256 degrees of freedom, less for correlated pixels.
    within = pixels - pixels.mean(axis=(1, 2), keepdims=True)
    own = deviation((within * np.sqrt(weight))[~holes]) / product.noise_factor
    published = BLOCK_PX / np.sqrt(np.median(weight, axis=(1, 2)))
    n = sums.size
    return {
        "blocks": n,
        "block sums / propagated": f"{ratio:.4f} ± {1.17 * ratio / np.sqrt(2 * n):.4f}",
        "block sums / WEIGHT": f"{deviation(sums / published):.4f}",
        "pixel sd × √WEIGHT": round(own * product.noise_factor, 4),
        "factor published": round(product.noise_factor, 4),
        "pixels / published": round(own, 4),
        "in goals": "yes" if 0.98 <= ratio <= 1.02 and 0.98 <= own <= 1.02 else "no",
    }


def main() -> None:
    parser = arguments(__doc__, sets=["A12"])
    parser.add_argument("--kernels", nargs="*", default=["lanczos3", "bilinear", "area"])
    parser.add_argument("--combine", nargs="*", default=["clipped"])
    parser.add_argument("--no-swarp", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        found = find_set(name, options.data, options.scale)
        with scratch() as folder:
            for kernel in options.kernels:
                for combine in options.combine:
                    out = folder / "ours.fits"
                    ours(found, out, kernel=kernel, combine=combine)
                    product = read_ours(out, found, f"starloom, {kernel}, {combine}")
                    rows.append({"set": name, "stack": product.name} | measure(product, found, kernel))
                if kernel in ("lanczos3", "bilinear") and not options.no_swarp:
                    out = folder / "swarp.fits"
                    swarp(found.paths(), out, found.target, kernel=kernel.upper())
                    product = read_swarp(out, f"SWarp, {kernel}, clipped")
                    rows.append({"set": name, "stack": product.name} | measure(product, found, kernel))
    show("Noise of the products against the inputs' and against what they publish", rows)


if __name__ == "__main__":
    main()
