"""An open frame: rows and columns of its image and mask, as many as are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.layout import Bytes, Hdu, damaged, find_planes
from starloom.coadd.pixels.mapping import file_bytes
from starloom.coadd.pixels.plain import PlainPlane
from starloom.coadd.pixels.table import TileTable
from starloom.coadd.pixels.tiled import RicePlane, SectionPlane, TilesOneByOne
from starloom.errors import BadInput

_PACKED = (".fz", ".gz", ".fits", ".fit", ".fts")
_COMPANIONS = (".mask.fits", ".mask.fits.fz", ".mask.fits.gz", ".mask.fz")


class Plane(Protocol):
    """One image of a file."""

    def read(
        self,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
        stride: int,
    ) -> bool:
        """Read as `FrameSource.read` does, into a flat ``out`` of ``stride`` pixels a row, with checked limits."""


def _open_plane(data: Bytes, hdu: Hdu, checkpoint_px: int) -> Plane:
    if not hdu.compressed:
        return PlainPlane(data, hdu)
    table = TileTable(data, hdu)
    if table.algorithm == "RICE_1":
        return RicePlane(data, table, checkpoint_px)
    if table.algorithm in ("GZIP_1", "GZIP_2", "NOCOMPRESS"):
        return TilesOneByOne(data, table)
    if table.algorithm in ("HCOMPRESS_1", "PLIO_1"):
        return SectionPlane(hdu)
    raise damaged(hdu.path, f"ZCMPTYPE = {table.algorithm!r}")


BAD_PIXEL, SATURATED_PIXEL = 1, 2
"""What a frame's mask can say of a pixel: not to be used, or at least as bright as it reads."""


class FrameSource:
    """A frame open for random access; made by `open_source`.

    Attributes
    ----------
    shape
        ``(ny, nx)``, pixels.
    has_mask
        Whether the file has an extension ``MASK`` of the image's shape, or a mask lies beside it.

    Notes
    -----
    A RICE_1 frame keeps 8 bytes for every ``checkpoint_px`` pixels parsed so far; nothing else grows. All methods
    may be called from several threads at once. No file descriptor stays open.
    """

    def __init__(
        self, shape: tuple[int, int], image: Plane, mask: Plane | None, saturated_value: int | None = None
    ) -> None:
        self.shape = shape
        self.has_mask = mask is not None
        self._image: Plane | None = image
        self._mask, self._saturated_value = mask, saturated_value

    def read(
        self, y0: int, lo: NDArray[np.int32], hi: NDArray[np.int32], x0: int, out: NDArray[np.float32]
    ) -> bool:
        """Read pixels ``lo[i]:hi[i]`` of rows ``y0 + i`` in ADU; the cost follows the pixels asked for.

        Parameters
        ----------
        y0
            First row.
        lo, hi
            Columns of each row, shape ``(n,)``; ``lo[i] >= hi[i]``: nothing of it.
        x0
            Column of the frame that ``out[:, 0]`` is.
        out
            Float32, shape ``(>= n, m)``, rows contiguous: pixels go to ``out[i, lo[i] - x0 : hi[i] - x0]``; the
            rest is not touched. BLANK and NaN become NaN.

        Returns
        -------
        bool
            False: all pixels read are finite. True: some may not be.

        Raises
        ------
        BadInput
            ``unreadable``: the file is damaged there.
        ValueError
            The limits lie outside the frame or ``out``, or the source is closed.
        """
        if self._image is None:
            raise ValueError("the source is closed")
        return self._read(self._image, y0, lo, hi, x0, out)

    def _read(
        self,
        plane: Plane,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
    ) -> bool:
        lo, hi = np.ascontiguousarray(lo, np.int32), np.ascontiguousarray(hi, np.int32)
        some = lo < hi
        if not some.any():
            return False
        ny, nx = self.shape
        if out.dtype != np.float32 or out.ndim != 2 or out.strides[1] != 4 or not out.flags.writeable:
            raise ValueError("out must be a writeable float32 array of two axes with contiguous rows")
        if lo.shape != hi.shape or lo.ndim != 1 or lo.size > out.shape[0] or not 0 <= y0 <= ny - lo.size:
            raise ValueError(f"rows {y0}:{y0 + lo.size} are not inside the frame's {ny} or out's {out.shape[0]}")
        # The native code that follows checks no limits.
        left, right = int(lo.min(where=some, initial=nx)), int(hi.max(where=some, initial=0))
        if left < max(0, x0) or right > min(nx, x0 + out.shape[1]):
            raise ValueError(
                f"columns {left}:{right} are not inside the frame's {nx} or out's {x0} + {out.shape[1]}"
            )
        stride = out.strides[0] // 4
        if out.flags.c_contiguous:
            flat = out.reshape(-1)
        else:
            # One flat array for any view: the loops are compiled once, and for contiguous memory.
            size = (lo.size - 1) * stride + out.shape[1]
            flat = np.lib.stride_tricks.as_strided(out, (size,), (4,))
        return plane.read(int(y0), lo, hi, int(x0), flat, stride)

    def mask(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8] | None:
        """Return what the mask says of rows ``y0:y1``, columns ``x0:x1``; None: there is none.

        Returns
        -------
        ndarray
            0: good; `SATURATED_PIXEL`: saturated and no worse; `BAD_PIXEL`: anything else.
        """
        if self._mask is None:
            return None
        values = np.zeros((y1 - y0, x1 - x0), np.float32)
        rows = np.ones(y1 - y0, np.int32)
        self._read(self._mask, y0, rows * x0, rows * x1, x0, values)
        said = np.not_equal(values, 0).view(np.uint8)
        if self._saturated_value is not None:
            said[values == self._saturated_value] = SATURATED_PIXEL
        return said

    def close(self) -> None:
        """Forget the file; its memory is unmapped once no read is under way."""
        self._image = self._mask = None


def mask_beside(path: Path) -> Path | None:
    """Return the mask beside a frame, ``name.mask.fits`` (or ``.fz``, ``.gz``) for ``name.fits``; or None."""
    name = path.name
    while name.lower().endswith(_PACKED):
        name = name[: name.rindex(".")]
    found = (path.with_name(name + ending) for ending in _COMPANIONS)
    return next((beside for beside in found if beside.is_file()), None)


def _companion(path: Path, shape: tuple[int, ...], checkpoint_px: int) -> Plane | None:
    beside = mask_beside(path)
    if beside is None:
        return None
    data = file_bytes(beside)
    image, _ = find_planes(data, beside)
    if image.image_shape != shape:
        raise BadInput(
            f"{beside} is a mask of shape {image.image_shape}, and {path.name} has {shape}",
            code="mask-shape",
            hint="Give the mask of this frame, or move it away.",
        )
    return _open_plane(data, image, checkpoint_px)


def open_source(path: Path, *, checkpoint_px: int = 256) -> FrameSource:
    """Open a frame, plain, ``.gz`` or ``.fz``, for random access.

    The image is the first HDU of two or more axes. Its mask, whose pixels other than 0 are bad, is the extension
    ``MASK`` of the same shape behind it, or else the first image of a file beside it (`mask_beside`).

    Parameters
    ----------
    path
        FITS file.
    checkpoint_px
        Pixels between two places from which a RICE_1 tile can be parsed; rounded down to whole blocks.

    Raises
    ------
    BadInput
        ``unreadable``, ``no-image`` or ``not-2d``, naming the file; ``mask-shape`` for the mask beside it.
    """
    path = Path(path)
    data = file_bytes(path)
    image, mask = find_planes(data, path)
    ny, nx = image.image_shape
    return FrameSource(
        (ny, nx),
        _open_plane(data, image, checkpoint_px),
        _companion(path, (ny, nx), checkpoint_px) if mask is None else _open_plane(data, mask, checkpoint_px),
        None if mask is None else _saturated_value(mask),
    )


def _saturated_value(mask: Hdu) -> int | None:
    """Return the value of a pixel that is saturated and no worse, where the mask's header says so.

    Our calibrated frames say it (``BIT2 = 'saturated'``). Elsewhere values are codes of their own: in a survey's
    mask 4 may mean anything.
    """
    bits = (bit for bit in range(8) if str(mask.cards.get(f"BIT{bit}", "")).strip().startswith("saturated"))
    return next((1 << bit for bit in bits), None)
