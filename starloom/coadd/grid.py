"""The output grid: TAN, north up, east left; or one that is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.coadd.inputs import frame_wcs_cards, wcs_from_cards
from starloom.errors import BadInput

PIXELS_PER_FWHM = 2.5
"""Output sampling: just over Nyquist for a Gaussian, so that nothing is lost and little is stored."""


def choose_scale(fwhm_arcsec: Sequence[float], scale_arcsec: Sequence[float]) -> float:
    """Return the output scale (arcsec/px): median FWHM / 2.5, but never finer than the finest frame."""
    return float(f"{max(float(np.median(fwhm_arcsec)) / PIXELS_PER_FWHM, min(scale_arcsec)):.6g}")


def _check_size(nx: int, ny: int, max_pixels: int) -> None:
    if nx * ny > max_pixels:
        raise BadInput(
            f"the output grid would be {nx} x {ny} = {nx * ny / 1e6:.0f} Mpix, more than {max_pixels / 1e6:.0f}",
            code="grid-too-large",
            hint="Give a coarser scale or a target header, or raise max_pixels.",
        )


def tangent_grid(
    footprints: Sequence[NDArray[np.float64]], scale_arcsec: float, *, max_pixels: int
) -> dict[str, Any]:
    """Return the cards of a TAN grid, north up, that covers all footprints.

    Parameters
    ----------
    footprints
        Unit vectors on the frames' borders, each of shape ``(n, 3)``.

    Raises
    ------
    BadInput
        ``grid-too-large``; also when the footprints do not fit on one tangent plane.
    """
    points = np.concatenate(list(footprints))
    centre = points.sum(axis=0)
    centre /= np.linalg.norm(centre)
    if (points @ centre).min() < 0.2:
        raise BadInput(
            "the frames do not fit on one tangent plane",
            code="grid-too-large",
            hint="Stack the pointings on their own, or give the mission's target.",
        )
    dec = float(np.degrees(np.arcsin(np.clip(centre[2], -1, 1))))
    ra = float(np.degrees(np.arctan2(centre[1], centre[0])) % 360)
    cards: dict[str, Any] = {
        "WCSAXES": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRVAL1": ra, "CRVAL2": dec, "CRPIX1": 1.0, "CRPIX2": 1.0,
        "CD1_1": -scale_arcsec / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale_arcsec / 3600,
        "RADESYS": "ICRS",
    }  # fmt: skip
    lon = np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360
    lat = np.degrees(np.arcsin(np.clip(points[:, 2], -1, 1)))
    x, y = wcs_from_cards(cards).all_world2pix(lon, lat, 0)
    x0, y0 = np.floor(x.min()) - 1, np.floor(y.min()) - 1
    nx, ny = int(np.ceil(x.max()) - x0) + 2, int(np.ceil(y.max()) - y0) + 2
    _check_size(nx, ny, max_pixels)
    return cards | {"CRPIX1": 1.0 - x0, "CRPIX2": 1.0 - y0, "NAXIS1": nx, "NAXIS2": ny}


def border(cards: dict[str, Any], shape: tuple[int, int], n: int = 16) -> NDArray[np.float64]:
    """Return unit vectors along a frame's border, ``(4 n, 3)``: distorted edges bulge between the corners."""
    from starloom.coadd.group import unit_vectors

    ny, nx = shape
    t = np.linspace(0, 1, n, endpoint=False)
    x = np.concatenate([t, np.ones(n), 1 - t, np.zeros(n)]) * nx - 0.5
    y = np.concatenate([np.zeros(n), t, np.ones(n), 1 - t]) * ny - 0.5
    return unit_vectors(*wcs_from_cards(cards).all_pix2world(x, y, 0))


def read_target(path: Path, *, max_pixels: int) -> dict[str, Any]:
    """Read the output grid from a FITS file or a text header (one card a line, as Montage and SWarp write).

    Raises
    ------
    BadInput
        ``unreadable``, ``no-wcs``, or ``bad-target`` when NAXIS1 and NAXIS2 are missing.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(2880)
        if start.startswith(b"SIMPLE  =") and b"\n" not in start:
            from starloom.coadd.inputs import open_frame

            with open_frame(path) as frame:
                header = frame.header
                ny, nx = frame.shape
        else:
            header = fits.Header.fromtextfile(path)
            nx, ny = int(header.get("NAXIS1", 0)), int(header.get("NAXIS2", 0))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the target header {path} cannot be read: {error}", code="unreadable", hint="Check --target."
        ) from error
    if nx <= 0 or ny <= 0:
        raise BadInput(
            f"the target header {path} has no NAXIS1 and NAXIS2",
            code="bad-target",
            hint="Add the size of the output image.",
        )
    _check_size(nx, ny, max_pixels)
    return frame_wcs_cards(path, header) | {"NAXIS1": nx, "NAXIS2": ny}
