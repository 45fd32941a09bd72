"""The output grid: TAN, north up, east left; or one that is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.io import fits
from astropy.wcs import WCS

from starloom.coadd.celestial import sky_vectors
from starloom.coadd.group import footprint
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
    frames: Sequence[tuple[WCS, tuple[int, int]]], scale_arcsec: float, *, max_pixels: int
) -> dict[str, Any]:
    """Return the cards of a TAN grid, north up, that covers all frames.

    Parameters
    ----------
    frames
        WCS and shape (ny, nx) of each frame.

    Raises
    ------
    BadInput
        ``grid-too-large``; also when the frames do not fit on one tangent plane.
    """
    from reproject.mosaicking import find_optimal_celestial_wcs

    corners = np.concatenate([footprint(wcs, shape) for wcs, shape in frames])
    centre = corners.sum(axis=0)
    if (corners @ centre).min() < 0.2 * np.linalg.norm(centre):
        raise BadInput(
            "the frames do not fit on one tangent plane",
            code="grid-too-large",
            hint="Stack the pointings on their own, or give the mission's target.",
        )
    # It samples the edges and not only the corners: distorted edges bulge between them.
    inputs = [(shape, wcs) for wcs, shape in frames]
    found, (ny, nx) = find_optimal_celestial_wcs(inputs, frame=ICRS(), resolution=scale_arcsec * u.arcsec)
    _check_size(nx, ny, max_pixels)
    return {
        "WCSAXES": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRVAL1": float(found.wcs.crval[0]) % 360, "CRVAL2": float(found.wcs.crval[1]),
        "CRPIX1": float(found.wcs.crpix[0]), "CRPIX2": float(found.wcs.crpix[1]),
        "CD1_1": -scale_arcsec / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale_arcsec / 3600,
        "RADESYS": "ICRS", "NAXIS1": nx, "NAXIS2": ny,
    }  # fmt: skip


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


def extent(grid: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Return where a product lies on the sky, safe for JSON: centre and corners (ICRS) and field of view, degrees.

    The field of view is that of the circle around the product, as ObsCore has it.
    """
    ny, nx = shape
    wcs = wcs_from_cards(grid)
    corners = footprint(grid, shape)
    centre = sky_vectors(wcs, (nx - 1) / 2, (ny - 1) / 2)
    radius = float(np.degrees(np.arccos(np.clip(corners @ centre, -1, 1)).max()))
    places = np.vstack([centre, corners])
    ra = np.degrees(np.arctan2(places[:, 1], places[:, 0])) % 360
    dec = np.degrees(np.arcsin(np.clip(places[:, 2], -1, 1)))
    return {
        "ra_deg": float(ra[0]),
        "dec_deg": float(dec[0]),
        "fov_deg": 2 * radius,
        "footprint": [[float(a), float(d)] for a, d in zip(ra[1:], dec[1:], strict=True)],
    }
