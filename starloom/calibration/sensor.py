"""From a camera's file to the pixels of its sensor: overscan subtracted, trimmed, pedestal taken off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.calibration.mosaic import mosaic_layout
from starloom.calibration.noise import spread

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]", re.ASCII)
#: Columns of overscan from which each row's own level is taken; fewer are noisier than the drift they follow.
MIN_COLUMNS_PER_ROW = 16
#: Flag of a frame whose section cards cannot be true; it is taken whole.
BAD_SECTION = "bad-section"
SECTION_CARDS = ("BIASSEC", "TRIMSEC", "DATASEC", "CCDSEC")

Section = tuple[slice, slice]


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
        Header that fits ``data`` once ``level`` is off: section cards gone, the WCS and the mosaic's offset moved,
        ``PEDESTAL`` 0.
    overscan
        Whether ``level`` was measured, so that the camera's offset is off the pixels.
    flags
        `BAD_SECTION` where the section cards contradict the frame or each other.
    """

    data: NDArray[Any]
    level: NDArray[np.float32]
    header: fits.Header
    overscan: bool
    flags: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the pixels differ from the file's at all."""
        return self.overscan or bool(np.any(self.level))

    def subtracted(self) -> NDArray[np.float32]:
        """Return the pixels less ``level``, float32."""
        return self.data.astype(np.float32) - self.level[:, None]


def section(header: fits.Header, keyword: str) -> Section | None:
    """Return a section card such as ``[1:2048,1:2048]`` as array slices; None where there is none."""
    match = _SECTION.fullmatch(str(header.get(keyword) or "").strip())
    if match is None:
        return None
    x0, x1, y0, y1 = (int(number) for number in match.groups())
    return slice(y0 - 1, y1), slice(x0 - 1, x1)


def sections(header: fits.Header, shape: tuple[int, ...]) -> tuple[Section | None, Section | None, bool]:
    """Return overscan and light-sensitive area as the header says, and whether it can be believed.

    Returns
    -------
    overscan, trimmed : tuple of slice or None
        ``BIASSEC``, and ``TRIMSEC`` or else ``DATASEC``; None where the header does not say.
    honest
        False: a section lies outside the frame (those of a binned frame are often those of the whole sensor), is
        empty, or the overscan has light in it. Then both are None: trimming by guess would move every pixel.
    """
    strip = section(header, "BIASSEC")
    keep = section(header, "TRIMSEC") or section(header, "DATASEC")
    for part in (strip, keep):
        if part is not None and not all(
            0 <= side.start < side.stop <= size for side, size in zip(part, shape, strict=True)
        ):
            return None, None, False
    if strip is not None and keep is not None:
        apart = any(a.stop <= b.start or b.stop <= a.start for a, b in zip(strip, keep, strict=True))
        if not apart:
            return None, None, False
    if strip is not None and keep is None:
        # An overscan of the whole frame, or of its middle, is none.
        edge = any(side.start == 0 or side.stop == size for side, size in zip(strip, shape, strict=True))
        small = (strip[0].stop - strip[0].start) * (strip[1].stop - strip[1].start) < 0.5 * shape[0] * shape[1]
        if not (edge and small):
            return None, None, False
    return strip, keep, True


def is_cut(header: fits.Header, shape: tuple[int, ...]) -> bool:
    """Tell whether `sensor_pixels` would take an overscan off or trim, by the header alone."""
    strip, keep, _ = _wanted(header, shape)
    return strip is not None or (keep is not None and _size(keep) != tuple(shape))


def trimmed_shape(header: fits.Header, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that `sensor_pixels` leaves of a frame, by the header alone."""
    _, keep, _ = _wanted(header, shape)
    return tuple(shape) if keep is None else _size(keep)


def _wanted(header: fits.Header, shape: tuple[int, ...]) -> tuple[Section | None, Section | None, bool]:
    """Return the sections that are still to be acted upon: a CALSTAT says that it was done before."""
    if any(letter in str(header.get("CALSTAT") or "").upper() for letter in "BDF"):
        return None, None, True
    return sections(header, shape)


def _size(part: Section) -> tuple[int, int]:
    return part[0].stop - part[0].start, part[1].stop - part[1].start


def sensor_pixels(data: NDArray[Any], header: fits.Header) -> SensorPixels:
    """Subtract the overscan and trim as ``BIASSEC`` and ``TRIMSEC`` say, and note the pedestal.

    Parameters
    ----------
    data, header
        As `starloom.frames.read_frame` returns them.

    Notes
    -----
    The overscan's level is the clipped mean over its columns, row by row where there are enough of them, else one
    level for the frame. ``PEDESTAL`` is what is to be added to get zero-based ADU (MaxIm: -100), so it goes into
    ``level`` with the other sign. A ``CALSTAT`` means that overscan and trimming were done before; then only the
    pedestal counts. Cards that cannot be true are not acted upon, and flagged.
    """
    header = header.copy()
    strip, keep, honest = _wanted(header, data.shape)
    level = np.zeros(data.shape[0], np.float32)
    if strip is not None:
        over = data[strip].astype(np.float32)
        # A strip beside the picture follows the rows; one above or below it has one level for all.
        beside = over.shape[0] > over.shape[1] and over.shape[1] >= MIN_COLUMNS_PER_ROW
        level[:] = _clipped_means(over.reshape(1, -1))
        if beside:
            level[strip[0]] = _clipped_means(over)
    if keep is not None and _size(keep) != data.shape:
        _shift(header, keep, data.shape)
        data, level = data[keep], level[keep[0]]
    for card in SECTION_CARDS:
        header.remove(card, ignore_missing=True)
    pedestal = header.get("PEDESTAL")
    if isinstance(pedestal, int | float) and np.isfinite(pedestal):
        level -= np.float32(pedestal)
        header["PEDESTAL"] = 0
    header["NAXIS1"], header["NAXIS2"] = data.shape[1], data.shape[0]
    flags = () if honest else (BAD_SECTION,)
    return SensorPixels(np.ascontiguousarray(data), level, header, strip is not None, flags)


def _clipped_means(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row's mean, cosmic rays left out; a median would come in steps of whole ADU."""
    centre = np.median(rows, axis=1, keepdims=True)
    reach = 4 * max(spread((rows - centre).ravel()), 0.5)
    near = np.abs(rows - centre) <= reach
    return np.asarray(np.sum(np.where(near, rows, 0), axis=1) / np.maximum(near.sum(axis=1), 1), np.float32)


def _shift(header: fits.Header, keep: Section, shape: tuple[int, ...]) -> None:
    """Move what counts from the first pixel: the reference pixel, the mosaic's pattern."""
    x0, y0 = keep[1].start, keep[0].start
    for card, shift in (("CRPIX1", x0), ("CRPIX2", y0)):
        if isinstance(header.get(card), int | float):
            header[card] = header[card] - shift
    layout = mosaic_layout(header)
    if layout is not None:
        # The pattern counts from the picture's top, which may be the array's last row.
        rows_off = shape[0] - keep[0].stop if layout.row_order == "BOTTOM-UP" else y0
        header["XBAYROFF"] = (layout.x_offset + x0) % 2
        header["YBAYROFF"] = (layout.y_offset + rows_off) % 2
