"""Outliers: found against the noise model, followed along what is connected, widened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import ALIKE, BASE, BLOCK, CENTRE, LEVEL, MIXED, SHARPER, WIDER, offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.fused.sizes import READY, prepare
from starloom.coadd.jit import ABSENT, compiled

FLOOD_PX = 8
"""Steps from a pixel beyond the clip that are followed along connected excess. Further on, a trail has its own."""
WIDEN_PX = 3
"""Pixels by which the strongest are widened: the reach of Lanczos-3, whose lobes are of the other sign."""

_ROOM = 65536
_ZERO, _ONE = np.float32(0), np.float32(1)
_WIDE = (np.float32(4.0), np.float32(150.0))
"""Square of the deviation in clips from which on one and two pixels more go: 10 and 60 sigma at a clip of 5,
where the lobes of the resampling (8 % and 2 % of the peak) reach one sigma."""


@compiled
def _bound(
    planes: NDArray[np.float32],
    p: int,
    variance: np.float32,
    models: NDArray[np.float32],
    k: int,
    square: np.float32,
) -> np.float32:
    inverse, floor, photons = models[k, 0], models[k, 1], models[k, 2]
    alike = planes[ALIKE, p]
    swing = max(planes[SHARPER, p] * inverse - alike, alike - planes[WIDER, p] * inverse)
    swing += alike * floor + planes[MIXED, p]
    noise = square * (planes[BASE, p] + variance)
    return np.float32(noise + square * planes[LEVEL, p] * photons + swing * swing)


@compiled
def _beyond(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    planes: NDArray[np.float32],
    count: NDArray[np.int32],
    variance: NDArray[np.float32],
    models: NDArray[np.float32],
    square: np.float32,
    marks: NDArray[np.int32],
) -> int:
    frame, start = offset(k), offset(first)
    inverse, floor, photons = models[k, 0], models[k, 1], models[k, 2]
    hits = np.int32(0)
    for j in range(m):
        i = offset(j)
        p = start + i
        d = cube[frame, p] - planes[CENTRE, p]
        d = d if cube[frame, p] < ABSENT else _ZERO
        noise = square * (planes[BASE, p] + (_ZERO if count[p] == 2 else variance[i]))
        alike = planes[ALIKE, p]
        up, down = planes[SHARPER, p] * inverse - alike, alike - planes[WIDER, p] * inverse
        swing = (up if up > down else down) + (alike * floor + planes[MIXED, p])
        bound = noise + square * planes[LEVEL, p] * photons + swing * swing
        marks[i] = np.int32(d * d > bound)
        hits = np.int32(hits + marks[i])
    return int(hits)


@compiled
def scan(
    cube: NDArray[np.float32],
    planes: NDArray[np.float32],
    count: NDArray[np.int32],
    psfs: tuple[NDArray[np.int32], NDArray[np.float32], tuple[float, float]],
    steps: NDArray[np.uint64],
    state: NDArray[np.uint8],
    variance: NDArray[np.float32],
    models: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    square: np.float32,
    crowded: NDArray[np.bool_],
    listed: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], int],
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Find the values beyond the clip.

    Parameters
    ----------
    cube
        ``(n, npix)``.
    planes
        What values are compared with, shape ``(8, npix)``: rows `CENTRE`, `BASE`, `LEVEL` and `CONTRAST` are
        there, the others are prepared in the blocks that need them.
    count, steps, crowded, listed
        Number of values of each pixel, and where to look, of `fused.gate.candidates`.
    psfs, state
        As for `fused.sizes.prepare`.
    variance, spreads, place
        As for `fused.gate.candidates`.
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
    alike - wider / FWHM², and floor * alike + mixed beside it. The variance of one of two values is in the base.
    """
    n, npix = cube.shape
    suspects, spots, values, number = listed
    frames, places, found = np.empty(max(number, _ROOM), np.int32), np.empty(max(number, _ROOM), np.int64), 0
    own, marks, factor = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32), np.ones(1, np.float32)
    scratch = np.empty((2, BLOCK), np.uint64), np.empty((4, BLOCK), np.float32)
    for s in range(number):
        k, p = suspects[s], spots[s]
        if state[p // BLOCK] != READY:
            prepare(cube, count, psfs, p // BLOCK, steps, state, scratch, planes)
        if spreads.shape[0] > 0:
            spread(spreads, k, place, p, 1, _ONE, factor)
        d, part = values[s] - planes[CENTRE, p], _ZERO if count[p] == 2 else variance[k] * factor[0]
        if d * d > _bound(planes, p, part, models, k, square):
            frames[found], places[found] = k, p
            found += 1
    for block in range(crowded.shape[0]):
        first = block * BLOCK
        m = min(BLOCK, npix - first)
        for k in range(n):
            if not crowded[block, k]:
                continue
            if state[block] != READY:
                prepare(cube, count, psfs, block, steps, state, scratch, planes)
            if spreads.shape[0] > 0:
                spread(spreads, k, place, first, m, variance[k], own)
            else:
                own[:] = variance[k]
            if _beyond(cube, k, first, m, planes, count, own, models, square, marks) > 0:
                if found + BLOCK > frames.size:
                    frames = np.concatenate((frames, np.empty_like(frames)))
                    places = np.concatenate((places, np.empty_like(places)))
                for j in range(m):
                    if marks[j]:
                        frames[found], places[found] = k, first + j
                        found += 1
    return frames, places, found


@compiled
def flood(
    cube: NDArray[np.float32],
    planes: NDArray[np.float32],
    count: NDArray[np.int32],
    psfs: tuple[NDArray[np.int32], NDArray[np.float32], tuple[float, float]],
    steps: NDArray[np.uint64],
    state: NDArray[np.uint8],
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
    cube, planes, count, psfs, steps, state, variance, models, spreads, place, square
        As for `scan`; rejected values become `ABSENT`.
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
    scratch = np.empty((2, BLOCK), np.uint64), np.empty((4, BLOCK), np.float32)
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
                    own = _ZERO if count[p] == 2 else variance[k] * factor[0]
                    d = cube[k, p] - planes[CENTRE, p]
                    times = np.float32(d * d / _bound(planes, p, own, models, k, square))
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
                            own = _ZERO if count[p] == 2 else variance[k] * factor[0]
                            d = v - planes[CENTRE, p]
                            # Mostly it is within even without signal.
                            if d * d <= share * (square * (planes[BASE, p] + own)):
                                continue
                            if state[p // BLOCK] != READY:
                                prepare(cube, count, psfs, p // BLOCK, steps, state, scratch, planes)
                            if np.float32(d * d / _bound(planes, p, own, models, k, square)) <= share:
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
