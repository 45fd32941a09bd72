"""The exact map between an output grid and a frame, through astropy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import NDArray

from starloom.coadd.inputs import wcs_from_cards

Floats = NDArray[np.float64]

_ROUND_TRIP_PX = 1e-3
"""How far, frame pixels, the way back may miss: SIP inverted far off the frame settles on a false root."""


def _system(wcs: WCS) -> tuple[str, str, str]:
    return wcs.wcs.lngtyp, wcs.wcs.radesys, str(wcs.wcs.equinox)


def _vectors(sky: tuple[Floats, Floats]) -> Floats:
    longitude, latitude = np.radians(sky[0]), np.radians(sky[1])
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])


class ExactMap:
    """Grid pixels to frame pixels and back, both 0-based; not safe to share between threads (wcslib is not).

    Celestial frames are converted only where they differ (galactic, FK5 against ICRS).
    """

    def __init__(self, grid: dict[str, Any], frame_cards: dict[str, Any], frame_shape: tuple[int, int]) -> None:
        self._grid = _grid_wcs(tuple((k, v) for k, v in grid.items() if not k.startswith("NAXIS")))
        self._frame = wcs_from_cards(frame_cards)
        self._shape = frame_shape
        self._systems = None
        if _system(self._grid) != _system(self._frame):
            systems = wcs_to_celestial_frame(self._grid), wcs_to_celestial_frame(self._frame)
            if not systems[0].is_equivalent_frame(systems[1]):
                self._systems = systems
        self._scale = float(np.sqrt(abs(np.linalg.det(self._frame.pixel_scale_matrix))))

    def _convert(self, sky: tuple[Floats, Floats], *, back: bool) -> tuple[Floats, Floats]:
        if self._systems is None:
            return sky
        source, target = self._systems[::-1] if back else self._systems
        known = np.isfinite(sky[0] + sky[1])
        out = np.full(sky[0].shape, np.nan), np.full(sky[0].shape, np.nan)
        found = SkyCoord(sky[0][known] * u.deg, sky[1][known] * u.deg, frame=source).transform_to(target)
        out[0][known] = found.spherical.lon.deg
        out[1][known] = found.spherical.lat.deg
        return out

    def to_frame(self, x: Floats, y: Floats, terms: Floats | None = None) -> tuple[Floats, Floats]:
        """Return frame coordinates of grid pixels; NaN where the frame's WCS has no inverse.

        ``terms`` of shape (2, 6) adds a registration, as `PlanFrame.registration` has it.
        """
        return_x, return_y = _inverse(
            self._frame, self._convert(_forward(self._grid, x, y), back=False), self._scale
        )
        if terms is None:
            return return_x, return_y
        ny, nx = self._shape
        p, q = (np.clip(a / max(n - 1, 1) * 2 - 1, -1.5, 1.5) for a, n in ((return_x, nx), (return_y, ny)))
        basis = np.stack([np.ones_like(p), p, q, p * p, p * q, q * q])
        return return_x + terms[0] @ basis, return_y + terms[1] @ basis

    def to_grid(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return grid pixels of frame coordinates; NaN where the grid's WCS has no inverse."""
        scale = float(np.sqrt(abs(np.linalg.det(self._grid.pixel_scale_matrix))))
        return _inverse(self._grid, self._convert(_forward(self._frame, x, y), back=True), scale)


class _LastGrid(threading.local):
    """The grid that this thread used last: all frames of a plan share theirs, and reading its cards takes 2 ms."""

    cards: tuple[tuple[str, Any], ...] = ()
    wcs: WCS


_LAST_GRID = _LastGrid()


def _grid_wcs(cards: tuple[tuple[str, Any], ...]) -> WCS:
    if _LAST_GRID.cards != cards:
        _LAST_GRID.wcs, _LAST_GRID.cards = wcs_from_cards(dict(cards)), cards
    return _LAST_GRID.wcs


def _forward(wcs: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    with np.errstate(all="ignore"):
        world = wcs.all_pix2world(x, y, 0)
    return world[wcs.wcs.lng], world[wcs.wcs.lat]


def _inverse(wcs: WCS, sky: tuple[Floats, Floats], scale_deg: float) -> tuple[Floats, Floats]:
    """Invert a WCS and go back; what does not come back within `_ROUND_TRIP_PX` becomes NaN."""
    x, y = np.full(sky[0].shape, np.nan), np.full(sky[0].shape, np.nan)
    # The axes may stand in either order.
    world = sky if wcs.wcs.lng == 0 else sky[::-1]
    with np.errstate(all="ignore"):
        # What has no place before the distortion has none after it; astropy warns when nothing else is left.
        known = np.flatnonzero(np.isfinite(np.sum(wcs.wcs_world2pix(*world, 0), axis=0)))
        if known.size:
            x[known], y[known] = wcs.all_world2pix(
                world[0][known], world[1][known], 0, tolerance=1e-7, maxiter=60, quiet=True
            )
        # As vectors: a difference in RA means nothing at a pole.
        missed = np.linalg.norm(_vectors(_forward(wcs, x, y)) - _vectors(sky), axis=0)
        lost = ~(missed < max(np.radians(scale_deg * _ROUND_TRIP_PX), 1e-12))
    x[lost], y[lost] = np.nan, np.nan
    return x, y


def filled(values: Floats) -> Floats:
    """Return a lattice with its NaN nodes continued from their neighbours along rows, then columns.

    A lost node must not spoil the cubic of cells that lie beside it, on the frame. It becomes the cubic through
    the four nodes next to it; what no row or column reaches becomes `OUTSIDE`.
    """
    from starloom.coadd.resample.lattice import OUTSIDE

    if np.isfinite(values).all():
        return values
    out = values.copy()
    for _ in range(2):
        for view in (out, out[:, ::-1], out.T, out.T[:, ::-1]):
            lost = np.isnan(view)
            for column in range(4, view.shape[1]):
                a, b, c, d = (view[:, column - k] for k in (1, 2, 3, 4))
                place = lost[:, column] & np.isnan(view[:, column])
                view[place, column] = (4 * a - 6 * b + 4 * c - d)[place]
    return np.nan_to_num(out, nan=1.5 * OUTSIDE)
