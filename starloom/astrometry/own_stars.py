"""The network's own stars: a catalogue of a field made of the source lists of frames that are solved already.

Where the reference catalogue has too few stars for a small frame, the frames of larger telescopes, or earlier ones
that were lucky, have seen hundreds: fainter, but their places are known to a fraction of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from starloom.errors import BadInput
from starloom.refcat import CatalogStars

Floats = NDArray[np.float64]

NAME = "own"
NEEDED = ("ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec", "mag", "mag_err", "snr", "flags", "band")
# Errors of sources are of the centroid alone; the frame's WCS adds its own, the same for neighbours.
WCS_ERROR_ARCSEC = 0.1
# What counts as the same star: this many sigmas, but no less than errors of the WCS ask for.
MATCH_SIGMAS, MATCH_FLOOR_ARCSEC = 4.0, 0.7
MIN_SNR = 8.0
# Detections of one star that are further apart than chance allows are two stars, or a moving one.
MAX_CHI2 = 16.0


@dataclass(frozen=True)
class OwnSources:
    """The source list of one solved frame.

    Parameters
    ----------
    table
        Columns of `starloom.photometry.sources.COLUMNS`; more are ignored.
    epoch
        Julian year of the exposure.
    wcs_error_arcsec
        Error (1 sigma, per axis) of the frame's WCS.
    """

    table: pa.Table
    epoch: float
    wcs_error_arcsec: float = WCS_ERROR_ARCSEC


def combine_sources(frames: Sequence[OwnSources], *, min_frames: int = 2) -> CatalogStars:
    """Make one catalogue of the source lists of several frames of a field.

    Parameters
    ----------
    frames
        Solved frames; they may come from different telescopes and overlap in part only.
    min_frames
        Frames that must have seen a star: what only one has seen may be a cosmic-ray hit or an asteroid. Where
        there is only one frame, or a star lies on one frame only, one is enough for stars of S/N 20.

    Returns
    -------
    CatalogStars
        Brightest first; positions at the mean epoch of the frames, with errors; magnitudes in the band that most
        detections have (those of other bands are shifted by the median difference of common stars).

    Raises
    ------
    BadInput
        ``bad-sources``: no frame at all, or a table without the columns.

    Notes
    -----
    Saturated, blended and masked detections are left out, and those of S/N below 8. Detections that chain together
    within four sigma are one star; its place is the mean weighted by the inverse variance, its error that of the
    mean, inflated by the root of χ² where the frames disagree.
    """
    if not frames:
        raise BadInput("no source lists to combine", code="bad-sources", hint="Give at least one solved frame.")
    lists = [_clean(frame, number) for number, frame in enumerate(frames)]
    lists = _on_one_scale(lists)
    merged = _Detections(*(np.concatenate(columns) for columns in zip(*(d.columns() for d in lists), strict=True)))
    bands = [band for frame in frames if (band := _band(frame.table))]
    band = max(sorted(set(bands)), key=bands.count) if bands else ""
    epoch = float(np.mean([frame.epoch for frame in frames]))
    if not len(merged.ra):
        none = np.zeros(0)
        return CatalogStars(none, none, none, band, NAME, epoch, position_err_arcsec=none)
    star = _stars(merged)
    return _catalogue(merged, star, lists, band, epoch, min_frames)


@dataclass(frozen=True)
class _Detections:
    """Columns of detections: degrees, arcsec, magnitudes; ``frame`` is the number of the list."""

    ra: Floats
    dec: Floats
    error: Floats
    mag: Floats
    mag_err: Floats
    snr: Floats
    frame: NDArray[np.int64]

    def columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.ra, self.dec, self.error, self.mag, self.mag_err, self.snr, self.frame


def _clean(frame: OwnSources, number: int) -> _Detections:
    """Return the detections of a frame that a catalogue may rest on."""
    missing = sorted(set(NEEDED) - set(frame.table.column_names))
    if missing:
        raise BadInput(
            f"source list {number} has no column {', '.join(missing)}",
            code="bad-sources",
            hint="Give the source list that starloom wrote beside the frame's photometry.",
        )
    column = {name: _floats(frame.table, name) for name in NEEDED if name != "band"}
    error = np.hypot(column["ra_err_arcsec"], column["dec_err_arcsec"]) / np.sqrt(2)
    error = np.hypot(np.where(np.isfinite(error), error, 0.5), frame.wcs_error_arcsec)
    good = (column["flags"] == 0) & (column["snr"] >= MIN_SNR)
    good &= np.isfinite(column["ra_deg"]) & (np.abs(column["dec_deg"]) <= 90) & np.isfinite(column["mag"])
    mag_err = np.where(np.isfinite(column["mag_err"]), column["mag_err"], 1.0857 / np.maximum(column["snr"], 1e-3))
    return _Detections(
        column["ra_deg"][good] % 360.0,
        column["dec_deg"][good],
        error[good],
        column["mag"][good],
        mag_err[good],
        column["snr"][good],
        np.full(int(good.sum()), number, np.int64),
    )


def _floats(table: pa.Table, name: str) -> Floats:
    values = table.column(name).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)


def _band(table: pa.Table) -> str:
    """Return the band of a list, the same for all its rows."""
    for chunk in table.column("band").chunks:
        for value in chunk[:1].to_pylist():
            if value:
                return str(value)
    return ""


def _unit(ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Return unit vectors in arcsec, shape ``(n, 3)``: chords are angles as far as stars of one frame go."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    at = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    return np.asarray(at * np.degrees(1.0) * 3600)


def _on_one_scale(lists: list[_Detections]) -> list[_Detections]:
    """Shift the magnitudes of every list onto those of the longest, by the stars they have in common."""
    longest = int(np.argmax([len(d.ra) for d in lists]))
    reference = lists[longest]
    out = []
    for number, one in enumerate(lists):
        shift = 0.0
        if number != longest and len(one.ra) and len(reference.ra):
            distance, near = cKDTree(_unit(reference.ra, reference.dec)).query(_unit(one.ra, one.dec))
            same = distance < MATCH_FLOOR_ARCSEC + MATCH_SIGMAS * np.hypot(one.error, reference.error[near])
            if same.any():
                shift = float(np.median((reference.mag[near] - one.mag)[same]))
        out.append(_Detections(one.ra, one.dec, one.error, one.mag + shift, one.mag_err, one.snr, one.frame))
    return out


def _stars(found: _Detections) -> NDArray[np.int64]:
    """Return for every detection the number of its star: detections of different frames that lie together."""
    at = _unit(found.ra, found.dec)
    reach = MATCH_FLOOR_ARCSEC + MATCH_SIGMAS * float(np.median(found.error)) * np.sqrt(2)
    pairs = cKDTree(at).query_pairs(reach, output_type="ndarray")
    a, b = pairs[:, 0], pairs[:, 1]
    distance = np.linalg.norm(at[a] - at[b], axis=1)
    near = distance < MATCH_FLOOR_ARCSEC + MATCH_SIGMAS * np.hypot(found.error[a], found.error[b])
    near &= found.frame[a] != found.frame[b]
    n = len(found.ra)
    links = coo_array((np.ones(int(near.sum())), (a[near], b[near])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _catalogue(
    found: _Detections,
    star: NDArray[np.int64],
    lists: list[_Detections],
    band: str,
    epoch: float,
    min_frames: int,
) -> CatalogStars:
    n = int(star.max()) + 1
    weight = found.error**-2
    total = np.bincount(star, weight, n)
    at = _unit(found.ra, found.dec)
    mean = np.stack([np.bincount(star, weight * at[:, i], n) for i in range(3)], axis=1) / total[:, None]
    count = np.bincount(star, minlength=n)
    chi2 = np.bincount(star, weight * ((at - mean[star]) ** 2).sum(axis=1), n)
    # Two axes each, less the mean.
    per_degree = chi2 / np.maximum(2 * (count - 1), 1)
    mag_weight = np.hypot(found.mag_err, 0.02) ** -2
    mag_total = np.bincount(star, mag_weight, n)
    mag = np.bincount(star, mag_weight * found.mag, n) / mag_total
    snr = np.sqrt(np.bincount(star, found.snr**2, n))
    seen = _frames_there(mean, lists)
    enough = count >= np.minimum(min_frames, seen)
    enough &= (count >= 2) | (snr >= 20.0)
    # The same star twice on one frame is two stars that another frame has not told apart.
    per_frame = np.unique(np.stack([star, found.frame]), axis=1)[0]
    enough &= (np.bincount(per_frame, minlength=n) == count) & (per_degree < MAX_CHI2)
    length = np.linalg.norm(mean, axis=1)
    ra = np.degrees(np.arctan2(mean[:, 1], mean[:, 0])) % 360.0
    dec = np.degrees(np.arcsin(np.clip(mean[:, 2] / length, -1, 1)))
    error = np.sqrt(np.maximum(per_degree, 1.0) / total)
    order = np.lexsort((dec, ra, mag))
    order = order[enough[order]]
    return CatalogStars(
        ra[order],
        dec[order],
        mag[order],
        band,
        NAME,
        epoch,
        mags={band: mag[order]} if band else {},
        mag_errs={band: np.asarray(mag_total[order] ** -0.5, np.float64)} if band else {},
        position_err_arcsec=error[order],
    )


def _frames_there(at: Floats, lists: list[_Detections]) -> NDArray[np.int64]:
    """Return on how many frames each star lies, by whether the frame has other stars around it on all sides."""
    seen = np.zeros(len(at), np.int64)
    for one in lists:
        if len(one.ra) < 3:
            continue
        points = _unit(one.ra, one.dec)
        middle = points.mean(axis=0)
        middle /= np.linalg.norm(middle)
        pole = np.array([0.0, 0.0, 1.0]) if abs(middle[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        east = np.cross(pole, middle)
        east /= np.linalg.norm(east)
        axes = np.stack([east, np.cross(middle, east)])
        flat, mine = points @ axes.T, at @ axes.T
        centre, spread = flat.mean(axis=0), np.linalg.inv(np.cov(flat.T) + np.eye(2))
        off = mine - centre
        # Points of a uniform rectangle lie within a Mahalanobis distance of √6 of its centre.
        ahead = at @ middle > 0
        seen += ahead & (np.einsum("ni,ij,nj->n", off, spread, off) < 6.0)
    return np.maximum(seen, 1)
