"""Small pictures of images and maps, first row of the array at the bottom, as astronomers look at them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray


def asinh_png(data: NDArray[Any]) -> bytes:
    """Return a grey PNG of an image, stretched by `asinh_stretch`; NaN is black."""
    return _png(asinh_stretch(data))


def asinh_stretch(data: NDArray[Any]) -> NDArray[np.float32]:
    """Return an image from 0 to 1, asinh stretched from 2 sigma below the sky (Lupton et al. 1999).

    Parameters
    ----------
    data
        Image, shape ``(ny, nx)``; NaN becomes 0.
    """
    data = np.asarray(data, np.float32)
    finite = data[np.isfinite(data)]
    if finite.size == 0:
        finite = np.zeros(1, np.float32)
    sky = float(np.median(finite))
    sigma = max(1.4826 * float(np.median(np.abs(finite - sky))), 1e-12)
    top = max(float(np.percentile(finite, 99.8)), sky + 20 * sigma)
    stretched = np.arcsinh((np.nan_to_num(data, nan=sky - 2 * sigma) - sky + 2 * sigma) / (3 * sigma))
    whole = stretched / np.arcsinh((top - sky + 2 * sigma) / (3 * sigma))
    return np.asarray(np.clip(whole, 0, 1), np.float32)


def linear_png(data: NDArray[Any]) -> bytes:
    """Return a grey PNG of a map, linear from 0 (black) to its maximum (white)."""
    data = np.nan_to_num(np.asarray(data, np.float32))
    return _png(data / max(float(data.max()), 1e-12))


def _png(values: NDArray[Any]) -> bytes:
    from PIL import Image

    # Row 0 of a FITS image is its south edge, of a PNG the top.
    buffer = io.BytesIO()
    Image.fromarray((np.clip(values[::-1], 0, 1) * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def thinned(path: Path, extension: str, *, max_px: int = 1600) -> NDArray[np.float32]:
    """Return every n-th pixel of an image, at most ``max_px`` a side, without reading the others' rows."""
    with fits.open(path, memmap=True) as hdus:
        section = hdus[extension].section
        ny, nx = hdus[extension].shape
        step = max(1, -(-max(ny, nx) // max_px))
        rows = [np.asarray(section[y : y + 1, :], np.float32)[0, ::step] for y in range(0, ny, step)]
    return np.stack(rows)


def write_preview(product: Path, out: Path, *, max_px: int = 1600) -> Path:
    """Write a PNG of a product's ``SCI``, north up, at most ``max_px`` a side."""
    temporary = out.with_name(f".{out.name}.part")
    temporary.write_bytes(asinh_png(thinned(product, "SCI", max_px=max_px)))
    temporary.replace(out)
    return out
