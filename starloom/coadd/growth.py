"""What of a star's light lies outside its aperture: from the frames' own growth (Stetson 1990, PASP 102, 932)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.apertures import RADII, TOTAL_RADIUS
from starloom.coadd.strip import Floats

if TYPE_CHECKING:
    from starloom.coadd.match import StarFluxes

_MODEL_BETA = 3.5
"""Moffat slope of the wings where no frame tells its own."""

_GAUSSIAN_BETA = 1000.0
"""Slope from which on a Moffat profile is a Gaussian."""

_GROWTH_TRUST = 0.01
"""Standard error beyond which a frame's own growth says nothing: the model is off by that much as well."""
_GROWTH_SPREAD = 5e-4
"""Least scatter of the true growth among frames of one telescope."""
_OWN_PRIOR_FRAMES, _FEW_SPREAD = 3, 0.003


def _moffat_inside(beta: Floats, radius: float) -> Floats:
    """Return the share of a Moffat profile's light within ``radius``, over that of the smallest aperture.

    That is three half-light radii wide, 1.5 FWHM as these are measured.
    """
    core = 2 ** (1 / (beta - 1)) - 1
    return np.asarray(1 - (1 + 9 * radius**2 * core) ** (1 - beta))


def total_factors(stars: Sequence[StarFluxes]) -> Floats:
    """Return, per frame, a star's total flux over that in its aperture.

    Notes
    -----
    A frame's own growth is drawn towards the median of its telescope's frames (of all, where these are less than
    three) as far as its error exceeds their scatter: its sixty stars tell 0.05 %, and twelve frames of a telescope
    hardly differ. From the growth out to twice the aperture follow the wings beyond, as a Moffat profile's.
    """
    growth = np.array([s.growth for s in stars])
    error = np.array([s.growth_error for s in stars])
    measured = error < _GROWTH_TRUST
    beta = np.concatenate([[_GAUSSIAN_BETA], np.geomspace(40, 1.8, 200)])
    grown = _moffat_inside(beta, TOTAL_RADIUS) / _moffat_inside(beta, 1.0)
    model = float(np.interp(-_MODEL_BETA, -beta, grown))
    result = np.empty(len(stars))
    priors: dict[str, tuple[float, float]] = {}
    for i, star in enumerate(stars):
        if star.node not in priors:
            own = measured & np.array([s.node == star.node for s in stars])
            priors[star.node] = _prior(growth, error, own if own.sum() >= _OWN_PRIOR_FRAMES else measured, model)
        centre, spread = priors[star.node]
        share = 1 / (1 + (error[i] / spread) ** 2) if measured[i] else 0.0
        drawn = centre + share * (growth[i] - centre)
        share = np.eye(len(RADII))[0] if star.share is None else star.share
        # A flux is a sum of several apertures'; so is the profile's, whatever its course.
        inside = share @ np.stack([_moffat_inside(beta, r) for r in RADII])
        result[i] = np.interp(drawn, grown, 1 / inside)
    return result


def _prior(growth: Floats, error: Floats, use: NDArray[np.bool_], model: float) -> tuple[float, float]:
    if not use.any():
        return model, _GROWTH_TRUST
    known, weight = growth[use], 1 / (error[use] ** 2 + _FEW_SPREAD**2)
    centre = float(np.sum(weight * known) / weight.sum())
    if use.sum() < _OWN_PRIOR_FRAMES:
        return centre, _FEW_SPREAD
    middle = float(np.median(known))
    scatter = 1.4826 * float(np.median(np.abs(known - middle)))
    noise = float(np.median(error[use]))
    return middle, max(_GROWTH_SPREAD, float(np.sqrt(max(scatter**2 - noise**2, 0.0))))
