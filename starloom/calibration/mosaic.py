"""Bayer mosaics: which pixel has which colour, the planes they make, and the WCS of each plane.

A mosaic never enters a resampling kernel: its neighbours are of different colours. It becomes four planes of half
the size, red, two greens and blue, each with a WCS of its own, exact to the half pixel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.errors import BadInput

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
PLANES = ("R", "G1", "G2", "B")


@dataclass(frozen=True)
class MosaicLayout:
    """Where the colours of a mosaic lie.

    Parameters
    ----------
    pattern
        The four colours of the cell at the picture's top left, row by row, e.g. ``"RGGB"``.
    row_order
        ``"TOP-DOWN"``: the first row of the array is the top of the picture; ``"BOTTOM-UP"``: the last one is.
    x_offset, y_offset
        ``XBAYROFF`` and ``YBAYROFF``: how far the first pixel lies within the pattern.
    """

    pattern: str
    row_order: str = "TOP-DOWN"
    x_offset: int = 0
    y_offset: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise BadInput(
                f"no such colour mosaic: {self.pattern!r}",
                code="bad-mosaic",
                hint=f"BAYERPAT is one of {', '.join(PATTERNS)}.",
            )
        if self.row_order not in ("TOP-DOWN", "BOTTOM-UP"):
            raise BadInput(
                f"no such order of rows: {self.row_order!r}",
                code="bad-mosaic",
                hint="ROWORDER is TOP-DOWN or BOTTOM-UP.",
            )


def mosaic_layout(header: fits.Header) -> MosaicLayout | None:
    """Return the mosaic a header describes, None for a monochrome frame.

    Raises
    ------
    BadInput
        ``bad-mosaic``: it names a mosaic that does not exist (X-Trans, CMYG).

    Notes
    -----
    Without ``ROWORDER`` the pattern is taken to start at the first row of the array, as capture programs that do
    not write the keyword mean it.
    """
    named = next((str(header[k]).strip().upper() for k in ("BAYERPAT", "COLORTYP") if _said(header, k)), "")
    if named in ("", "NONE", "MONO", "MONOCHROME", "LUMINANCE", "RGB", "GRAY", "GREY"):
        return None
    order = str(header.get("ROWORDER") or "TOP-DOWN").strip().upper().replace("_", "-").replace(" ", "-")
    return MosaicLayout(
        named,
        "BOTTOM-UP" if order == "BOTTOM-UP" else "TOP-DOWN",
        _whole(header.get("XBAYROFF")),
        _whole(header.get("YBAYROFF")),
    )


def plane_origins(layout: MosaicLayout, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Return the 0-based ``(x, y)`` of the first pixel of each plane: ``R``, ``G1``, ``G2``, ``B``.

    ``G1`` shares its rows with red and ``G2`` with blue.
    """
    ny = shape[0]
    origins: dict[str, tuple[int, int]] = {}
    cell = [[_colour(layout, x, y, ny) for x in (0, 1)] for y in (0, 1)]
    for y in (0, 1):
        for x in (0, 1):
            colour = cell[y][x]
            origins[colour if colour != "G" else ("G1" if "R" in cell[y] else "G2")] = (x, y)
    return {name: origins[name] for name in PLANES}


def split_bayer(
    data: NDArray[Any],
    pattern: str,
    row_order: str = "TOP-DOWN",
    x_offset: int = 0,
    y_offset: int = 0,
) -> dict[str, NDArray[Any]]:
    """Split a mosaic into its four planes, without interpolating anything.

    Parameters
    ----------
    data
        Mosaic, shape ``(ny, nx)``.
    pattern, row_order, x_offset, y_offset
        See `MosaicLayout`.

    Returns
    -------
    dict
        ``R``, ``G1``, ``G2``, ``B``, each of shape ``(ny // 2, nx // 2)`` and of the mosaic's type; an odd last
        row or column is left out. The greens stay apart, because their pixels lie at different places.

    Raises
    ------
    BadInput
        ``bad-mosaic``: no such pattern or order, or an array that is no mosaic.
    """
    if data.ndim != 2 or min(data.shape) < 2:
        raise BadInput(
            f"an array of shape {data.shape} is no mosaic", code="bad-mosaic", hint="Give one 2-D frame."
        )
    layout = MosaicLayout(pattern, row_order, x_offset, y_offset)
    ny, nx = data.shape[0] // 2, data.shape[1] // 2
    return {
        name: np.ascontiguousarray(data[y::2, x::2][:ny, :nx])
        for name, (x, y) in plane_origins(layout, data.shape).items()
    }


def plane_wcs(cards: dict[str, Any], plane_origin: tuple[int, int]) -> dict[str, Any]:
    """Return the WCS cards of one plane of a mosaic.

    Pixel ``i`` of a plane lies at pixel ``2 i + d`` of the mosaic (both 0-based), so
    ``CRPIX' = (CRPIX - d + 1) / 2``, the CD matrix doubles, and a SIP term of total power n grows by 2^(n-1).

    Parameters
    ----------
    cards
        WCS of the mosaic: TAN, TAN-SIP or TPV.
    plane_origin
        ``(x, y)`` of the plane's first pixel, see `plane_origins`.
    """
    return resampled_cards(cards, 2.0, float(plane_origin[0]), float(plane_origin[1]))


def resampled_cards(cards: dict[str, Any], step: float, origin_x: float, origin_y: float) -> dict[str, Any]:
    """Return the WCS of a grid whose 0-based pixel ``i`` lies at ``step * i + origin`` of the old one.

    Exact, distortions included: a Bayer plane is ``step=2`` and the plane's offset, a binned frame ``step=2`` and
    ``origin=0.5``, and back again ``step=0.5``, ``origin=-0.25``.
    """
    out: dict[str, Any] = dict(cards)
    for axis, origin in (("1", origin_x), ("2", origin_y)):
        if f"CRPIX{axis}" in cards:
            out[f"CRPIX{axis}"] = (float(cards[f"CRPIX{axis}"]) - 1.0 - origin) / step + 1.0
    linear = re.compile(r"CD[12]_[12]|CDELT[12]")
    if not any(linear.fullmatch(key) for key in cards):
        # A bare PC matrix has CDELT = 1 by default, so the scale must become explicit.
        out |= {"CDELT1": 1.0, "CDELT2": 1.0}
    for key in list(out):
        if linear.fullmatch(key):
            out[key] = float(out[key]) * step
        elif sip := re.fullmatch(r"(?:A|B|AP|BP)_(\d)_(\d)", key):
            out[key] = float(out[key]) * step ** (int(sip[1]) + int(sip[2]) - 1)
        elif re.fullmatch(r"[AB]_DMAX", key):
            out[key] = float(out[key]) / step
    return out


def superpixels(data: NDArray[Any], saturation_adu: float | None = None) -> NDArray[np.float32]:
    """Return the mean of every 2×2 cell, shape ``(ny // 2, nx // 2)``, float32, for detection.

    Every cell holds one of each colour whatever the pattern, so the mean is smooth where the mosaic is not. Pixel
    ``i`` of the result is centred at ``2 i + 0.5`` of the mosaic. A cell with a saturated pixel is saturated.
    """
    ny, nx = data.shape[0] // 2, data.shape[1] // 2
    corners = [data[y::2, x::2][:ny, :nx] for y in (0, 1) for x in (0, 1)]
    mean = np.zeros((ny, nx), np.float32)
    for corner in corners:
        mean += np.float32(0.25) * corner.astype(np.float32)
    if saturation_adu is not None:
        for corner in corners:
            mean[corner >= saturation_adu] = saturation_adu
    return mean


def calibration_state(calstat: str | None) -> tuple[bool, list[str]]:
    """Read ``CALSTAT``: the letters B, D and F for bias, dark and flat.

    Returns
    -------
    calibrated
        Whether anybody calibrated the frame already; then it must not be done again.
    flags
        ``uncalibrated``, or ``no-dark``, ``no-flat`` for what is missing; empty for a fully calibrated frame.
    """
    done = {letter for letter in (calstat or "").upper() if letter in "BDF"}
    if not done:
        return False, ["uncalibrated"]
    flags = []
    # A dark that is not bias-subtracted contains the bias, so D alone covers both.
    if "D" not in done:
        flags.append("no-dark")
    if "F" not in done:
        flags.append("no-flat")
    return True, flags


def _colour(layout: MosaicLayout, x: int, y: int, ny: int) -> str:
    from_top = y if layout.row_order == "TOP-DOWN" else ny - 1 - y
    return layout.pattern[2 * ((from_top + layout.y_offset) % 2) + (x + layout.x_offset) % 2]


def _said(header: fits.Header, keyword: str) -> bool:
    return isinstance(header.get(keyword), str) and bool(str(header[keyword]).strip())


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and np.isfinite(value) else 0
