"""A frame's map between exact nodes: cubic from the lattice to nodes, bilinear from nodes to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import compiled

Floats = NDArray[np.float64]

OUTSIDE = -1e9
"""Frame coordinate of a node that the lattice does not reach: no pixel beside it shows the frame."""

_HALF = 0.5 * OUTSIDE


@compiled
def _cubic(t: float) -> tuple[float, float, float, float]:
    """Weights of nodes 0, 1, 2, 3 at ``t``: Lagrange's polynomial, exact for cubics."""
    a, b, c = t - 1, t - 2, t - 3
    return -a * b * c / 6, t * b * c / 2, -t * a * c / 2, t * a * b / 6


@compiled
def _slope(t: float) -> tuple[float, float, float, float]:
    """The derivatives of `_cubic`'s weights."""
    s = t * t
    return -(3 * s - 12 * t + 11) / 6, (3 * s - 10 * t + 6) / 2, -(3 * s - 8 * t + 3) / 2, (3 * s - 6 * t + 2) / 6


@compiled
def _surface(terms: Floats, u: float, v: float) -> Any:
    return terms[0] + terms[1] * u + terms[2] * v + terms[3] * u * u + terms[4] * u * v + terms[5] * v * v


@compiled
def _at(
    lattice: Floats,
    i0: int,
    j0: int,
    step: float,
    terms: Floats,
    ny: int,
    nx: int,
    grid_x: float,
    grid_y: float,
) -> tuple[float, float, float]:
    """Return frame x, y and frame pixels per output pixel at one place of the grid."""
    rows, columns = lattice.shape[1], lattice.shape[2]
    p, q = grid_x / step - i0, grid_y / step - j0
    if not (p >= 0 and q >= 0 and p <= columns - 1 and q <= rows - 1):
        return OUTSIDE, OUTSIDE, 0.0
    i = min(max(int(p) - 1, 0), columns - 4)
    j = min(max(int(q) - 1, 0), rows - 4)
    wx, wy = _cubic(p - i), _cubic(q - j)
    sx, sy = _slope(p - i), _slope(q - j)
    x = y = x_dx = x_dy = y_dx = y_dy = 0.0
    for r in range(4):
        a = b = a_dx = b_dx = 0.0
        for c in range(4):
            u, v = lattice[0, j + r, i + c], lattice[1, j + r, i + c]
            a += wx[c] * u
            b += wx[c] * v
            a_dx += sx[c] * u
            b_dx += sx[c] * v
        x += wy[r] * a
        y += wy[r] * b
        x_dx += wy[r] * a_dx
        y_dx += wy[r] * b_dx
        x_dy += sy[r] * a
        y_dy += sy[r] * b
    if not (abs(x) < -OUTSIDE and abs(y) < -OUTSIDE):
        return OUTSIDE, OUTSIDE, 0.0
    # Registration is known on the frame only; further out it must not run away.
    ku, kv = 2.0 / max(nx - 1, 1), 2.0 / max(ny - 1, 1)
    u, v = min(max(x * ku - 1, -1.5), 1.5), min(max(y * kv - 1, -1.5), 1.5)
    g, h = terms[0], terms[1]
    gx, gy = (g[1] + 2 * g[3] * u + g[4] * v) * ku, (g[2] + g[4] * u + 2 * g[5] * v) * kv
    hx, hy = (h[1] + 2 * h[3] * u + h[4] * v) * ku, (h[2] + h[4] * u + 2 * h[5] * v) * kv
    area = abs((x_dx * y_dy - x_dy * y_dx) * ((1 + gx) * (1 + hy) - gy * hx)) / (step * step)
    return x + _surface(g, u, v), y + _surface(h, u, v), area


@compiled
def at_nodes(
    lattice: Floats,
    i0: int,
    j0: int,
    step: float,
    terms: Floats,
    ny: int,
    nx: int,
    x0: float,
    y0: float,
    spacing: float,
    out: Floats,
) -> None:
    """Fill ``out`` (3, rows, columns) with x, y and area at ``x0 + column * spacing``, ``y0 + row * spacing``.

    Parameters
    ----------
    lattice
        Exact frame x and y, shape ``(2, rows, columns)``, node (0, 0) at grid pixel ``(i0 * step, j0 * step)``.
    terms
        Registration, shape ``(2, 6)``, frame pixels over the frame of shape ``(ny, nx)``.
    """
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            x, y, area = _at(lattice, i0, j0, step, terms, ny, nx, x0 + column * spacing, y0 + row * spacing)
            out[0, row, column] = x
            out[1, row, column] = y
            out[2, row, column] = area


@compiled
def at_places(
    lattice: Floats, i0: int, j0: int, step: float, terms: Floats, ny: int, nx: int,
    places: Floats, spacing: float, out: Floats,
) -> None:  # fmt: skip
    """Fill ``out`` (n, 2) with x and y at ``places`` (n, 2); the other arguments are those of `at_nodes`.

    With a ``spacing`` of nodes bilinear between those, else (0) cubic on the lattice itself.
    """
    for k in range(places.shape[0]):
        place_x, place_y = places[k, 0], places[k, 1]
        if spacing == 0:
            out[k, 0], out[k, 1], _ = _at(lattice, i0, j0, step, terms, ny, nx, place_x, place_y)
            continue
        i, j = np.floor(place_x / spacing), np.floor(place_y / spacing)
        s, t = place_x / spacing - i, place_y / spacing - j
        out[k, 0] = out[k, 1] = 0.0
        for corner in range(4):
            right, above = corner & 1, corner >> 1
            x, y, _ = _at(lattice, i0, j0, step, terms, ny, nx, (i + right) * spacing, (j + above) * spacing)
            weight = (s if right else 1 - s) * (t if above else 1 - t)
            out[k, 0] += weight * x
            out[k, 1] += weight * y


@compiled
def cell_corners(
    x: Floats, y: Floats, row: int, column: int
) -> tuple[bool, float, float, float, float, float, float, float, float]:
    """Return whether a cell of nodes lies on the lattice, and x and y of its four corners."""
    x00, x01, x10, x11 = x[row, column], x[row, column + 1], x[row + 1, column], x[row + 1, column + 1]
    known = x00 > _HALF and x01 > _HALF and x10 > _HALF and x11 > _HALF
    return (
        known, x00, x01, x10, x11,
        y[row, column], y[row, column + 1], y[row + 1, column], y[row + 1, column + 1],
    )  # fmt: skip
