"""From a camera's file to the pixels of its sensor: overscan subtracted, trimmed, pedestal taken off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.errors import BadInput

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]", re.ASCII)
#: Columns of overscan from which each row's own level is taken; fewer are noisier than the drift they follow.
MIN_COLUMNS_PER_ROW = 16


@dataclass(frozen=True)
class SensorPixels:
    """Pixels of the light-sensitive area.

    Attributes
    ----------
    data
        As stored, trimmed, shape ``(ny, nx)``.
    level
        What is to be subtracted from each row (overscan and pedestal), ADU, shape ``(ny,)``.
    header
        Header that fits ``data``: section cards gone, the WCS and the mosaic's offset moved.
    overscan
        Whether ``level`` was measured, so that the camera's offset is off the pixels.
    """

    data: NDArray[Any]
    level: NDArray[np.float32]
    header: fits.Header
    overscan: bool

    @property
    def changed(self) -> bool:
        """Whether the pixels differ from the file's at all."""
        return self.overscan or bool(np.any(self.level))

    def subtracted(self) -> NDArray[np.float32]:
        """Return the pixels less ``level``, float32."""
        return self.data.astype(np.float32) - self.level[:, None]


def section(header: fits.Header, keyword: str, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Return a section card such as ``[1:2048,1:2048]`` as array slices; None where it is absent or senseless.

    Raises
    ------
    BadInput
        ``bad-section``: it lies outside the frame; trimming by guess would move every pixel.
    """
    match = _SECTION.fullmatch(str(header.get(keyword) or "").strip())
    if match is None:
        return None
    x0, x1, y0, y1 = (int(number) for number in match.groups())
    if not (1 <= x0 <= x1 <= shape[1] and 1 <= y0 <= y1 <= shape[0]):
        raise BadInput(
            f"{keyword} = {match[0]} lies outside a frame of {shape[1]} x {shape[0]} pixels",
            code="bad-section",
            hint="Correct the section cards in the capture program, or remove them.",
        )
    return slice(y0 - 1, y1), slice(x0 - 1, x1)


def sensor_pixels(data: NDArray[Any], header: fits.Header) -> SensorPixels:
    """Subtract the overscan and trim as ``BIASSEC`` and ``TRIMSEC`` say, and note the pedestal.

    Parameters
    ----------
    data, header
        As `starloom.frames.read_frame` returns them.

    Notes
    -----
    The overscan's level is the median over its columns, row by row where there are enough of them, else one level
    for the frame. ``PEDESTAL`` is what is to be added to get zero-based ADU (MaxIm: -100), so it goes into
    ``level`` with the other sign. A ``CALSTAT`` means that this was done before; then only the pedestal counts.

    Raises
    ------
    BadInput
        ``bad-section``.
    """
    header = header.copy()
    done = any(letter in str(header.get("CALSTAT") or "").upper() for letter in "BDF")
    strip = None if done else section(header, "BIASSEC", data.shape)
    keep = section(header, "TRIMSEC", data.shape) if strip is not None or not done else None
    level = np.zeros(data.shape[0], np.float32)
    if strip is not None:
        over = data[strip].astype(np.float32)
        # A strip beside the picture follows the rows; one above or below it has one level for all.
        beside = over.shape[0] > over.shape[1] and over.shape[1] >= MIN_COLUMNS_PER_ROW
        level[:] = np.median(over)
        if beside:
            level[strip[0]] = np.median(over, axis=1)
    if keep is not None and (keep[0].stop - keep[0].start, keep[1].stop - keep[1].start) != data.shape:
        data, level = data[keep], level[keep[0]]
        _shift(header, keep[1].start, keep[0].start)
    for card in ("BIASSEC", "TRIMSEC", "DATASEC", "CCDSEC"):
        header.remove(card, ignore_missing=True)
    pedestal = header.get("PEDESTAL")
    if isinstance(pedestal, int | float) and np.isfinite(pedestal):
        level -= np.float32(pedestal)
        header["PEDESTAL"] = 0
    header["NAXIS1"], header["NAXIS2"] = data.shape[1], data.shape[0]
    return SensorPixels(np.ascontiguousarray(data), level, header, strip is not None)


def _shift(header: fits.Header, x0: int, y0: int) -> None:
    """Move what counts from the first pixel: the reference pixel, the mosaic's pattern."""
    for card, shift in (("CRPIX1", x0), ("CRPIX2", y0)):
        if isinstance(header.get(card), int | float):
            header[card] = header[card] - shift
    if header.get("BAYERPAT"):
        for card, shift in (("XBAYROFF", x0), ("YBAYROFF", y0)):
            offset = header.get(card)
            if shift % 2:
                header[card] = (int(offset) if isinstance(offset, int | float) else 0) + shift % 2
