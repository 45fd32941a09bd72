"""Lines in one frame's coarse image of significance: found, fitted and followed to where they end."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.coadd.streaks.radon import Segment

Plane = NDArray[np.float32]
Floats = NDArray[np.float64]

_SECTION_CELLS = 16.0
_SECTION_SIGMA = 3.5
"""Significance by which a section of a line continues it: 1 of 4000 of empty sky, and a line has a dozen."""

_MOVES = ((1.5, 0.5), (0.375, 0.125))
"""Reach and step, cells, by which a line's ends are moved: first to the trail, then onto it."""

_RIDGE_SIGMA = 5.0
_SIDES = ((3.0, 6.0), (8.0, 12.0))
"""Where the sides of a ridge are compared with it, cells: for narrow and for wide trails."""


class Line(NamedTuple):
    """A line from (x0, y0) to (x1, y1), cells or pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def length(self) -> float:
        """Distance between the ends."""
        return math.hypot(self.x1 - self.x0, self.y1 - self.y0)

    def at(self, t: Floats | float, u: Floats | float = 0.0) -> tuple[Floats, Floats]:
        """Return x and y of points ``t`` along the line from its start and ``u`` across it."""
        c, s = (self.x1 - self.x0) / self.length, (self.y1 - self.y0) / self.length
        return np.asarray(self.x0 + c * t - s * u), np.asarray(self.y0 + s * t + c * u)

    def along(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return ``t`` and ``u`` of points, see `at`."""
        c, s = (self.x1 - self.x0) / self.length, (self.y1 - self.y0) / self.length
        return (x - self.x0) * c + (y - self.y0) * s, (y - self.y0) * c - (x - self.x0) * s

    def between(self, t0: float, t1: float) -> Line:
        """Return the part from ``t0`` to ``t1``."""
        (xa, ya), (xb, yb) = self.at(t0), self.at(t1)
        return Line(float(xa), float(ya), float(xb), float(yb))


def _most(excess: Floats) -> int:
    """Return how many values to add for the greatest sum."""
    sums = np.concatenate([[0.0], np.cumsum(excess)])
    return int(np.argmax(sums))


def _sampled(image: Plane, line: Line, t: Floats, u: Floats | float) -> Floats:
    """Return an image at points along and across a line, bilinear, 0 beyond it."""
    places = np.stack(line.at(t, u)[::-1])
    return np.asarray(
        ndimage.map_coordinates(image, places, np.float64, order=1, mode="constant", cval=0.0, prefilter=False)
    )


class Follower:
    """Fits lines to one levelled coarse image."""

    def __init__(self, values: Plane, known: NDArray[np.bool_]) -> None:
        self._values, self._known = values, known.astype(np.float32)

    def _fitted(self, line: Line) -> Line:
        """Move both ends across the line, up to two cells, to where the most lies on it."""
        t = np.linspace(0, line.length, max(16, round(line.length)))
        for reach, step in _MOVES:
            moves = np.arange(-reach, reach + step / 2, step)
            u = moves[:, None, None] + (moves[None, :, None] - moves[:, None, None]) * (t / line.length)
            totals = _sampled(self._values, line, np.broadcast_to(t, u.shape), u).sum(axis=2)
            first, last = np.unravel_index(int(np.argmax(totals)), totals.shape)
            (xa, ya), (xb, yb) = line.at(0.0, moves[first]), line.at(line.length, moves[last])
            line = Line(float(xa), float(ya), float(xb), float(yb))
        return line

    def _extent(self, line: Line) -> tuple[float, float]:
        """Return where a trail begins and ends on a line, a little beyond the frame's edges if it goes so far."""
        ny, nx = self._values.shape
        far = math.hypot(ny, nx)
        t = np.arange(-far, far + line.length)
        x, y = line.at(t)
        t = t[(x > -1) & (y > -1) & (x < nx) & (y < ny)]
        # The triangle of a bilinear sample at each of three places catches a trail between two rows of cells.
        value, count = (
            np.sum([_sampled(image, line, t, u) for u in (-0.5, 0.0, 0.5)], axis=0)
            for image in (self._values, self._known)
        )
        inside = (t >= 0) & (t <= line.length)
        height = float(value[inside].sum() / max(count[inside].sum(), 1.0))
        first, last = 0.0, line.length
        for start in np.arange(t[0], t[-1], _SECTION_CELLS / 2):
            part = (t >= start) & (t < start + _SECTION_CELLS)
            # Noise of the sum of three neighbouring samples of correlated cells, over the number of samples.
            noise = math.sqrt(max(float(count[part].sum()), 4.0) * 2.0)
            if value[part].sum() > _SECTION_SIGMA * noise:
                first, last = min(first, start), max(last, start + _SECTION_CELLS)
        # A faint trail is seen in few sections though it crosses them all: beyond these, one of 0.8 of the height
        # is likelier than none up to where this sum is greatest.
        excess = value - 0.4 * height * count
        after, before = t > last, t < first
        last += _most(excess[after])
        first -= _most(excess[before][::-1])
        there = t[count > 0.5]
        # Nothing tells an end from the frame's edge on the last cells.
        if first - there[0] < _SECTION_CELLS:
            first = there[0] - 2
        if there[-1] - last < _SECTION_CELLS:
            last = there[-1] + 2
        return float(max(first, there[0] - 2)), float(min(last, there[-1] + 2))

    def is_cut(self, line: Line) -> tuple[bool, bool]:
        """Tell for its start and its end whether a line is cut off there because nothing is known beyond."""
        beyond = np.arange(1.0, 5.0)
        before, after = (_sampled(self._known, line, t, 0.0).sum() for t in (-beyond, line.length + beyond))
        return bool(before < 0.5), bool(after < 0.5)

    def is_ridge(self, line: Line) -> bool:
        """Tell a line that is brighter than both its sides from the step at a border."""
        t = np.arange(0.0, line.length)

        def mean(u: Floats) -> tuple[float, float]:
            value, count = (
                float(_sampled(image, line, np.broadcast_to(t, (len(u), len(t))), u[:, None]).sum())
                for image in (self._values, self._known)
            )
            return value / max(count, 1.0), count

        centre, count = mean(np.array([-0.5, 0.0, 0.5]))
        noise = math.sqrt(2.0 / max(count, 1))
        for near, far in _SIDES:
            sides = [mean(sign * np.arange(near, far + 1)) for sign in (-1, 1)]
            # Both must be there: on the last 20 pixels a trail is like the glow that many a raw frame has there.
            seen = all(n > 0.5 * count for _, n in sides)
            if seen and centre - max(level for level, _ in sides) > _RIDGE_SIGMA * noise:
                return True
        return False

    def follow(self, seed: Segment) -> Line:
        """Fit a line to a segment and what continues it.

        Returns
        -------
        Line
            In cells, along the whole trail: gaps (tumbling) included, to the frame's edge where it goes so far.
        """
        line = self._fitted(Line(seed.x0, seed.y0, seed.x1, seed.y1))
        for _ in range(4):
            extent = self._extent(line)
            longer = self._fitted(line.between(*extent))
            grown = longer.length > line.length + 1
            line = longer
            if not grown:
                break
        return line
