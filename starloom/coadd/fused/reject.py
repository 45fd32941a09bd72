"""Outliers: found against the noise model, followed along what is connected, widened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BLOCK, offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

FLOOD_PX = 8
"""Steps from a pixel beyond the clip that are followed along connected excess. Further on, a trail has its own."""
WIDEN_PX = 3
"""Pixels by which the strongest are widened: the reach of Lanczos-3, whose lobes are of the other sign."""

_STRIP_PX = 1024
"""Pixels of a frame scanned at a time: what they are compared with (36 KiB) stays in the first-level cache."""
_ROOM = 65536
_ZERO, _ONE = np.float32(0), np.float32(1)
_WIDE = (np.float32(4.0), np.float32(150.0))
"""Square of the deviation in clips from which on one and two pixels more go: 10 and 60 sigma at a clip of 5,
where the lobes of the resampling (8 % and 2 % of the peak) reach one sigma."""

_CENTRE, _BASE, _OWN, _LEVEL, _ALIKE, _SHARPER, _WIDER, _MIXED = (offset(row) for row in range(8))


@compiled
def _excess(
    v: np.float32,
    planes: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    p: int,
    variance: np.float32,
    models: NDArray[np.float32],
    k: int,
    share: np.float32,
    square: np.float32,
) -> np.float32:
    # Square of the deviation over its bound; 0 where even without signal it is within.
    d = v - planes[_CENTRE, p]
    noise = square * (planes[_BASE, p] + variance * planes[_OWN, p])
    if d * d <= share * noise:
        return _ZERO
    if quiet[p // BLOCK]:
        return np.float32(d * d / noise)
    inverse, floor, photons = models[k, 0], models[k, 1], models[k, 2]
    alike = planes[_ALIKE, p]
    swing = max(planes[_SHARPER, p] * inverse - alike, alike - planes[_WIDER, p] * inverse)
    swing += alike * floor + planes[_MIXED, p]
    return np.float32(d * d / (noise + square * planes[_LEVEL, p] * photons + swing * swing))


@compiled
def _scan_strip(
    cube: NDArray[np.float32],
    k: int,
    start: int,
    stop: int,
    planes: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    variance: NDArray[np.float32],
    models: NDArray[np.float32],
    square: np.float32,
    frames: NDArray[np.int32],
    places: NDArray[np.int64],
    found: int,
    flags: NDArray[np.int32],
) -> int:
    # Apart from where arrays grow: there, each would be counted as a reference for every block.
    frame, begin = offset(k), offset(start)
    inverse, floor, photons = models[k, 0], models[k, 1], models[k, 2]
    for first in range(0, stop - start, BLOCK):
        m, block = min(BLOCK, stop - start - first), offset(first)
        hits = np.int32(0)
        if quiet[(start + first) // BLOCK]:
            for j in range(m):
                i = block + offset(j)
                p = begin + i
                d = cube[frame, p] - planes[_CENTRE, p]
                d = d if cube[frame, p] < ABSENT else _ZERO
                noise = square * (planes[_BASE, p] + variance[i] * planes[_OWN, p])
                flags[offset(j)] = np.int32(d * d > noise)
                hits = np.int32(hits + flags[offset(j)])
        else:
            for j in range(m):
                i = block + offset(j)
                p = begin + i
                d = cube[frame, p] - planes[_CENTRE, p]
                d = d if cube[frame, p] < ABSENT else _ZERO
                noise = square * (planes[_BASE, p] + variance[i] * planes[_OWN, p])
                alike = planes[_ALIKE, p]
                up, down = planes[_SHARPER, p] * inverse - alike, alike - planes[_WIDER, p] * inverse
                swing = (up if up > down else down) + (alike * floor + planes[_MIXED, p])
                bound = noise + square * planes[_LEVEL, p] * photons + swing * swing
                flags[offset(j)] = np.int32(d * d > bound)
                hits = np.int32(hits + flags[offset(j)])
        if hits > 0:
            for j in range(m):
                if flags[j]:
                    frames[found], places[found] = k, start + first + j
                    found += 1
    return found


@compiled
def scan(
    cube: NDArray[np.float32],
    planes: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    variance: NDArray[np.float32],
    models: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    square: np.float32,
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Find the values beyond the clip.

    Parameters
    ----------
    cube
        ``(n, npix)``.
    planes
        What values are compared with, shape ``(8, npix)``: centre, base, own, level, alike, sharper, wider and
        mixed, see Notes.
    quiet
        Whether a block of `BLOCK` pixels has neither level nor contrast; the last four planes are not read there.
    variance, spreads, place
        As for `fused.median.medians`.
    models
        Of each frame, shape ``(n, 3)``: 1 / FWHM² (px⁻²), share of the contrast that like PSFs may differ by, and
        1 / gain (output units per electron).
    square
        Square of the clip.

    Returns
    -------
    tuple
        Frame and flat position of each, and their number; the arrays may be longer.

    Notes
    -----
    A value is beyond the clip k where its squared distance from the centre exceeds
    k² (base + own variance + level / gain) + swing², with swing the greater of sharper / FWHM² - alike and
    alike - wider / FWHM², and floor * alike + mixed beside it.
    """
    n, npix = cube.shape
    frames, places, found = np.empty(_ROOM, np.int32), np.empty(_ROOM, np.int64), 0
    own, flags = np.empty(_STRIP_PX, np.float32), np.empty(BLOCK, np.int32)
    for start in range(0, npix, _STRIP_PX):
        stop = min(start + _STRIP_PX, npix)
        for k in range(n):
            if spreads.shape[0] > 0:
                spread(spreads, k, place, start, stop - start, variance[k], own)
            else:
                own[:] = variance[k]
            if found + _STRIP_PX > frames.size:
                frames = np.concatenate((frames, np.empty_like(frames)))
                places = np.concatenate((places, np.empty_like(places)))
            found = _scan_strip(
                cube, k, start, stop, planes, quiet, own, models, square, frames, places, found, flags
            )
    return frames, places, found


@compiled
def flood(
    cube: NDArray[np.float32],
    planes: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    count: NDArray[np.int32],
    variance: NDArray[np.float32],
    models: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    square: np.float32,
    share: np.float32,
    frames: NDArray[np.int32],
    places: NDArray[np.int64],
    inner: tuple[int, int, int, int],
    hit: NDArray[np.int16],
    clipped: NDArray[np.int64],
) -> None:
    """Follow outliers along connected excess, widen them, and take them out of the cube.

    From each value beyond the clip, connected values (8 neighbours) beyond ``sqrt(share)`` of it are followed for
    `FLOOD_PX` steps; then all are widened by a pixel, and by up to `WIDEN_PX` those of which the resampling's
    lobes remain. Where all values of a pixel would go, all are kept: everything disagrees, and nothing is known.

    Parameters
    ----------
    cube, planes, quiet, variance, models, spreads, place, square
        As for `scan`; rejected values become `ABSENT`.
    count
        Values that each pixel has, ``(npix,)``.
    share
        Square of the lower threshold in units of the clip.
    frames, places
        The values beyond the clip.
    inner
        Rows from, to and columns from, to of the part that counts.
    hit
        Receives the number of rejected values of each pixel, ``(npix,)``; starts as 0.
    clipped
        Receives the number of inner pixels rejected of each frame, ``(n,)``.
    """
    n, npix = cube.shape
    nx = place[2]
    ny = npix // nx
    # The seeds of each frame, as chains through one array: they come strip by strip.
    head, link = np.full(n, -1, np.int64), np.empty(places.size, np.int64)
    for s in range(places.size):
        link[s] = head[frames[s]]
        head[frames[s]] = s
    seen = np.zeros(npix, np.bool_)
    queue, used = np.empty(max(1024, 4 * places.size), np.int64), 0
    starts = np.zeros(n + 1, np.int64)
    factor = np.ones(1, np.float32)
    for k in range(n):
        starts[k] = used
        s = head[k]
        while s >= 0:
            seen[places[s]] = True
            queue[used] = places[s]
            used += 1
            s = link[s]
            if used + 64 > queue.size:
                queue = np.concatenate((queue, np.empty_like(queue)))
        seeds = used
        begin = starts[k]
        # One step more than the flood's is the widening, which asks for no excess.
        for step in range(FLOOD_PX + 1):
            last = step == FLOOD_PX
            if last:
                begin = starts[k]
            end = used
            for q in range(begin, end):
                y, x = divmod(queue[q], nx)
                radius = 1
                if last and q < seeds:
                    p = queue[q]
                    if spreads.shape[0] > 0:
                        spread(spreads, k, place, p, 1, _ONE, factor)
                    times = _excess(
                        cube[k, p], planes, quiet, p, variance[k] * factor[0], models, k, share, square
                    )
                    radius += int(times > _WIDE[0]) + int(times > _WIDE[1])
                if used + 64 > queue.size:
                    queue = np.concatenate((queue, np.empty_like(queue)))
                for yy in range(max(y - radius, 0), min(y + radius + 1, ny)):
                    for xx in range(max(x - radius, 0), min(x + radius + 1, nx)):
                        p = yy * nx + xx
                        v = cube[k, p]
                        if seen[p] or not v < ABSENT:
                            continue
                        if not last:
                            if spreads.shape[0] > 0:
                                spread(spreads, k, place, p, 1, _ONE, factor)
                            if (
                                _excess(v, planes, quiet, p, variance[k] * factor[0], models, k, share, square)
                                <= share
                            ):
                                continue
                        seen[p] = True
                        queue[used] = p
                        used += 1
            begin = end
        for q in range(starts[k], used):
            seen[queue[q]] = False
            hit[queue[q]] += np.int16(1)
    starts[n] = used
    for k in range(n):
        for q in range(starts[k], starts[k + 1]):
            p = queue[q]
            if hit[p] < count[p]:
                cube[k, p] = ABSENT
                y, x = divmod(p, nx)
                clipped[k] += 1 if inner[0] <= y < inner[1] and inner[2] <= x < inner[3] else 0
    for q in range(used):
        p = queue[q]
        if hit[p] >= count[p]:
            hit[p] = 0
