"""A small asinh picture of a product, north up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits


def write_preview(product: Path, out: Path, *, max_px: int = 1600) -> Path:
    """Write a grey PNG of a product's ``SCI``, at most ``max_px`` a side (asinh stretch, Lupton et al. 1999)."""
    from PIL import Image

    with fits.open(product, memmap=True) as hdus:
        section = hdus["SCI"].section
        ny, nx = hdus["SCI"].shape
        step = max(1, -(-max(ny, nx) // max_px))
        rows = [np.asarray(section[y : y + 1, :], np.float32)[0, ::step] for y in range(0, ny, step)]
    # Row 0 of a FITS image is its south edge, of a PNG the top.
    data = np.stack(rows)[::-1]
    finite = data[np.isfinite(data)]
    if finite.size == 0:
        finite = np.zeros(1, np.float32)
    sky = float(np.median(finite))
    sigma = max(1.4826 * float(np.median(np.abs(finite - sky))), 1e-12)
    top = max(float(np.percentile(finite, 99.8)), sky + 20 * sigma)
    stretched = np.arcsinh((np.nan_to_num(data, nan=sky - 2 * sigma) - sky + 2 * sigma) / (3 * sigma))
    stretched /= np.arcsinh((top - sky + 2 * sigma) / (3 * sigma))
    picture = Image.fromarray((np.clip(stretched, 0, 1) * 255).astype(np.uint8))
    temporary = out.with_name(f".{out.name}.part")
    picture.save(temporary, format="PNG")
    temporary.replace(out)
    return out
