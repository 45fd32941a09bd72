"""Proper co-addition of a tile (Zackay & Ofek 2017, ApJ 836, 188): all that the frames know, in one image.

The co-add is in the units of the frames: theirs divided by ``sqrt(sum_j w_j)``. A star of flux F sums to F in an
aperture that is large against the PSF, a flat sky keeps its level, and the noise of a pixel has the variance
``1 / sum_j w_j`` of the weighted mean, and is white if the frames' noise is. What a star looks like is
`proper_psf`; the co-add correlated with that is the most sensitive detection image there is.

``w_j`` is `FrameNoise.weight`, the inverse variance per pixel of the *sum* over an area, not ``1 / sigma²`` of one
resampled pixel: interpolation damps the noise of single pixels, at the highest frequencies, and leaves that of
everything as large as a PSF alone. Only that matters for stars, and it is what a white noise would have there.

The tiles' geometry is part of the result: the same sums come out of transforms of another size with other rounding
(1e-6 of the brightest pixel), so that a product must be made of the same tiles whatever its memory or threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from starloom.coadd.combine import FrameNoise
from starloom.coadd.jit import ABSENT
from starloom.coadd.mapping import LATTICE_PX
from starloom.coadd.plan import Tile
from starloom.coadd.proper_filters import Filters, Plane, placed, whitening_radius_px
from starloom.coadd.proper_holes import Mask, correlated, fill, outside, whitening_spectrum

Window = tuple[slice, slice]

NODE_PX = 512
"""Where frames' weights vary, filters are made at absolute multiples of so many pixels and blended. Inner parts of
tiles should begin and end at multiples too: nodes beyond a tile's lattice are read at its end."""

_MORE_PX = 8
_LEAST_WEIGHT = 1e-3
"""Of a pixel within its frame: next to nothing, but where it is all there is, the stack shows it."""


@dataclass(frozen=True)
class ProperTile:
    """Planes of one tile, of the inner shape; ``sci`` is NaN and ``weight`` 0 where no frame has a pixel."""

    sci: Plane
    weight: Plane
    coverage: NDArray[np.int16]


def proper_reach_px(psfs: Sequence[NDArray[Any]]) -> int:
    """Return the margin that a tile needs, pixels.

    Filters reach further by half a PSF, but pass less than 1e-6 from there: tiles with this margin agree with one
    large transform to its rounding, 2e-7 of the brightest pixel nearby.
    """
    return whitening_radius_px(psfs) + _MORE_PX


def proper_psf(noises: Sequence[FrameNoise], psfs: Sequence[NDArray[Any]], side: int) -> Plane:
    """Return what a star of unit flux looks like where all frames are there, ``side`` (odd) pixels square.

    It is not normalised: what its wings have beyond ``side`` is missing from the sum.
    """
    return Filters(psfs).response(np.array([noise.weight for noise in noises]), side)


def combine_proper(
    cube: Plane,
    noises: Sequence[FrameNoise],
    psfs: Sequence[NDArray[Any]],
    relative: NDArray[np.float32] | None,
    tile: Tile,
    inner: Window,
) -> ProperTile:
    """Combine the frames of a tile.

    Parameters
    ----------
    cube
        Shape ``(n, ny, nx)``, output units, sky matched, outliers gone; `ABSENT` where a frame has nothing. It is
        overwritten.
    noises, psfs
        One per frame; PSFs on the output grid, unit sum, odd sides. Of the noise only ``weight`` matters.
    relative
        Relative weight within each frame on the lattice of `LATTICE_PX`, shape ``(n, gy, gx)``; None: 1.
    tile
        Where the cube lies on the grid.
    inner
        The part without margin; the margin is `proper_reach_px` where the grid goes on.

    Notes
    -----
    Beside the cube it takes about one and a half times its memory: a complex plane and two masks per frame.

    Holes narrower than `whitening_radius_px`, some five times the worst seeing, are filled, see `proper_holes`.
    (In six unlike frames fluxes scatter by 0.02 % with holes of 24 px filled, and by 0.5 % if the frame is left
    out there: the PSF then changes within stars.) Where more is missing, beyond a frame's edge above all, the
    frame takes no part: each region with its own set of frames gets the co-add, and the PSF, of that set. For the
    last pixels before the edge the frame is continued as if a hole followed.
    """
    missing = [plane >= ABSENT / 2 for plane in cube]
    shape = missing[0][inner].shape if missing else _inner_shape(tile, inner)
    some = [index for index, absent in enumerate(missing) if not absent.all()]
    if not some:
        nothing = np.zeros(shape, np.float32)
        return ProperTile(np.full(shape, np.nan, np.float32), nothing, nothing.astype(np.int16))
    if len(some) < len(cube):
        cube, missing = cube[some], [missing[index] for index in some]
    weights = np.array([noises[index].weight for index in some])
    filters = Filters([psfs[index] for index in some])
    inside = None if relative is None else np.maximum(relative[some], np.float32(_LEAST_WEIGHT))
    gaps = [outside(absent, filters.radius_px) for absent in missing]
    weight, coverage = _weight(missing, gaps, weights, inside, filters, tile)
    weight, coverage = weight[inner], coverage[inner]
    gaps = [gap[inner] for gap in gaps]
    cube, missing, window = _extended(cube, missing, inner, filters.radius_px)
    plane_shape = cube.shape[1:]
    own = np.stack([filters.own(index, plane_shape) for index in range(len(cube))])
    fill(cube, missing, weights, filters, own)
    for plane, spectrum in zip(cube, own, strict=True):
        spectrum[...] = correlated(plane, spectrum)

    sci = np.zeros(shape, np.float32)
    for share, at in _nodes(inside, tile, inner):
        summed, members = np.zeros(own.shape[1:], np.complex64), np.zeros(len(cube), np.bool_)
        here = weights if at is None else weights * at
        for region, wanted in _regions(gaps, shape):
            if not (share * region).any():
                continue
            # Neighbouring regions differ by a frame or two: only those are added and taken away.
            for index in np.flatnonzero(wanted != members):
                summed += np.float32(here[index] if wanted[index] else -here[index]) * own[index]
            members = wanted
            whitening = whitening_spectrum(filters, here * members, plane_shape)
            sci += (share * region) * fft.irfft2(summed * whitening, s=plane_shape)[window]
    sci[coverage == 0] = np.nan
    return ProperTile(sci, weight, coverage)


def _inner_shape(tile: Tile, inner: Window) -> tuple[int, int]:
    return len(range(tile.ny)[inner[0]]), len(range(tile.nx)[inner[1]])


def _extended(cube: Plane, missing: list[Mask], inner: Window, reach: int) -> tuple[Plane, list[Mask], Window]:
    """Add room where there is no margin: a transform is periodic, and one edge must not reach the other."""
    before, after, window = [], [], []
    for length, part in zip(cube.shape[1:], inner, strict=True):
        start, stop, _ = part.indices(length)
        before.append(reach if start < reach else 0)
        after.append(reach if length - stop < reach else 0)
        whole = length + before[-1] + after[-1]
        after[-1] += fft.next_fast_len(whole, real=True) - whole
        window.append(slice(start + before[-1], stop + before[-1]))
    place = (window[0], window[1])
    if not any(before + after):
        return cube, missing, place
    width = ((before[0], after[0]), (before[1], after[1]))
    # The values added do not matter: they are missing.
    wider = np.pad(cube, ((0, 0), *width))
    return wider, [np.pad(absent, width, constant_values=True) for absent in missing], place


def _weight(
    missing: list[Mask],
    gaps: list[Mask],
    weights: NDArray[np.float64],
    inside: NDArray[np.float32] | None,
    filters: Filters,
    tile: Tile,
) -> tuple[Plane, NDArray[np.int16]]:
    """Return the weight and the coverage of the tile's pixels."""
    shape = missing[0].shape
    total, lost = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    coverage = np.zeros(shape, np.int16)
    for index, (absent, gap) in enumerate(zip(missing, gaps, strict=True)):
        part = np.full(shape, weights[index], np.float32)
        if inside is not None:
            part *= _spread_out(inside[index], tile)
        coverage += ~absent
        total += part * ~gap
        lost += part * (absent & ~gap)
    if lost.any():
        # A filled pixel tells nothing, and takes from all the co-added pixels that it would have entered.
        total -= np.clip(_smoothed(lost, filters.spread(weights)), 0, total)
    total[coverage == 0] = 0
    return total, coverage


def _smoothed(plane: Plane, kernel: Plane) -> Plane:
    ny, nx = plane.shape
    full = (fft.next_fast_len(ny + len(kernel), real=True), fft.next_fast_len(nx + len(kernel), real=True))
    spectrum = fft.rfft2(plane, s=full) * placed(kernel, full)
    return np.asarray(fft.irfft2(spectrum, s=full)[:ny, :nx], dtype=np.float32)


def _spread_out(lattice: NDArray[np.float32], tile: Tile) -> Plane:
    """Interpolate a lattice of values to the pixels of its tile."""
    rows = _bilinear(tile.y0, tile.ny, lattice.shape[0])
    columns = _bilinear(tile.x0, tile.nx, lattice.shape[1])
    return np.asarray(np.einsum("yi,ij,xj->yx", rows, lattice, columns, optimize=True), dtype=np.float32)


def _bilinear(start: int, length: int, nodes: int) -> NDArray[np.float32]:
    at = np.arange(start, start + length) / LATTICE_PX - start // LATTICE_PX
    return np.asarray(np.clip(1 - np.abs(at[:, None] - np.arange(nodes)), 0, None), dtype=np.float32)


def _nodes(
    inside: NDArray[np.float32] | None, tile: Tile, inner: Window
) -> Iterator[tuple[Plane, NDArray[np.float64] | None]]:
    """Yield each node's share of the inner pixels, and the frames' relative weights there."""
    ny, nx = _inner_shape(tile, inner)
    if inside is None:
        yield np.ones((ny, nx), np.float32), None
        return
    hats = []
    for start, part, length, nodes in (
        (tile.y0, inner[0], ny, inside.shape[1]),
        (tile.x0, inner[1], nx, inside.shape[2]),
    ):
        first = start + (part.start or 0)
        at = np.arange(first, first + length)
        found = []
        for node in range(first // NODE_PX, (first + length - 1) // NODE_PX + 2):
            share = np.clip(1 - np.abs(at / NODE_PX - node), 0, None).astype(np.float32)
            if share.any():
                found.append((share, min(max(node * NODE_PX // LATTICE_PX - start // LATTICE_PX, 0), nodes - 1)))
        hats.append(found)
    for (down, row), (across, column) in product(*hats):
        yield down[:, None] * across, inside[:, row, column].astype(np.float64)


def _regions(gaps: list[Mask], shape: tuple[int, int]) -> Iterator[tuple[Mask, Mask]]:
    """Yield the regions of the inner part, each with the frames that are there; those in turn are alike."""
    edges = [index for index, gap in enumerate(gaps) if gap.any()]
    everywhere = np.ones(len(gaps), np.bool_)
    if not edges:
        yield np.ones(shape, np.bool_), everywhere
        return
    key = np.zeros(shape, np.int64)
    for index in edges:
        # Renumbered after each frame, the key stays small for any number of them.
        _, key = np.unique(2 * key + gaps[index], return_inverse=True)
        key = key.reshape(shape)
    for number in range(int(key.max()) + 1):
        region = key == number
        y, x = np.unravel_index(int(region.argmax()), shape)
        members = everywhere.copy()
        members[edges] = [not gaps[index][y, x] for index in edges]
        if members.any():
            yield region, members
