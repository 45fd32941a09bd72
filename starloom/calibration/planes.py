"""One colour plane of a mosaic as a FITS file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from starloom.astrometry.hints import header_wcs_cards
from starloom.calibration.calibrated_file import Planes, read_planes, write_planes
from starloom.calibration.mosaic import MosaicLayout, mosaic_layout, plane_origins, plane_wcs, split_bayer
from starloom.errors import BadInput

MOSAIC_CARDS = ("BAYERPAT", "COLORTYP", "XBAYROFF", "YBAYROFF", "CFAIMAGE")
PIXEL_SIZE_CARDS = ("XPIXSZ", "YPIXSZ", "PIXSIZE1", "PIXSIZE2", "SCALE", "PIXSCALE", "SECPIX1", "SECPIX2")


def plane_frame(source: Path, plane: str, out: Path) -> Path:
    """Write one colour plane of a mosaic file, with its mask and variance and a header that fits it.

    Parameters
    ----------
    source
        The mosaic, raw or calibrated.
    plane
        ``R``, ``G1``, ``G2`` or ``B``.
    out
        File to write, ``….fits.fz``: integers without loss, calibrated floats as `write_planes` does. Its pixels
        are twice as large on the sky as the mosaic's.

    Raises
    ------
    BadInput
        ``bad-mosaic``: the header describes no mosaic after all.
    """
    whole = read_planes(source)
    header = whole.header
    layout = mosaic_layout(header)
    if layout is None:
        raise BadInput(f"{source} is no colour mosaic", code="bad-mosaic", hint="Its header has no BAYERPAT.")
    solved = header_wcs_cards(header)
    if solved is not None:
        header.update(plane_wcs(solved, plane_origins(layout, whole.data.shape)[plane]))
    for card in MOSAIC_CARDS:
        header.remove(card, ignore_missing=True)
    for card in PIXEL_SIZE_CARDS:
        if isinstance(header.get(card), int | float):
            header[card] = 2 * header[card]
    header["PLANE"] = (plane, "colour plane of a mosaic")
    cut = Planes(
        _cut(whole.data, layout, plane),
        header,
        None if whole.mask is None else _cut(whole.mask, layout, plane),
        None if whole.variance is None else _cut(whole.variance, layout, plane),
    )
    header["NAXIS1"], header["NAXIS2"] = cut.data.shape[1], cut.data.shape[0]
    return write_planes(cut, out)


def _cut(data: NDArray[Any], layout: MosaicLayout, plane: str) -> NDArray[Any]:
    return split_bayer(data, layout.pattern, layout.row_order, layout.x_offset, layout.y_offset)[plane]
