"""Distortion in the camera's own frame: what an instrument does to a pixel, wherever on the sky it points.

A pixel ``(x, y)`` lies at ``(X, Y)`` from the frame's centre. The optics displace it by ``d(X, Y)`` pixels onto
the *ideal* pixel ``(X, Y) + d``, and a similarity (rotation, scale, parity) carries that onto the tangent plane:

    (ξ, η) = A · ((X, Y) + d(X, Y)),      A = s · R(θ) · (mirror or not).

Pointing, rotation, parity and scale are all in A and in the tangent point, so d stays with the camera: it survives
a meridian flip and a change of the focal length by temperature. d has no constant; of its linear part only what no
similarity holds (pixels that are not square or not upright) belongs to it, two numbers; the rest are the powers
from two on, as in SIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.astrometry.wcs import PlaneMap

Floats = NDArray[np.float64]

#: Numbers of a similarity: shift in x and y, relative scale, rotation.
SIMILARITY = 4
#: Numbers of the linear part of the distortion: stretch along x against y, and along the diagonals.
SHAPE = 2


@cache
def powers(order: int) -> tuple[tuple[int, int], ...]:
    """Return the exponents ``(p, q)`` of the distortion's polynomial, powers 2 to ``order``."""
    return tuple((p, n - p) for n in range(2, order + 1) for p in range(n, -1, -1))


def size(order: int) -> int:
    """Return how many numbers a distortion of this order has: `SHAPE` and two for each of `powers`."""
    return SHAPE + 2 * len(powers(order))


@cache
def degrees(order: int) -> NDArray[np.int64]:
    """Return the total power of every number of a distortion, shape ``(size(order),)``."""
    return np.array([1] * SHAPE + [p + q for p, q in powers(order) for _ in "xy"], np.int64)


@cache
def radial(order: int, power: int) -> Floats:
    """Return the distortion ``(u, v) r^(power - 1)`` of one pixel at unit radius, shape ``(size(order),)``."""
    n = (power - 1) // 2
    found = np.zeros(size(order))
    where = {pq: SHAPE + 2 * i for i, pq in enumerate(powers(order))}
    for k in range(n + 1):
        weight = float(np.prod(range(n - k + 1, n + 1)) / np.prod(range(1, k + 1)))
        p, q = 2 * (n - k), 2 * k
        found[where[p + 1, q]] += weight
        found[where[p, q + 1] + 1] += weight
    return found


def design(u: Floats, v: Floats, order: int) -> Floats:
    """Return how ideal pixels answer to every number of similarity and distortion, pixels per pixel.

    Parameters
    ----------
    u, v
        Places on the frame from its centre, in units of the half diagonal, shape ``(n,)``.
    order
        Highest power of the distortion.

    Returns
    -------
    ndarray
        Shape ``(2, n, 4 + size(order))``. Every number is the displacement in pixels that it makes at the unit
        radius: shift x, shift y, scale, rotation, stretch, skew, and x and y of each power.
    """
    n = len(u)
    found = np.zeros((2, n, SIMILARITY + size(order)))
    found[0, :, 0] = found[1, :, 1] = 1.0
    found[0, :, 2], found[1, :, 2] = u, v
    found[0, :, 3], found[1, :, 3] = -v, u
    found[0, :, 4], found[1, :, 4] = u, -v
    found[0, :, 5], found[1, :, 5] = v, u
    us, vs = [np.ones(n), u], [np.ones(n), v]
    for _ in range(2, order + 1):
        us.append(us[-1] * u)
        vs.append(vs[-1] * v)
    for i, (p, q) in enumerate(powers(order)):
        at = SIMILARITY + SHAPE + 2 * i
        found[0, :, at] = found[1, :, at + 1] = us[p] * vs[q]
    return found


@dataclass(frozen=True)
class Prior:
    """What is believed of a distortion before a frame's stars are asked.

    Parameters
    ----------
    order
        Highest power.
    mean, covariance
        Of its numbers, pixels at the corner, shapes ``(k,)`` and ``(k, k)`` with ``k = size(order)``.
    """

    order: int
    mean: Floats
    covariance: Floats

    @cached_property
    def precision(self) -> Floats:
        """Inverse of the covariance."""
        return np.asarray(np.linalg.inv(self.covariance), np.float64)

    def freed(self, lowest: int, highest: int, width_px: float) -> Prior:
        """Return the same with nothing known of the powers from ``lowest`` to ``highest``."""
        free = (degrees(self.order) >= lowest) & (degrees(self.order) <= highest)
        return Prior(self.order, self.mean, self.covariance + np.diag(np.where(free, width_px**2, 0.0)))

    def frozen(self) -> Prior:
        """Return the belief that there is nothing beyond the linear part."""
        linear = degrees(self.order) == 1
        wide = np.where(linear, np.diag(self.covariance), NOTHING_PX**2)
        return Prior(self.order, np.where(linear, self.mean, 0.0), np.diag(wide))

    def extended(self, other: Prior) -> Prior:
        """Return this belief for its own powers, and another's for the higher ones."""
        k = len(self.mean)
        if other.order <= self.order:
            return self
        mean, covariance = other.mean.copy(), other.covariance.copy()
        mean[:k], covariance[:k, :k] = self.mean, self.covariance
        covariance[:k, k:] = covariance[k:, :k] = 0.0
        return Prior(other.order, mean, covariance)


NOTHING_PX = 1e-4
# Pixels that are not square, and refraction, which at 60 degrees from the zenith squeezes the sky by a thousandth.
SHAPE_WIDTH = 0.03
# What amateur optics do in the corners, pixels (1 sigma). Reducers, correctors and lenses mostly act radially; a
# tilted sensor or a decentred lens makes a tenth of that.
RADIAL_PX = 2.5
OTHERS = {2: 0.12, 3: 0.06, 4: 0.02, 5: 0.02}
QUINTIC_SHARE = 0.2
LENS_SHARE, LENS_DEG = 0.01, 2.5


def everyday(order: int, unit_px: float, half_diagonal_deg: float) -> Prior:
    """Return what may be expected of a camera that nobody knows.

    Parameters
    ----------
    order
        Highest power.
    unit_px, half_diagonal_deg
        Half diagonal of the frame.

    Notes
    -----
    Lenses of some degrees distort by a per cent of the radius, which telescopes hardly do. A lens that maps angles
    otherwise than by their tangent (equidistant, stereographic) departs from the gnomonic projection by a third to
    a twelfth of θ² besides.
    """
    theta = np.radians(min(half_diagonal_deg, 45.0))
    lens = LENS_SHARE * min(half_diagonal_deg / LENS_DEG, 1.0) ** 2
    width = float(np.hypot(RADIAL_PX, unit_px * (lens + theta**2 / 2)))
    of_power = degrees(order)
    sigma = np.array([SHAPE_WIDTH * unit_px if p == 1 else OTHERS.get(int(p), 0.02) * width for p in of_power])
    covariance = np.diag(sigma**2)
    if order >= 3:
        covariance += width**2 * np.outer(radial(order, 3), radial(order, 3))
    if order >= 5:
        covariance += (QUINTIC_SHARE * width) ** 2 * np.outer(radial(order, 5), radial(order, 5))
    return Prior(order, np.zeros(size(order)), covariance)


def similarity(cd: ArrayLike) -> Floats:
    """Return the rotation with scale and parity nearest to a CD matrix: what is left is a `SHAPE`."""
    (a, b), (c, d) = np.asarray(cd, np.float64)
    if a * d - b * c > 0:
        p, q = (a + d) / 2, (c - b) / 2
        return np.array([[p, -q], [q, p]])
    p, q = (a - d) / 2, (b + c) / 2
    return np.array([[p, q], [q, -p]])


def as_map(
    ra0_deg: float, dec0_deg: float, centre: tuple[float, float], unit_px: float, cd: Floats, numbers: Floats
) -> PlaneMap:
    """Return the map of a similarity and a distortion.

    Parameters
    ----------
    ra0_deg, dec0_deg
        Sky position of the frame's centre.
    centre
        The frame's centre, 0-based pixels.
    unit_px
        Half diagonal.
    cd
        Similarity, degrees per pixel.
    numbers
        Distortion, pixels at the corner, shape ``(size(order),)``.
    """
    order = next(o for o in range(1, 12) if size(o) == len(numbers))
    a, b = numbers[:SHAPE]
    linear = np.array([[unit_px + a, b], [b, unit_px - a]])
    terms = np.concatenate([np.zeros((1, 2)), linear, numbers[SHAPE:].reshape(-1, 2)])
    if order > 1 and np.abs(terms[3:]).max() < 10 * NOTHING_PX:
        order, terms = 1, terms[:3]
    exponents = ((0, 0), (1, 0), (0, 1), *powers(order))
    return PlaneMap(ra0_deg, dec0_deg, *centre, unit_px, exponents, terms @ cd.T)


def of_map(found: PlaneMap, order: int) -> Floats:
    """Return the distortion of a map about the frame's centre, pixels at the corner; higher powers are dropped."""
    inverse = np.linalg.inv(similarity(found.cd))
    term = {pq: inverse @ t for pq, t in zip(found.powers, found.terms, strict=True)}
    numbers = np.zeros(size(order))
    numbers[0] = (term[1, 0][0] - term[0, 1][1]) / 2
    numbers[1] = (term[1, 0][1] + term[0, 1][0]) / 2
    for i, pq in enumerate(powers(order)):
        if pq in term:
            numbers[SHAPE + 2 * i : SHAPE + 2 * i + 2] = term[pq]
    return numbers
