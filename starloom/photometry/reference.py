"""Magnitudes of catalogue stars in a frame's band: published relations first, else the nearest band as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.photometry.bands import band_info
from starloom.refcat.provider import CatalogStars

Floats = NDArray[np.float64]

#: Error of a catalogue magnitude where the catalogue does not say, mag.
UNKNOWN_ERR = 0.05
#: How far an instrument's own passband may stray from the band it is named for: prior of the colour term, mag/mag.
SAME_BAND_COLOUR_TERM = 0.10
OTHER_BAND_COLOUR_TERM = 0.5


@dataclass(frozen=True)
class _Relation:
    """``band = base + polynomial(blue - red)``, valid between two colours."""

    band: str
    base: str
    blue: str
    red: str
    terms: tuple[float, ...]
    valid: tuple[float, float]
    scatter: float
    source: str


_TYCHO = "ESA 1997, SP-1200, 1.3.20; Høg et al. 2000, A&A 355, L27"
_GAIA = "Riello et al. 2021, A&A 649, A3; Gaia DR3 documentation, table 5.9"
_JESTER = "Jester et al. 2005, AJ 130, 873"


def _gaia(band: str, terms: tuple[float, ...], valid: tuple[float, float], scatter: float) -> _Relation:
    # They are published as G - band.
    return _Relation(band, "G", "BP", "RP", tuple(-term for term in terms), valid, scatter, _GAIA)


_RELATIONS = (
    _Relation("V", "VT", "BT", "VT", (0.0, -0.090), (-0.2, 1.8), 0.02, _TYCHO),
    # V + 0.850 (BT - VT)
    _Relation("B", "VT", "BT", "VT", (0.0, 0.760), (-0.2, 1.8), 0.03, _TYCHO),
    # Jester's relations for stars with the two above put in: B - V = 0.850 (BT - VT).
    _Relation("g", "VT", "BT", "VT", (-0.12, 0.420), (0.0, 1.5), 0.03, f"{_JESTER} with {_TYCHO}"),
    _Relation("r", "VT", "BT", "VT", (0.11, -0.447), (0.0, 1.5), 0.04, f"{_JESTER} with {_TYCHO}"),
    _gaia("V", (-0.02704, 0.01424, -0.2156, 0.01426), (-0.5, 3.0), 0.030),
    _gaia("R", (-0.02275, 0.3961, -0.1243, -0.01396, 0.003775), (0.0, 3.0), 0.032),
    _gaia("I", (0.01753, 0.76, -0.0991), (-0.5, 3.0), 0.038),
    _gaia("B", (0.01448, -0.6874, -0.3604, 0.06718, -0.006061), (-0.5, 3.0), 0.063),
    _gaia("g", (0.2199, -0.6365, -0.1548, 0.0064), (0.3, 2.0), 0.075),
    _gaia("r", (-0.09837, 0.08592, 0.1907, -0.1701, 0.02263), (0.0, 2.0), 0.038),
    _gaia("i", (-0.293, 0.6404, -0.09609, -0.002104), (0.5, 2.0), 0.041),
    _Relation("V", "g", "g", "r", (-0.01, -0.59), (-0.2, 1.5), 0.01, _JESTER),
    _Relation("g", "V", "B", "V", (-0.12, 0.60), (-0.2, 1.5), 0.02, _JESTER),
    _Relation("r", "V", "B", "V", (0.11, -0.42), (-0.2, 1.5), 0.03, _JESTER),
)

#: Colours to look for, in order, and the colour of the Sun in each: the star that a zero point is stated for.
_COLOURS = (
    ("BP", "RP", 0.82),
    ("BT", "VT", 0.73),
    ("B", "V", 0.65),
    ("g", "r", 0.45),
    ("g", "i", 0.56),
    ("r", "i", 0.11),
)


@dataclass(frozen=True)
class Reference:
    """Catalogue magnitudes in the band that a zero point is stated in.

    Parameters
    ----------
    mag, err
        Magnitudes and their errors, shape ``(n,)``; NaN where they cannot be had.
    band
        The band they are in: the frame's own, or the catalogue band nearest to it.
    relation
        Where they come from: the catalogue's own band, or the published relation.
    colour, colour_err
        Colour of each star, shape ``(n,)``; None where the catalogue has none.
    colour_name, colour_ref
        Which colour, and the one for which the zero point is stated.
    covariance
        Covariance of the errors of magnitude and colour, shape ``(n,)``.
    relation_scatter
        The part of ``err`` that is the relation's own scatter and no error of measurement.
    colour_term_sigma
        What is to be expected of the colour term before it is measured (mean 0), mag per mag.
    """

    mag: Floats
    err: Floats
    band: str
    relation: str
    colour: Floats | None
    colour_err: Floats
    colour_name: str | None
    colour_ref: float | None
    covariance: Floats
    colour_term_sigma: float
    relation_scatter: float = 0.0


def reference_magnitudes(stars: CatalogStars, band: str | None) -> Reference:
    """Return a catalogue's magnitudes in a frame's band, as near as they can be had.

    Parameters
    ----------
    stars
        Catalogue stars with the magnitudes they have (``mags``; ``mag`` alone will do).
    band
        The frame's band; None or ``node:name``: the catalogue's own.

    Notes
    -----
    In order: the band itself; a published relation from a colour of the same catalogue; the nearest band it has,
    whose difference from the frame's band the fitted colour term takes up.
    """
    mags = _magnitudes(stars)
    errs = _errors(stars, mags)
    info = band_info(band)
    relation = next((r for r in _RELATIONS if r.band == band and {r.base, r.blue, r.red} <= mags.keys()), None)
    blue, red, colour_ref = next(((b, r, c) for b, r, c in _COLOURS if {b, r} <= mags.keys()), (None, None, None))
    weights: dict[str, Any]
    if band is not None and band in mags:
        used, mag, weights, source, scatter = band, mags[band], {band: 1.0}, f"{stars.catalog} {band}", 0.0
        prior = SAME_BAND_COLOUR_TERM
    elif relation is not None:
        used, source, scatter, prior = relation.band, relation.source, relation.scatter, SAME_BAND_COLOUR_TERM
        mag, weights = _apply(relation, mags)
    else:
        near = () if info is None else info.nearest
        used = next((name for name in near if name in mags), stars.band)
        mag, weights, source, scatter = mags[used], {used: 1.0}, f"{stars.catalog} {used}", 0.0
        prior = OTHER_BAND_COLOUR_TERM
    variance = sum((np.square(w) * errs[name] ** 2 for name, w in weights.items()), np.zeros(len(stars)))
    variance = variance + scatter**2
    if blue is None or red is None:
        none = np.zeros(len(stars))
        return Reference(mag, np.sqrt(variance), used, source, None, none, None, None, none, prior, scatter)
    covariance = np.asarray(weights.get(blue, 0.0)) * errs[blue] ** 2
    covariance = covariance - np.asarray(weights.get(red, 0.0)) * errs[red] ** 2
    return Reference(
        mag,
        np.sqrt(variance),
        used,
        source,
        mags[blue] - mags[red],
        np.hypot(errs[blue], errs[red]),
        f"{blue}-{red}",
        colour_ref,
        covariance + np.zeros(len(stars)),
        prior,
        scatter,
    )


def _magnitudes(stars: CatalogStars) -> dict[str, Floats]:
    found: Mapping[str, Floats] = getattr(stars, "mags", None) or {}
    mags = {name: np.asarray(values, np.float64) for name, values in found.items()}
    mags.setdefault(stars.band, np.asarray(stars.mag, np.float64))
    return mags


def _errors(stars: CatalogStars, mags: Mapping[str, Floats]) -> dict[str, Floats]:
    said: Mapping[str, Floats] = getattr(stars, "mag_errs", None) or {}
    found = {}
    for name in mags:
        err = np.asarray(said.get(name, np.full(len(stars), UNKNOWN_ERR)), np.float64)
        found[name] = np.where(np.isfinite(err) & (err > 0), err, UNKNOWN_ERR)
    return found


def _apply(relation: _Relation, mags: Mapping[str, Floats]) -> tuple[Floats, dict[str, Any]]:
    """Return magnitudes by a relation, and the derivative with respect to each band that went in."""
    colour = mags[relation.blue] - mags[relation.red]
    low, high = relation.valid
    with np.errstate(invalid="ignore"):
        colour = np.where((colour >= low) & (colour <= high), colour, np.nan)
    mag = mags[relation.base] + np.polynomial.polynomial.polyval(colour, relation.terms)
    slope = np.polynomial.polynomial.polyval(colour, np.polynomial.polynomial.polyder(relation.terms))
    slope = np.where(np.isfinite(slope), slope, 0.0)
    weights: dict[str, Any] = {relation.base: 1.0}
    weights[relation.blue] = weights.get(relation.blue, 0.0) + slope
    weights[relation.red] = weights.get(relation.red, 0.0) - slope
    return mag, weights
