"""Does faint extended light survive: a disc of 10 arcmin at 1 % of the sky, a gradient in every frame.

    python benchmarks/coadd_disc.py [DISC3 DISC10] [--scale 0.5] [--no-swarp] [--json]

The disc's flux is the amplitude of its template, fitted together with a quadratic sky to the medians of 16x16
blocks without stars: a gradient that all frames have in common stays in the stack and is not the disc's. The goal
is 2 %. SWarp subtracts each frame's background (BACK_SIZE 128, as it comes, and 512) and with it the disc.
"""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS
from coadd_engines import Product, ours, read_ours, read_swarp, scratch, swarp
from coadd_render import disc, sky_offsets
from coadd_sets import DEC_DEG, DISC_BRIGHTNESS, DISC_RADIUS_ARCMIN, RA_DEG, SkySet, arguments, find_set
from coadd_truth import central
from peers import show

BLOCK_PX = 16
_STAR_MASK_PX = 15


def flux_kept(product: Product, found: SkySet, radius_arcmin: float) -> tuple[float, float]:
    """Return the disc's flux in a stack over the true one, and its standard error."""
    wcs = WCS(product.header, fix=False)
    truth = found.truth
    sci = product.sci.astype(np.float64)
    x, y = wcs.all_world2pix(truth["ra"], truth["dec"], 0)
    for i, j in zip(y.astype(int), x.astype(int), strict=True):
        rows, columns = (slice(max(0, k - _STAR_MASK_PX), max(0, k + _STAR_MASK_PX + 1)) for k in (i, j))
        sci[rows, columns] = np.nan
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    xi, eta = sky_offsets(wcs, sci.shape, (RA_DEG, DEC_DEG))
    template = disc(radius_arcmin, DISC_BRIGHTNESS)(xi, eta) * scale**2
    rows, columns = central(sci.shape)
    ny, nx = (s.stop - s.start - (s.stop - s.start) % BLOCK_PX for s in (rows, columns))

    def blocks(plane):
        cut = plane[rows.start : rows.start + ny, columns.start : columns.start + nx]
        return (
            cut.reshape(ny // BLOCK_PX, BLOCK_PX, nx // BLOCK_PX, BLOCK_PX).swapaxes(1, 2).reshape(-1, BLOCK_PX**2)
        )

    pixels = blocks(sci)
    enough = np.isfinite(pixels).mean(axis=1) > 0.4
    level, shape = np.nanmedian(pixels[enough], axis=1), blocks(template)[enough].mean(axis=1)
    u, v = (blocks(a)[enough].mean(axis=1) / 20 for a in (xi, eta))
    design = np.stack([shape, np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    keep = np.ones(level.size, bool)
    for _ in range(2):
        found_terms = np.linalg.lstsq(design[keep], level[keep], rcond=None)[0]
        rest = level - design @ found_terms
        sd = 1.4826 * np.median(np.abs(rest - np.median(rest)))
        keep = np.abs(rest) < 4 * sd
    error = np.sqrt(np.linalg.inv(design[keep].T @ design[keep])[0, 0]) * sd
    return float(found_terms[0]), float(error)


def main() -> None:
    parser = arguments(__doc__, sets=["DISC3", "DISC10"], scale=0.5)
    parser.add_argument("--kernel", default="lanczos3", help="of ours")
    parser.add_argument("--no-swarp", action="store_true")
    options = parser.parse_args()
    radius = DISC_RADIUS_ARCMIN * min(1.0, 2 * options.scale)
    rows = []
    for name in options.sets:
        found = find_set(name, options.data, options.scale)
        with scratch() as folder:
            products = []
            ours(found, folder / "ours.fits", kernel=options.kernel)
            products.append(read_ours(folder / "ours.fits", found, "starloom, clipped"))
            if not options.no_swarp:
                for size in (128, 512):
                    out = folder / f"swarp-{size}.fits"
                    swarp(found.paths(), out, found.target, back_size=size)
                    products.append(read_swarp(out, f"SWarp, BACK_SIZE {size}"))
            for product in products:
                kept, error = flux_kept(product, found, radius)
                rows.append({
                    "set": name, "stack": product.name, "disc": f"{2 * radius:g} arcmin, 1 % of the sky",
                    "flux kept %": f"{100 * kept:.2f} ± {100 * error:.2f}",
                    "within 2 %": "yes" if abs(kept - 1) <= 0.02 else "no",
                })  # fmt: skip
    show("A faint disc under gradients", rows)


if __name__ == "__main__":
    main()
