"""Where a frame lies on the output grid: exact on a coarse lattice, checked between, tens of kilobytes a frame."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.inside import weights_at
from starloom.coadd.plan import PlanFrame, StackPlan, Terms, Tile
from starloom.coadd.resample.exact import ExactMap, filled
from starloom.coadd.resample.lattice import OUTSIDE, at_nodes, at_places
from starloom.errors import BadInput

Floats = NDArray[np.float64]

LATTICE_PX = 32
"""Spacing of slowly varying quantities on the output grid: nodes at absolute multiples, bilinear between."""

NODE_PX = (32, 16, 8, 4)
"""Spacings of WCS nodes, output pixels; the widest that is good enough is taken."""

MAX_ERROR_PX = 0.01
"""Largest error of a position between nodes, frame pixels."""

_EXACT_PX = (128, 64, 32, 16, 8)
_EXACT_ERROR_PX = 1e-3
"""Spacings of exact evaluations, and the error of the cubic between them that is good enough."""

_MARGIN_PX = 96.0
"""The lattice reaches this far beyond the frame, so that nodes beside its edge are known."""

_SAMPLES = 17
"""Places per axis at which a frame is looked at: its extent on the grid, and the errors between nodes."""

_SLACK_PX = 8.0
"""Frames and tiles that lie this close, frame pixels, are left to the kernel to judge."""


_KNOWN: dict[Any, tuple[_Lattice | None, tuple[Floats, Floats]]] = {}
"""Maps evaluated last, some 30 kB each: what carries a plan out in the process that checked it asks again."""

_MOST_KNOWN = 1024
_KNOWN_LOCK = threading.Lock()


@dataclass(frozen=True)
class Nodes:
    """A frame's map over one tile.

    Attributes
    ----------
    gx0, gy0
        Absolute index of the first node: it lies at output pixel ``gx0 * node_px``, ``gy0 * node_px``.
    node_px
        Spacing, output pixels.
    x, y
        0-based frame coordinates, float64 of shape ``(rows, columns)``; `lattice.OUTSIDE` where unknown.
    gain
        Output units per ADU, local pixel area included, float32, same shape.
    """

    gx0: int
    gy0: int
    node_px: int
    x: Floats
    y: Floats
    gain: NDArray[np.float32]


@dataclass(frozen=True)
class _Lattice:
    """Exact frame coordinates ``values`` (2, rows, columns) at grid pixels ``(i0 + column) * step``."""

    values: Floats
    i0: int
    j0: int
    step: int

    def at(self, x0: float, y0: float, spacing: float, size: tuple[int, int], terms: Floats, shape: tuple[int, int]
           ) -> Floats:  # fmt: skip
        out = np.empty((3, *size))
        at_nodes(
            self.values, self.i0, self.j0, float(self.step), terms, shape[0], shape[1],
            float(x0), float(y0), float(spacing), out,
        )  # fmt: skip
        return out

    def at_places(self, places: Floats, spacing: int, terms: Floats, shape: tuple[int, int]) -> Floats:
        """Return frame x, y (2, n) at grid pixels (n, 2): bilinear between nodes, or (0) on the lattice itself."""
        out = np.empty((len(places), 2))
        at_places(
            self.values, self.i0, self.j0, float(self.step), terms, shape[0], shape[1], places, float(spacing), out
        )
        return out.T


def _terms(registration: tuple[Terms, Terms] | None) -> Floats:
    return np.zeros((2, 6)) if registration is None else np.array(registration, np.float64)


def _places(exact: ExactMap, frame_shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return where samples of a frame, edges included, fall on the grid; those that have no place are left out."""
    ny, nx = frame_shape
    x, y = np.meshgrid(np.linspace(-1, nx, _SAMPLES), np.linspace(-1, ny, _SAMPLES))
    places = exact.to_grid(x.ravel(), y.ravel())
    known = np.isfinite(places[0] + places[1])
    return places[0][known], places[1][known]


def _lattice(
    exact: ExactMap, places: tuple[Floats, Floats], limits: tuple[float, float, float, float], step: int
) -> _Lattice | None:
    """Evaluate the map every ``step`` pixels around ``places`` within ``limits`` (x, x, y, y); None: nothing."""
    ranges = []
    margin = max(2.0 * step, _MARGIN_PX)
    for values, low, high in zip(places, limits[::2], limits[1::2], strict=True):
        if not values.size or values.max() + margin < low or values.min() - margin > high:
            return None
        first = math.floor(max(values.min() - margin, low - margin) / step) - 1
        last = max(math.ceil(min(values.max() + margin, high + margin) / step) + 1, first + 3)
        ranges.append(np.arange(first, last + 1))
    gx, gy = np.meshgrid(ranges[0] * float(step), ranges[1] * float(step))
    x, y = exact.to_frame(gx.ravel(), gy.ravel())
    values = np.stack([filled(x.reshape(gx.shape)), filled(y.reshape(gx.shape))])
    return _Lattice(np.clip(values, 1.5 * OUTSIDE, -1.5 * OUTSIDE), int(ranges[0][0]), int(ranges[1][0]), step)


def _probes(places: tuple[Floats, Floats], spacing: int) -> Floats:
    """Return ``places`` (grid pixels) and their cells' centres, where interpolation is worst; shape (n, 2)."""
    points = np.stack(places, axis=1)
    cells = np.unique(np.floor(points / spacing), axis=0)
    return np.concatenate([cells * spacing + spacing / 2, points])


def _error(exact: ExactMap, probes: Floats, got: Floats, terms: Floats, shape: tuple[int, int]) -> float:
    """Return the largest error of ``got`` (2, n) on the frame, frame pixels."""
    want = exact.to_frame(probes[:, 0], probes[:, 1], terms)
    with np.errstate(invalid="ignore"):
        # Where either says that the frame is there, both must: a fold of the map may not show a frame twice.
        there = _on(want, shape, 1.0) | _on(got, shape, 1.0)
        # Cells at the frame's corners, where distortions are largest, have their centres outside.
        near = _on(want, shape, float(NODE_PX[0]))
        off = np.hypot(want[0] - got[0], want[1] - got[1])
    off[~(there | near)] = 0.0
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))


def _on(places: tuple[Floats, Floats] | Floats, shape: tuple[int, int], margin: float) -> NDArray[np.bool_]:
    x, y = places
    return np.asarray((x > -margin) & (y > -margin) & (x < shape[1] - 1 + margin) & (y < shape[0] - 1 + margin))


def _good_lattice(
    exact: ExactMap, shape: tuple[int, int], frame_shape: tuple[int, int], shift: tuple[float, float], name: str
) -> tuple[_Lattice | None, tuple[Floats, Floats]]:
    """Return the coarsest lattice that is exact to `_EXACT_ERROR_PX` between its nodes, and the frame's places."""
    ny, nx = shape
    # Tiles ask for nodes up to a spacing beyond the grid.
    limits = (shift[0] - NODE_PX[0], nx + NODE_PX[0] + shift[0], shift[1] - NODE_PX[0], ny + NODE_PX[0] + shift[1])
    places = _places(exact, frame_shape)
    inside = (places[0] > limits[0]) & (places[0] < limits[1]) & (places[1] > limits[2]) & (places[1] < limits[3])
    seen = (places[0][inside], places[1][inside])
    none = np.zeros((2, 6))
    error = 0.0
    for step in _EXACT_PX:
        lattice = _lattice(exact, places, limits, step)
        if lattice is None:
            return None, places
        probes = _probes(seen, step)
        got = lattice.at_places(probes, 0, none, frame_shape)
        error = _error(exact, probes, got, none, frame_shape)
        if error < _EXACT_ERROR_PX:
            return lattice, seen
    raise _too_curved(name, error)


def _evaluated(
    grid: dict[str, Any], shape: tuple[int, int], wcs_cards: dict[str, Any], frame_shape: tuple[int, int],
    shift: tuple[float, float], name: str, exact: ExactMap | None = None,
) -> tuple[_Lattice | None, tuple[Floats, Floats]]:  # fmt: skip
    """Return what `_good_lattice` does; a stack that was planned in this process has it already."""
    bare = tuple((k, v) for k, v in grid.items() if not k.startswith("NAXIS"))
    key = (bare, shape, tuple(wcs_cards.items()), frame_shape, shift)
    with _KNOWN_LOCK:
        found = _KNOWN.get(key)
    if found is None:
        exact = exact or ExactMap(grid, wcs_cards, frame_shape)
        found = _good_lattice(exact, shape, frame_shape, shift, name)
        with _KNOWN_LOCK:
            _KNOWN[key] = found
            if len(_KNOWN) > _MOST_KNOWN:
                del _KNOWN[next(iter(_KNOWN))]
    return found


def _too_curved(name: str, error: float) -> BadInput:
    return BadInput(
        f"the WCS of {name} bends too much between the nodes of the output grid: {error:.2g} frame pixels off",
        code="wcs-too-curved",
        hint="Check the WCS (a distortion of too high an order?), or give a finer output scale.",
    )


def choose_node_px(
    grid: dict[str, Any],
    shape: tuple[int, int],
    wcs_cards: dict[str, Any],
    frame_shape: tuple[int, int],
    registration: tuple[Terms, Terms] | None = None,
    *,
    name: str = "a frame",
) -> tuple[int, float]:
    """Return the widest spacing of nodes at which positions are right to 0.01 px, and the error measured.

    Parameters
    ----------
    grid, shape
        Cards of the output grid and its shape (ny, nx).
    wcs_cards, frame_shape, registration
        Of the frame, as in `PlanFrame`.
    name
        What an error calls the frame.

    Raises
    ------
    BadInput
        ``wcs-too-curved`` when nodes every 4 pixels are not enough.

    Notes
    -----
    Measured against astropy at 17 x 17 places of the frame and at the centres of the cells that hold them, where
    bilinear interpolation is worst.
    """
    exact, terms = ExactMap(grid, wcs_cards, frame_shape), _terms(registration)
    lattice, places = _evaluated(grid, shape, wcs_cards, frame_shape, (0.0, 0.0), name, exact)
    if lattice is None:
        return NODE_PX[0], 0.0
    error = 0.0
    for spacing in NODE_PX:
        probes = _probes(places, spacing)
        got = lattice.at_places(probes, spacing, terms, frame_shape)
        error = _error(exact, probes, got, terms, frame_shape)
        if error < MAX_ERROR_PX:
            return spacing, error
    raise _too_curved(name, error)


class FrameMap:
    """Where a frame of a plan lies on the grid; immutable, shared by all threads."""

    def __init__(self, frame: PlanFrame, lattice: _Lattice | None) -> None:
        self._lattice, self._frame = lattice, frame
        self._terms = _terms(frame.registration)

    @classmethod
    def of(cls, plan: StackPlan, frame: PlanFrame) -> FrameMap:
        """Evaluate a frame's WCS (through astropy) on the plan's grid.

        Raises
        ------
        BadInput
            ``wcs-too-curved``, naming the file.
        """
        name = str(frame.input.path)
        place = frame.shape, frame.shift_px, name
        return cls(frame, _evaluated(plan.grid, plan.shape, frame.wcs_cards, *place)[0])

    @property
    def nbytes(self) -> int:
        """Bytes that the map holds."""
        return 0 if self._lattice is None else self._lattice.values.nbytes

    def _window(self, tile: Tile, spacing: int) -> tuple[int, int, Floats] | None:
        """Return index of the first node (x, y), and x, y, area of all nodes around a tile."""
        if self._lattice is None:
            return None
        gx0, gy0 = tile.x0 // spacing, tile.y0 // spacing
        size = (
            (tile.y0 + tile.ny - 1) // spacing + 2 - gy0,
            (tile.x0 + tile.nx - 1) // spacing + 2 - gx0,
        )
        dx, dy = self._frame.shift_px
        x0, y0 = gx0 * spacing + dx, gy0 * spacing + dy
        return gx0, gy0, self._lattice.at(x0, y0, spacing, size, self._terms, self._frame.shape)

    def nodes(self, tile: Tile) -> Nodes | None:
        """Return the map over a tile; None where tile and frame surely do not overlap."""
        found = self._window(tile, self._frame.node_px)
        if found is None:
            return None
        gx0, gy0, values = found
        known = values[0] > OUTSIDE
        if not known.any():
            return None
        for axis, size in ((0, self._frame.shape[1]), (1, self._frame.shape[0])):
            low = values[axis].min(where=known, initial=math.inf)
            high = values[axis].max(where=known, initial=-math.inf)
            if high < -_SLACK_PX or low > size + _SLACK_PX:
                return None
        gain = (values[2] * self._frame.scale).astype(np.float32)
        return Nodes(gx0, gy0, self._frame.node_px, values[0], values[1], gain)

    def relative(self, tile: Tile) -> NDArray[np.float32] | None:
        """Return the frame's relative weight on the lattice of `LATTICE_PX`; None: 1 everywhere."""
        mesh = self._frame.relative_weight
        if mesh is None:
            return None
        found = self._window(tile, LATTICE_PX)
        if found is None:
            return None
        x, y = found[2][:2]
        return np.ascontiguousarray(weights_at(mesh, self._frame.shape, x, y))


def sky_level_nodes(plan: StackPlan, tile: Tile) -> NDArray[np.float32]:
    """Return ``plan.sky_level`` (output units; 0 when None) on the lattice of `LATTICE_PX` around a tile."""
    axes = []
    table = np.zeros((1, 1)) if plan.sky_level is None else np.array(plan.sky_level, np.float64)
    for start, count, size, cells in (
        (tile.y0, tile.ny, plan.shape[0], table.shape[0]),
        (tile.x0, tile.nx, plan.shape[1], table.shape[1]),
    ):
        nodes = np.arange(start // LATTICE_PX, (start + count - 1) // LATTICE_PX + 2) * LATTICE_PX
        place = nodes / max(size - 1, 1) * (cells - 1)
        # The node beyond the last pixel continues the last cell's slope: pixels before it are then right.
        index = np.clip(np.floor(place).astype(int), 0, max(cells - 2, 0))
        axes.append((index, np.minimum(index + 1, cells - 1), place - index))
    (r0, r1, fy), (c0, c1, fx) = axes
    rows = table[r0] * (1 - fy)[:, None] + table[r1] * fy[:, None]
    return np.asarray(rows[:, c0] * (1 - fx) + rows[:, c1] * fx, np.float32)
