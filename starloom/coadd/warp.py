"""Resampling one frame onto one tile of the output grid: read what is needed, mask, resample, match; flux kept."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.inputs import pixel_scale_arcsec, wcs_from_cards
from starloom.coadd.jit import ABSENT
from starloom.coadd.mapping import FrameMap
from starloom.coadd.plan import PlanFrame, StackPlan, Tile
from starloom.coadd.resample.finish import cut_streak, to_output_units
from starloom.coadd.resample.flags import BLOCK_SHIFT, HOT_REACH, NO_SATURATION, SATURATED, inspect, order_key
from starloom.coadd.resample.kernels import OVERLAP, Sampling, lanczos_table, noise_factor
from starloom.coadd.resample.overlap import sample_overlaps
from starloom.coadd.resample.point import sample_points
from starloom.coadd.resample.spans import frame_spans

if TYPE_CHECKING:
    from starloom.coadd.pixels import FrameSource

__all__ = ["Warper", "noise_factor"]

Plane = NDArray[np.float32]

# Around what is read: taps without weight, and lanes that are loaded and not used.
_BEFORE, _AFTER = 4, 12

_BAND_PX = 1 << 16
"""Pixels sampled and finished at a time: 256 kB of the second-level cache."""

_LEAST_FWHM_PX = 1.5
"""Sharper stars cannot be told from hot pixels."""

_NO_MASK = np.zeros((0, 0), np.uint8)
_NO_LIMIT = np.zeros((0, 0), np.float32)


class _Scratch(threading.local):
    """Buffers of one thread, reused for all frames and tiles; pixels stay finite, so that 0 times any is 0."""

    def __init__(self) -> None:
        self._window = np.zeros(0, np.float32)
        self._flags = np.zeros(0, np.uint8)
        self._blocks = np.zeros(0, np.uint8)
        self._limit = np.zeros(0, np.float32)
        self._spans = np.zeros((2, 0), np.int32)

    def spans(self, rows: int) -> NDArray[np.int32]:
        if self._spans.shape[1] < rows:
            self._spans = np.zeros((2, rows), np.int32)
        return self._spans

    def window(self, height: int, width: int) -> tuple[Plane, NDArray[np.uint8], NDArray[np.uint8]]:
        size = height * width
        if self._window.size < size:
            self._window, self._flags = np.zeros(size, np.float32), np.zeros(size, np.uint8)
        rows, columns = (height >> BLOCK_SHIFT) + 1, (width >> BLOCK_SHIFT) + 1
        if self._blocks.size < rows * columns:
            self._blocks = np.zeros(rows * columns, np.uint8)
        return (
            self._window[:size],
            self._flags[:size].reshape(height, width),
            self._blocks[: rows * columns].reshape(rows, columns),
        )

    def limit(self, height: int, width: int) -> Plane:
        size = height * width
        if self._limit.size < size:
            self._limit = np.zeros(size, np.float32)
        limit = self._limit[:size].reshape(height, width)
        limit.fill(-ABSENT)
        return limit


_SCRATCH = _Scratch()


class Warper:
    """One frame of a plan, ready to be resampled onto tiles from any number of threads.

    Parameters
    ----------
    plan, frame
        The plan, and which of its frames.
    source
        The frame's pixels.
    frame_map
        ``FrameMap.of(plan, frame)``.
    """

    def __init__(self, plan: StackPlan, frame: PlanFrame, source: FrameSource, frame_map: FrameMap) -> None:
        self._source, self._map = source, frame_map
        self._shape = frame.shape
        self._sampling = Sampling.of(frame.kernel, frame.area, plan.options.pixfrac)
        self._table = lanczos_table(self._sampling.stretch)
        item = frame.input
        fwhm_px = item.fwhm_arcsec / pixel_scale_arcsec(wcs_from_cards(frame.wcs_cards), frame.shape)
        self._sigma = float(item.sky_sigma_adu) if fwhm_px >= _LEAST_FWHM_PX else 0.0
        self._saturation = NO_SATURATION if item.saturation_adu is None else order_key(item.saturation_adu)
        ny, nx = plan.shape
        self._du, self._dv = 2 / max(nx - 1, 1), 2 / max(ny - 1, 1)
        dx, dy = frame.shift_px
        self._u0, self._v0 = dx * self._du - 1, dy * self._dv - 1
        self._sky = np.array(frame.sky, np.float64)
        # What a trail's pixels reach through the kernel, output pixels.
        reach = self._sampling.reach / math.sqrt(frame.area) + self._sampling.half_side
        self._streaks = [(s.x0 - dx, s.y0 - dy, s.x1 - dx, s.y1 - dy, s.half_width + reach) for s in frame.streaks]

    def warp(self, tile: Tile, out: Plane, saturated: Plane) -> bool:
        """Resample the frame onto a tile.

        Parameters
        ----------
        tile
            Where; anywhere on the grid.
        out
            Shape ``(tile.ny, tile.nx)``, best contiguous; overwritten: output units, sky terms subtracted,
            `ABSENT` where the frame has nothing, its kernel would touch a bad pixel (not finite, masked, hot,
            saturated), or a trail lies.
        saturated
            Same shape; raised to the pixel's value, a lower limit, where this frame is saturated within the
            kernel's reach.

        Returns
        -------
        bool
            False where frame and tile do not overlap: nothing was written.

        Raises
        ------
        BadInput
            From the source: ``unreadable``, naming the file.
        """
        if out.flags.c_contiguous and saturated.flags.c_contiguous:
            return self._warp(tile, out, saturated)
        # Loops are compiled once, for contiguous planes; compiling them for strided ones takes seconds more.
        planes = np.ascontiguousarray(out), np.ascontiguousarray(saturated)
        overlaps = self._warp(tile, *planes)
        if overlaps:
            out[:], saturated[:] = planes
        return overlaps

    def _warp(self, tile: Tile, out: Plane, saturated: Plane) -> bool:
        nodes = self._map.nodes(tile)
        if nodes is None:
            return False
        sampling, (ny, nx), place = self._sampling, self._shape, (nodes.gx0, nodes.gy0, nodes.node_px)
        lo, hi = _SCRATCH.spans(ny)
        top, bottom, left, right = frame_spans(
            nodes.x, nodes.y, *place, tile.x0, tile.y0, tile.nx, tile.ny,
            sampling.reach + HOT_REACH + 0.01, sampling.half_side, ny, nx, lo, hi,
        )  # fmt: skip
        if top >= bottom:
            return False
        oy, ox = top - _BEFORE, left - _BEFORE
        height, width = bottom - oy + _AFTER, right - ox + _AFTER
        pixels, flags, blocks = _SCRATCH.window(height, width)
        window = pixels.reshape(height, width)
        lo, hi = lo[top:bottom], hi[top:bottom]
        self._source.read(top, lo, hi, ox, window[_BEFORE : _BEFORE + bottom - top])
        mask = self._source.mask(top, bottom, left, right) if self._source.has_mask else None
        masked = _NO_MASK if mask is None else mask
        found = inspect(
            window, window.view(np.int32), flags, blocks, oy, ox, top, bottom, lo, hi, ny, nx,
            self._saturation, self._sigma, masked, left,
        )  # fmt: skip
        limit = _SCRATCH.limit(tile.ny, tile.nx) if found & SATURATED else _NO_LIMIT
        at = (found, oy, ox, height, ny, nx, nodes.x, nodes.y, *place, tile.x0)
        # In bands that stay in the cache between sampling and finishing.
        band = max(_BAND_PX // tile.nx, 1)
        for row in range(0, tile.ny, band):
            y0, rows = tile.y0 + row, slice(row, row + band)
            if sampling.kind == OVERLAP:
                sample_overlaps(sampling.drop, pixels, width, flags, *at, y0, out[rows], limit[rows])
            else:
                sample_points(
                    sampling.kind, pixels, width, flags, blocks, *at, y0, self._table, out[rows], limit[rows]
                )
            to_output_units(
                nodes.gain, *place, tile.x0, y0, self._sky, self._u0, self._du, self._v0, self._dv,
                out[rows], limit[rows], saturated[rows],
            )  # fmt: skip
        for xa, ya, xb, yb, reach in self._streaks:
            cut_streak(xa, ya, xb, yb, reach, tile.x0, tile.y0, out)
        return True
