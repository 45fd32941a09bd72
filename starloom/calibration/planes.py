"""One colour plane of a mosaic as a FITS file of its own."""

from __future__ import annotations

from pathlib import Path

from astropy.io import fits

from starloom.astrometry.hints import header_wcs_cards
from starloom.calibration.mosaic import mosaic_layout, plane_origins, plane_wcs, split_bayer
from starloom.errors import BadInput
from starloom.frames import compress, read_frame

MOSAIC_CARDS = ("BAYERPAT", "COLORTYP", "XBAYROFF", "YBAYROFF", "CFAIMAGE")
PIXEL_SIZE_CARDS = ("XPIXSZ", "YPIXSZ", "PIXSIZE1", "PIXSIZE2", "SCALE", "PIXSCALE", "SECPIX1", "SECPIX2")


def plane_frame(source: Path, plane: str, out: Path) -> Path:
    """Write one colour plane of a mosaic file, compressed without loss, with a header that fits it.

    Parameters
    ----------
    source
        The mosaic.
    plane
        ``R``, ``G1``, ``G2`` or ``B``.
    out
        File to write, ``….fits.fz``. Its pixels are twice as large on the sky as the mosaic's.

    Raises
    ------
    BadInput
        ``bad-mosaic``: the header describes no mosaic after all.
    """
    data, header = read_frame(source)
    layout = mosaic_layout(header)
    if layout is None:
        raise BadInput(f"{source} is no colour mosaic", code="bad-mosaic", hint="Its header has no BAYERPAT.")
    pixels = split_bayer(data, layout.pattern, layout.row_order, layout.x_offset, layout.y_offset)[plane]
    solved = header_wcs_cards(header)
    if solved is not None:
        header.update(plane_wcs(solved, plane_origins(layout, data.shape)[plane]))
    for card in MOSAIC_CARDS:
        header.remove(card, ignore_missing=True)
    for card in PIXEL_SIZE_CARDS:
        if isinstance(header.get(card), int | float):
            header[card] = 2 * header[card]
    header["PLANE"] = (plane, "colour plane of a mosaic")
    plain = out.with_suffix(".plain")
    fits.PrimaryHDU(pixels, header).writeto(plain, overwrite=True)
    compress(plain, out)
    plain.unlink()
    return out
