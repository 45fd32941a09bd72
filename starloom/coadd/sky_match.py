"""One sky for all frames: smooth terms per frame, fitted to what differs between frames and to nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from starloom.coadd.match import SKY_POWERS, sky_basis

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LATTICE_MOST = 48
_NODES_A_FRAME = 7
"""Nodes of the common sky along the side of a frame: wider apart than the samples of a frame of eight bands."""

_GRADIENT_SAMPLES, _BOWL_SAMPLES = 12, 30
#: Share of a frame, each way, over which others must see its sky: a bowl guessed from a strip is none elsewhere.
_GRADIENT_SPAN, _BOWL_SPAN = 0.2, 0.5

_ROUNDS = 5
_RIDGE = 1e-8
"""Of the information in a frame's samples; decides only what the samples do not."""
_SLOPE_RIDGE = 3e-4
"""The same for gradients and bowls. Frames of one pointing know each other's, not those they have in common: what
narrow seams of a mosaic say of these was a bowl of a whole sigma, where nothing was."""
_SMOOTH = 1e-3
"""Weight of the common sky's curvature against that of a sample: it bridges nodes that no frame saw."""


@dataclass(frozen=True, eq=False)
class SkySamples:
    """Sky of one frame at places of the output grid.

    0-based grid pixels `x`, `y`, sky `value` and its `error` in output units, each of shape ``(n,)``; `extent` is
    ``(x0, x1, y0, y1)`` of the whole frame on the grid.
    """

    x: Floats
    y: Floats
    value: Floats
    error: Floats
    extent: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class MatchedSky:
    """Terms of `SKY_POWERS` to subtract from each frame, shape ``(n, 6)``, and the sky they leave in common.

    ``level`` lies on a lattice of ``(rows, columns)`` spread evenly from the grid's first to its last pixel.
    """

    terms: Floats
    level: Floats


@dataclass(frozen=True, eq=False)
class _Block:
    """One frame in the fit: nodes it touches, the corners and weights of each sample, its own basis."""

    nodes: Indices
    corner: Indices
    share: Floats
    basis: Floats
    value: Floats
    error: Floats
    to_grid: Floats


def lattice_shape(shape: tuple[int, int], frame_px: float) -> tuple[int, int]:
    """Return (rows, columns) of the lattice of the common sky.

    Parameters
    ----------
    shape
        ``(ny, nx)`` of the output grid.
    frame_px
        Side of a typical frame, output pixels.
    """
    spacing = max(frame_px / _NODES_A_FRAME, 8.0)
    ny, nx = (int(np.clip(np.ceil((n - 1) / spacing) + 1, 2, LATTICE_MOST)) for n in shape)
    return ny, nx


def match_skies(
    frames: Sequence[SkySamples], shape: tuple[int, int], lattice: tuple[int, int], *, match: bool = True
) -> MatchedSky:
    """Fit a smooth sky per frame and a common sky, together.

    Parameters
    ----------
    frames
        Samples of each frame; cells of stars and nebulae are welcome, as what all frames show is common.
    shape
        ``(ny, nx)`` of the output grid.
    lattice
        From `lattice_shape`.
    match
        False: terms of 0; only the common sky is fitted, to all frames as they are.

    Returns
    -------
    MatchedSky
        Terms over u, v in [-1, 1] of the grid. Of terms and common sky only the sum is known; the terms are those
        that leave the least squares over all frames: with frames of one field their mean is nearly 0.

    Notes
    -----
    Samples are ``C(x, y) + T_k(u, v)``, with ``C`` bilinear on the lattice and ``T_k`` of second order at most.
    Iterated Huber weights; each frame's six terms are eliminated, so that time grows with the number of frames and
    memory not at all. Gradients are fitted only to frames that share 12 samples and a fifth of their extent with
    others, second powers with 30 samples and half of it.
    """
    blocks = _blocks(frames, shape, lattice, match)
    n_nodes = lattice[0] * lattice[1]
    smooth = _curvature(lattice)
    common, local = np.zeros(n_nodes), [np.zeros(len(SKY_POWERS)) for _ in blocks]
    start = (
        float(np.median(np.concatenate([b.value for b in blocks]))) if any(len(b.value) for b in blocks) else 0.0
    )
    common += start
    weights = [1 / b.error**2 for b in blocks]
    for _ in range(_ROUNDS):
        common, local = _solve(blocks, weights, smooth, common)
        left = [_residual(b, common, t) for b, t in zip(blocks, local, strict=True)]
        every = np.concatenate(left) if left else np.zeros(0)
        spread = 1.4826 * float(np.median(np.abs(every))) if len(every) else 0.0
        weights = []
        for b, r in zip(blocks, left, strict=True):
            error = np.hypot(b.error, spread)
            weights.append(1 / error**2 / np.maximum(1, np.abs(r) / (2 * error)))
    terms = np.array([b.to_grid @ t for b, t in zip(blocks, local, strict=True)]).reshape(-1, len(SKY_POWERS))
    if match:
        # A common bowl is nobody's where no frame has one of its own.
        own = np.array([any(b.basis[k].any() for b in blocks) for k in range(len(SKY_POWERS))])
        gauge = common_surface(frames, terms, shape, own)
        terms = terms - gauge
        gy, gx = np.meshgrid(np.linspace(-1, 1, lattice[0]), np.linspace(-1, 1, lattice[1]), indexing="ij")
        common = common + gauge @ sky_basis(gx.ravel(), gy.ravel())
    return MatchedSky(terms, common.reshape(lattice))


def unit_places(place: Floats, size: int) -> Floats:
    """Return pixels of a side of ``size`` as -1 to 1."""
    return place / max(size - 1, 1) * 2 - 1


def _corners(x: Floats, y: Floats, shape: tuple[int, int], lattice: tuple[int, int]) -> tuple[Indices, Floats]:
    """Return the four nodes around each place and their bilinear weights, shapes ``(n, 4)``."""
    row = np.clip(y / max(shape[0] - 1, 1), 0, 1) * (lattice[0] - 1)
    column = np.clip(x / max(shape[1] - 1, 1), 0, 1) * (lattice[1] - 1)
    i = np.minimum(row.astype(np.intp), lattice[0] - 2)
    j = np.minimum(column.astype(np.intp), lattice[1] - 2)
    f, g = row - i, column - j
    first = i * lattice[1] + j
    corner = np.stack([first, first + 1, first + lattice[1], first + lattice[1] + 1], axis=1)
    return corner, np.stack([(1 - f) * (1 - g), (1 - f) * g, f * (1 - g), f * g], axis=1)


def _blocks(
    frames: Sequence[SkySamples], shape: tuple[int, int], lattice: tuple[int, int], match: bool
) -> list[_Block]:
    corners = [_corners(f.x, f.y, shape, lattice) for f in frames]
    seen = np.zeros(lattice[0] * lattice[1], np.intp)
    for corner, _ in corners:
        seen[np.unique(corner[:, 0])] += 1
    blocks = []
    for f, (corner, share) in zip(frames, corners, strict=True):
        nodes, inverse = np.unique(corner, return_inverse=True)
        x0, x1, y0, y1 = f.extent
        half_x, half_y = max(0.5 * (x1 - x0), 1.0), max(0.5 * (y1 - y0), 1.0)
        u, v = (f.x - 0.5 * (x0 + x1)) / half_x, (f.y - 0.5 * (y0 + y1)) / half_y
        order = _order(u, v, seen[corner[:, 0]] > 1) if match else -1
        basis = sky_basis(u, v)
        for term, powers in enumerate(SKY_POWERS):
            basis[term] *= sum(powers) <= order
        to_grid = to_grid_terms((0.5 * (x0 + x1), half_x), (0.5 * (y0 + y1), half_y), shape)
        blocks.append(_Block(nodes, inverse.reshape(corner.shape), share, basis, f.value, f.error, to_grid))
    return blocks


def _order(u: Floats, v: Floats, shared: NDArray[np.bool_]) -> int:
    """Return the order of a frame's surface that its shared samples can tell; -1: none."""
    n = int(shared.sum())
    if n == 0:
        return -1
    span = 0.5 * min(np.ptp(u[shared]), np.ptp(v[shared]))
    if n >= _BOWL_SAMPLES and span >= _BOWL_SPAN:
        return 2
    return 1 if n >= _GRADIENT_SAMPLES and span >= _GRADIENT_SPAN else 0


def to_grid_terms(x: tuple[float, float], y: tuple[float, float], shape: tuple[int, int]) -> Floats:
    """Return the matrix from terms over a frame to those over the grid.

    Parameters
    ----------
    x, y
        The frame's middle and half its side along each axis, grid pixels.
    shape
        ``(ny, nx)`` of the grid.
    """
    half = [0.5 * max(n - 1, 1) for n in shape[::-1]]
    (a, b), (c, d) = ((h / s, (h - m) / s) for h, (m, s) in zip(half, (x, y), strict=True))
    return _substituted(a, b, c, d)


def _substituted(a: float, b: float, c: float, d: float) -> Floats:
    """Return the matrix from terms over ``a u + b``, ``c v + d`` to terms over u, v."""
    return np.array(
        [
            [1, b, d, b * b, b * d, d * d],
            [0, a, 0, 2 * a * b, a * d, 0],
            [0, 0, c, 0, b * c, 2 * c * d],
            [0, 0, 0, a * a, 0, 0],
            [0, 0, 0, 0, a * c, 0],
            [0, 0, 0, 0, 0, c * c],
        ]
    )


def _curvature(lattice: tuple[int, int]) -> Floats:
    """Return the quadratic form of the second differences of a surface on the lattice."""

    def one(n: int) -> Floats:
        second = np.zeros((max(n - 2, 0), n))
        for i in range(n - 2):
            second[i, i : i + 3] = 1, -2, 1
        return np.asarray(second.T @ second)

    ny, nx = lattice
    return np.asarray(np.kron(one(ny), np.eye(nx)) + np.kron(np.eye(ny), one(nx)))


def _solve(
    blocks: Sequence[_Block], weights: Sequence[Floats], smooth: Floats, about: Floats
) -> tuple[Floats, list[Floats]]:
    """Solve the weighted normal equations for the common sky and each frame's own terms.

    The unknown of the common sky is its change ``about`` a first guess, which the curvature pulls to nothing.
    """
    k = len(SKY_POWERS)
    typical = float(np.median(np.concatenate(weights))) if any(len(w) for w in weights) else 1.0
    matrix = typical * _SMOOTH * smooth
    # Gauge: six directions are free, and nodes of which nothing is known.
    matrix[np.diag_indices_from(matrix)] += typical * _RIDGE
    right = -typical * _SMOOTH * (smooth @ about)
    ridge = np.array([_RIDGE] + [_SLOPE_RIDGE] * (k - 1))
    kept = []
    for b, w in zip(blocks, weights, strict=True):
        m = len(b.nodes)
        weighted = b.basis * w
        data = b.value - np.sum(b.share * about[b.nodes[b.corner]], axis=1)
        own = weighted @ b.basis.T
        own[np.diag_indices(k)] += max(float(w.sum()), 1e-300) * ridge
        flat = b.corner.ravel()
        cross = np.stack([np.bincount(flat, (t[:, None] * b.share).ravel(), m) for t in weighted])
        pair = (b.corner[:, :, None] * m + b.corner[:, None, :]).ravel()
        square = np.bincount(pair, (w[:, None, None] * b.share[:, :, None] * b.share[:, None, :]).ravel(), m * m)
        factor = linalg.cho_factor(own, lower=True)
        through = linalg.cho_solve(factor, np.column_stack([cross, weighted @ data]))
        matrix[np.ix_(b.nodes, b.nodes)] += square.reshape(m, m) - cross.T @ through[:, :m]
        right[b.nodes] += np.bincount(flat, ((w * data)[:, None] * b.share).ravel(), m) - cross.T @ through[:, m]
        kept.append(through)
    change = linalg.solve(matrix, right, assume_a="pos", overwrite_a=True, overwrite_b=True)
    terms = [t[:, -1] - t[:, :-1] @ change[b.nodes] for b, t in zip(blocks, kept, strict=True)]
    return about + change, terms


def _residual(b: _Block, common: Floats, terms: Floats) -> Floats:
    return np.asarray(b.value - np.sum(b.share * common[b.nodes[b.corner]], axis=1) - terms @ b.basis)


def common_surface(
    frames: Sequence[SkySamples], terms: Floats, shape: tuple[int, int], own: NDArray[np.bool_]
) -> Floats:
    """Return the surface that all frames' terms have in common, of the terms that are ``own``.

    Least squares over all frames. Not the mean of the terms: far from its own place on a mosaic a frame's surface
    means nothing. Levels are left out of the slopes: that the frames in the west were darker does not make a
    gradient.
    """
    k = len(SKY_POWERS)
    matrix, right = np.zeros((k, k)), np.zeros(k)
    middles = []
    # Every frame counts alike, however many samples it has.
    seen = [(f, t) for f, t in zip(frames, terms, strict=True) if len(f.x)]
    for f, t in seen:
        basis = sky_basis(unit_places(f.x, shape[1]), unit_places(f.y, shape[0]))
        middle = basis.mean(axis=1)
        middles.append(middle)
        basis = basis - middle[:, None]
        product = basis @ basis.T / len(f.x)
        matrix += product
        right += product @ t
    matrix[np.diag_indices(k)] += _RIDGE * max(float(np.trace(matrix)), 1e-300)
    gauge = np.zeros(k)
    gauge[own] = np.linalg.solve(matrix[np.ix_(own, own)], right[own])
    levels = [float(middle @ (t - gauge)) for middle, (_, t) in zip(middles, seen, strict=True)]
    gauge[0] += float(np.mean(levels)) if levels else 0.0
    return gauge
