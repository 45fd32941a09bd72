"""A trail's centre line and width, measured on the frame's own pixels along a line found on coarse cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.plan import Streak, Tile
from starloom.coadd.streaks.lines import Line

Floats = NDArray[np.float64]
Cut = Callable[[Tile], NDArray[np.float32] | None]

FAINT_SIGMA = 0.05
"""Surface brightness, in the frame's noise per pixel, down to which a trail is masked."""

_BOX_PX = 128
_REACH_PX = (40, 160)
"""Half widths of the band that is looked at: of usual trails, and where one turns out wider."""

_CHUNK_PX = 48.0
_LEAST_SIGMA = 4.0
_WING_POWER = 0.25
"""Wings of a trail fall as the fourth power: a Moffat profile of beta 2.5 integrated along a line."""

_SAG_PX = 0.3


class Band(NamedTuple):
    """Pixels about a line: place along it and across it, value less the local sky. All of shape ``(n,)``."""

    t: Floats
    u: Floats
    value: Floats


def _boxes(line: Line, reach: float, shape: tuple[int, int]) -> list[Tile]:
    """Return the boxes of a fixed lattice that the band about a line touches."""
    ny, nx = shape
    x_low, x_high = sorted((line.x0, line.x1))
    y_low, y_high = sorted((line.y0, line.y1))
    boxes = []
    for y0 in range(max(0, int((y_low - reach) // _BOX_PX)) * _BOX_PX, min(ny, int(y_high + reach) + 1), _BOX_PX):
        for x0 in range(
            max(0, int((x_low - reach) // _BOX_PX)) * _BOX_PX, min(nx, int(x_high + reach) + 1), _BOX_PX
        ):
            t, u = line.along(np.array(x0 + _BOX_PX / 2), np.array(y0 + _BOX_PX / 2))
            half = _BOX_PX * math.sqrt(0.5)
            if abs(u) < reach + half and -half < t < line.length + half:
                boxes.append(Tile(x0=x0, y0=y0, nx=min(_BOX_PX, nx - x0), ny=min(_BOX_PX, ny - y0)))
    return boxes


def _band(cut: Cut, line: Line, reach: float, shape: tuple[int, int]) -> Band:
    """Collect the pixels within ``reach`` of a line; the median beyond half of it on both sides is the sky."""
    parts = []
    for box in _boxes(line, reach, shape):
        pixels = cut(box)
        if pixels is None:
            continue
        y, x = np.mgrid[box.y0 : box.y0 + box.ny, box.x0 : box.x0 + box.nx]
        t, u = line.along(x, y)
        keep = (np.abs(u) <= reach) & (t >= 0) & (t <= line.length) & (np.abs(pixels) < 1e38)
        parts.append(np.stack([t[keep], u[keep], pixels[keep].astype(np.float64)]))
    t, u, value = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    chunk = (t / (line.length / max(1, round(line.length / (2 * _CHUNK_PX))))).astype(int)
    order = np.argsort(chunk, kind="stable")
    t, u, value, chunk = t[order], u[order], value[order], chunk[order]
    edges = np.flatnonzero(np.diff(chunk)) + 1
    for part in np.split(np.arange(len(t)), edges):
        sides = [value[part][(sign * u[part] > reach / 2)] for sign in (-1, 1)]
        levels = [float(np.median(side)) for side in sides if len(side) > 2 * _CHUNK_PX]
        value[part] -= np.mean(levels) if levels else np.median(value[part]) if len(part) else 0.0
    return Band(t, u, value)


def _medians(u: Floats, value: Floats, reach: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return the median and number of values per pixel across a line, each of shape ``(2 reach + 1,)``."""
    place = np.rint(u).astype(int) + reach
    inside = (place >= 0) & (place <= 2 * reach)
    # Sixteen bits are sorted by counting; the medians of the parts then cost no sort at all.
    place, value = place[inside].astype(np.int16), value[inside]
    value = value[np.argsort(place, kind="stable")]
    count = np.bincount(place, minlength=2 * reach + 1)
    parts = np.split(value, np.cumsum(count)[:-1])
    return np.array([_median(part) if len(part) else 0.0 for part in parts]), count


def _median(values: Floats) -> float:
    """Return the median of a few values; numpy's own takes six times as long over their being NaN or masked."""
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, (low, high))
    return float(0.5 * (ordered[low] + ordered[high]))


def _centre(profile: Floats, fwhm_px: float, reach: float) -> tuple[float, float]:
    """Return where a profile correlates best with a trail of the frame's seeing, and the height there."""
    half = (len(profile) - 1) // 2
    offsets = np.arange(-half, half + 1)
    moves = np.arange(-reach, reach + 0.125, 0.25)
    template = np.exp(-4 * math.log(2) * ((offsets - moves[:, None]) / fwhm_px) ** 2)
    match = template @ profile / (template**2).sum(axis=1)
    best = int(np.argmax(match))
    move = moves[best]
    if 0 < best < len(moves) - 1:
        a, b, c = match[best - 1 : best + 2]
        if a + c < 2 * b:
            move += 0.25 * 0.5 * (a - c) / (a + c - 2 * b)
    return float(move), float(match[best])


def _tracked(
    band: Band, length: float, fwhm_px: float, sigma: float, reach: float
) -> tuple[Floats, Floats, Floats]:
    """Return place along, offset across and weight of a trail in chunks as short as its brightness allows."""
    n = max(2, round(length / _CHUNK_PX))
    while True:
        error = 1.25 * sigma / math.sqrt(length / n * fwhm_px)
        found = []
        for i, (u, value) in enumerate(_chunks(band, length, n)):
            if len(u) < _REACH_PX[0] * length / n / 4:
                continue
            move, peak = _centre(_medians(u, value, 24)[0], fwhm_px, reach)
            if peak > 4 * error and abs(move) < reach:
                found.append(((i + 0.5) / n * length, move, min((peak / error) ** 2, 400.0)))
        # A trail that is dark in between is seen in some chunks, a faint one in all that are long enough.
        if n == 2 or len(found) > min(0.4 * n, 12):
            places, offsets, weights = np.array(found).reshape(-1, 3).T
            return places, offsets, weights
        n = max(2, n // 2)


def _chunks(band: Band, length: float, n: int) -> Iterator[tuple[Floats, Floats]]:
    """Return u and value of the pixels in each of ``n`` parts of a band."""
    chunk = np.clip((band.t / length * n).astype(np.int16), 0, n - 1)
    order = np.argsort(chunk, kind="stable")
    edges = np.cumsum(np.bincount(chunk, minlength=n))[:-1]
    yield from zip(np.split(band.u[order], edges), np.split(band.value[order], edges), strict=True)


def _shining(band: Band, length: float, sigma: float) -> Band:
    """Return the pixels beside those parts of a centred trail that shine, or all where none stands out."""
    n = max(1, round(length / _CHUNK_PX))
    on = np.zeros(n, bool)
    for i, (u, value) in enumerate(_chunks(band, length, n)):
        core = value[np.abs(u) < 1.5]
        on[i] = len(core) > _CHUNK_PX / 2 and float(np.median(core)) > 3 * 1.25 * sigma / math.sqrt(len(core))
    if on.sum() < 2:
        return band
    keep = on[np.clip((band.t / length * n).astype(int), 0, n - 1)]
    return Band(band.t[keep], band.u[keep], band.value[keep])


def _curve(t: Floats, u: Floats, weight: Floats, length: float) -> Floats:
    """Fit offsets by a straight line, or a parabola where that is clearly better; terms of 1, v, v² (|v| <= 1)."""
    v = 2 * t / length - 1
    keep = np.ones(len(t), bool)
    terms: Floats = np.zeros(3)
    for _ in range(3):
        terms = np.zeros(3)
        if keep.sum() < 2:
            break
        root = np.sqrt(weight[keep])
        fits = {}
        for order in (1, 2):
            basis = v[keep, None] ** np.arange(order + 1)
            fit = np.linalg.lstsq(basis * root[:, None], u[keep] * root, rcond=None)[0]
            fits[order] = fit, float((weight[keep] * (basis @ fit - u[keep]) ** 2).sum())
        terms[:2] = fits[1][0]
        # A parabola needs places enough, a sag that matters, and a residual that says so.
        if keep.sum() > 5 and abs(fits[2][0][2]) > _SAG_PX and fits[2][1] < 0.5 * fits[1][1]:
            terms[:] = fits[2][0]
        off = np.abs(np.polynomial.polynomial.polyval(v, terms) - u)
        keep = off < max(1.5, 4 * float(np.median(off[keep])))
    return terms


def _radius(profile: Floats, count: NDArray[np.int64], sigma: float) -> tuple[float, bool]:
    """Return where a profile falls below `FAINT_SIGMA`, and whether it is still above at the band's half."""
    half = (len(profile) - 1) // 2
    radius, open_end = 0.0, False
    for side, number in ((profile[half:], count[half:]), (profile[half::-1], count[half::-1])):
        smooth = np.convolve(side, np.ones(3) / 3, mode="same")
        noise = 1.25 * sigma / math.sqrt(max(float(np.median(number)), 1.0) * 3)
        floor = max(FAINT_SIGMA * sigma, 3 * noise)
        below = np.flatnonzero(smooth[1:-1] < floor)
        edge = int(below[0]) + 1 if len(below) else half
        open_end |= edge >= half // 2
        # Below the profile's own noise its wings are taken to go on.
        radius = max(radius, edge * (floor / (FAINT_SIGMA * sigma)) ** _WING_POWER)
    return radius, open_end


def measured(
    cut: Cut, line: Line, sigma: float, fwhm_px: float, shape: tuple[int, int], slack_px: float
) -> tuple[list[Streak], bool]:
    """Measure a trail on a frame's own pixels.

    Stars in the band are left out by taking medians along the trail.

    Parameters
    ----------
    cut
        Returns the frame's pixels on a tile, NaN or absent (3e38) where it has nothing, None where it lies off.
    line
        The trail as found on cells: output pixels, 0-based.
    sigma
        Noise of a pixel, output units.
    fwhm_px
        Seeing, output pixels.
    shape
        ``(ny, nx)`` of the output grid.
    slack_px
        How far the true line may be off across ``line``.

    Returns
    -------
    streaks : list of Streak
        One for a straight trail, several for one that bends or whose brightness varies much; empty where the
        pixels show nothing.
    clean : bool
        Whether the sky beside the trail is as flat as its noise.
    """
    clean, open_end = False, True
    for reach in _REACH_PX:
        band = _band(cut, line, reach, shape)
        if len(band.t) < 100:
            return [], False
        u, terms = band.u, np.zeros(3)
        for slack in (slack_px, 3.0):
            track = _tracked(Band(band.t, u, band.value), line.length, fwhm_px, sigma, slack)
            terms += _curve(*track, line.length)
            u = band.u - np.polynomial.polynomial.polyval(2 * band.t / line.length - 1, terms)
        bright = _shining(Band(band.t, u, band.value), line.length, sigma)
        profile, count = _medians(bright.u, bright.value, reach)
        centre = slice(reach - 1, reach + 2)
        noise = 1.25 * sigma / math.sqrt(max(float(count[centre].sum()), 1.0))
        height = float(profile[centre].mean())
        if height < _LEAST_SIGMA * noise:
            return [], False
        radius, open_end = _radius(profile, count, sigma)
        outer = np.abs(np.arange(-reach, reach + 1)) > max(2 * radius, reach / 2)
        clean = not open_end and bool(outer.any()) and float(np.median(np.abs(profile[outer]))) < 2 * noise
        if not open_end:
            break
    if open_end:
        # No trail is so wide: what has no end is a nebula, or the glow of what lies beside.
        return [], False
    radii = _radii(band.t, u, band.value, line.length, height, max(radius, fwhm_px))
    return _streaks(line, terms, radii), clean


def _radii(t: Floats, u: Floats, value: Floats, length: float, height: float, radius: float) -> Floats:
    """Return the half width along a trail: its wings reach further where it flares."""
    n = max(1, round(length / (4 * _CHUNK_PX)))
    radii = np.full(n, radius)
    for i in range(n):
        near = (np.abs(u) < 1.5) & (t >= i * length / n) & (t < (i + 1) * length / n)
        if near.sum() > 20:
            # The brightest part of the section decides, and a few stars must not.
            radii[i] *= max(1.0, float(np.percentile(value[near], 80)) / height / 2) ** _WING_POWER
    return radii


def _streaks(line: Line, terms: Floats, radii: Floats) -> list[Streak]:
    """Return the segments of a trail: as few as its bend and its change of width allow."""
    n = len(radii)
    # A chord of 1/m of the length misses a parabola by 1/m² of its sag.
    pieces = max(1, math.ceil(math.sqrt(abs(terms[2]) / _SAG_PX)))
    if radii.max() > 1.5 * radii.min():
        pieces = max(pieces, n)
    streaks = []
    for i in range(pieces):
        a, b = i / pieces, (i + 1) / pieces
        ends = np.polynomial.polynomial.polyval(2 * np.array([a, b]) - 1, terms)
        mine = radii[int(a * n) : max(int(a * n) + 1, math.ceil(b * n))]
        (x0, x1), (y0, y1) = line.at(np.array([a, b]) * line.length, ends)
        streaks.append(
            Streak(
                x0=round(float(x0), 2),
                y0=round(float(y0), 2),
                x1=round(float(x1), 2),
                y1=round(float(y1), 2),
                half_width=round(float(mine.max()) + 0.5, 2),
            )
        )
    return streaks
