"""A night's frames as files: names by the network's grammar, lossless compression, dithered pointings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.sky.field import offset_position
from starloom.sky.render import FrameTruth, Rendered


@dataclass(frozen=True)
class Exposure:
    """One frame of a night: the file, and what was rendered into it."""

    path: Path
    truth: FrameTruth


def frame_name(mission: str, node: str, start: datetime) -> str:
    """Return the network's name of a compressed frame: ``ObsReq-{id}_TelID-{node}_{start}.fits.fz``."""
    return f"ObsReq-{mission}_TelID-{node}_{start:%Y%m%dT%H%M%S}.fits.fz"


def dithers(ra_deg: float, dec_deg: float, n: int, radius_deg: float, *, seed: int) -> list[tuple[float, float]]:
    """Return ``n`` pointings scattered within ``radius_deg`` of a target, degrees."""
    rng = np.random.default_rng(seed)
    ra, dec = offset_position(ra_deg, dec_deg, radius_deg * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n))
    return [(float(a), float(d)) for a, d in zip(ra, dec, strict=True)]


def write_frame(path: Path, frame: Rendered) -> Exposure:
    """Write a rendered frame, compressed without loss and with checksums.

    Integers are RICE_1; floats are GZIP_2 without quantisation, because RICE would round their noise.
    """
    write_compressed(path, frame.image, frame.header)
    return Exposure(path, frame.truth)


def write_compressed(
    path: Path, image: NDArray[Any], header: fits.Header, *, compression: str | None = None
) -> None:
    """Write an image as a lossless tile-compressed FITS file with checksums; ``None`` chooses by pixel type."""
    if compression is None:
        compression = "GZIP_2" if image.dtype.kind == "f" else "RICE_1"
    hdu = fits.CompImageHDU(image, header, compression_type=compression, quantize_level=0.0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, checksum=True, overwrite=True)
