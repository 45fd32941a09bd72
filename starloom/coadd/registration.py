"""Joint registration: all WCS of a stack refined together on the stars they have in common.

Every frame's WCS was fitted on its own, and is off by its own errors; where frames are added, those blur the
stars. Here the positions of the common stars are free, each frame has a correction of second order in its own
pixels, and all are fitted at once, as SCAMP does (Bertin 2006, ASP Conf. Ser. 351, 112).

What the stars cannot tell, a displacement or distortion that all frames share, the prior decides: every
correction is expected to be 0 within a scatter that the frames themselves teach, so that the common frame is the
average of the frames' own solutions. The prior has wide wings (Student): one poor WCS neither drags the others nor
is held back. The same scatter keeps three stars from bending a frame; there is no number of stars at which a term
enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from starloom.coadd.celestial import sky_vectors
from starloom.coadd.joint_fit import POWERS, Floats, Indices, Normal, Sightings, group_medians, monomials
from starloom.coadd.plan import Terms

MIN_STARS = 3
"""Two frames with fewer stars in common say nothing of each other: one wrong match would decide."""

_LINKS = 8
"""A star links each of its frames with so many that follow it: all pairs would grow with the square of frames."""

_CENTROID_FLOOR_PX = 0.01
"""No centroid is better: pixels, and the PSF over the field."""

_SCATTER_PX = (0.3, 0.15, 0.1)
"""Scatter expected of frames' terms of order 0, 1 and 2 before they are seen."""

_SCATTER_FLOOR_PX = 0.003
_SCATTER_TRUST = 2.0
"""What is expected of the scatter counts as so many measured terms; with 6, good WCS came out a tenth noisier."""

_TRUST = 6.0
"""A frame's stated centroid errors count as much as so many of its stars' residuals."""

_WINGS = 4.0
"""Degrees of freedom of Student's distribution, of residuals as of corrections."""

_PUT_ASIDE = 5.0
"""A star so many sigma off its joint position is not it, and does not count in the rms."""

_TURNS = 12
_SETTLED_PX = 1e-3
_ORDER = np.array([p + q for p, q in POWERS])
_NUMBERS = 2 * np.bincount(_ORDER)
"""How many terms of each order a frame has, both axes together."""

_MEDIAN_SQUARE = 1.386
"""Median of the sum of two squared normals."""


@dataclass(frozen=True)
class Seen:
    """Stars that a frame shows.

    Parameters
    ----------
    x, y
        0-based frame pixels, shape ``(n,)``.
    err_px
        Centroid error per axis, frame pixels, shape ``(n,)``.
    star
        Index into the union of all frames' stars, shape ``(n,)``; -1: not common, or ambiguous.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    err_px: NDArray[np.float64]
    star: NDArray[np.intp]


@dataclass(frozen=True)
class Registration:
    """How a frame's WCS is to be corrected.

    Parameters
    ----------
    terms
        Terms of dx and dy, frame pixels, over 1, u, v, u², uv, v² with u and v in [-1, 1] from the frame's first
        to its last pixel; added to where the WCS puts a sky position, and looked up there. None: no other frame
        has enough stars in common.
    rms_px
        Of its common stars about their joint positions, after the correction, frame pixels per axis.
    n_stars
        How many common stars that is.
    """

    terms: tuple[Terms, Terms] | None
    rms_px: float | None
    n_stars: int


def register(frames: Sequence[Seen], wcs: Sequence[WCS], shapes: Sequence[tuple[int, int]]) -> list[Registration]:
    """Refine the WCS of all frames on their common stars; the absolute tie is that of their average.

    Parameters
    ----------
    frames
        Stars of each frame.
    wcs
        WCS of each frame, celestial, in degrees of one and the same system.
    shapes
        ``(ny, nx)`` of each frame, pixels.

    Returns
    -------
    list of Registration
        One a frame. Frames that no chain of others with `MIN_STARS` common stars connects are fitted, and tied,
        apart; a frame alone is left as it is.

    Notes
    -----
    Maximum a posteriori of residuals and corrections that both follow Student's distribution, by reweighted least
    squares (`starloom.coadd.joint_fit`), from a start by medians of medians: wrong matches and a frame that is
    pixels off do not enter it. The scatter of corrections is found by MacKay's rule (1992, Neural Computation 4,
    415), order by order; in pixels of each frame, so that frames with fine pixels count more in the tie.
    """
    nothing = Registration(None, None, 0)
    result = [nothing] * len(frames)
    all_seen = _usable(frames, wcs)
    if all_seen is None:
        return result
    label = _connected(all_seen.frame, all_seen.star, len(frames))
    for group in np.unique(label[all_seen.frame]):
        members = np.flatnonzero(label == group)
        if len(members) > 1:
            half = (np.array([shapes[int(i)] for i in members], np.float64)[:, ::-1] - 1) / 2
            for i, fitted in zip(members, _fit(all_seen.of(members), half), strict=True):
                result[int(i)] = fitted
    return result


@dataclass(frozen=True)
class _Data:
    """Usable stars of several frames: pixels, errors, and directions there and a pixel further right and up."""

    frame: Indices
    star: Indices
    xy: Floats
    err_px: Floats
    directions: Floats

    def of(self, members: Indices) -> _Data:
        """Return what the stars that two members or more have seen are on them, both counted from 0."""
        mine = np.isin(self.frame, members)
        mine[mine] = np.bincount(self.star[mine])[self.star[mine]] > 1
        star = np.unique(self.star[mine], return_inverse=True)[1]
        frame = np.searchsorted(members, self.frame[mine])
        return _Data(frame, star, self.xy[mine], self.err_px[mine], self.directions[:, mine])


def _usable(frames: Sequence[Seen], wcs: Sequence[WCS]) -> _Data | None:
    if not any(len(f.star) for f in frames):
        return None
    frame = np.concatenate([np.full(len(f.star), i, np.intp) for i, f in enumerate(frames)])
    star = np.concatenate([f.star for f in frames])
    x, y, err = (np.concatenate([getattr(f, name) for f in frames]) for name in ("x", "y", "err_px"))
    directions = np.concatenate([_directions(w, f.x, f.y) for f, w in zip(frames, wcs, strict=True)], axis=1)
    use = (star >= 0) & np.isfinite(x + y + err) & (err > 0) & np.isfinite(directions).all(axis=(0, 2))
    # Twice on one frame: nobody knows which of them is the star.
    pair = np.where(use, frame * (int(star.max()) + 1) + star, -1)
    _, inverse, count = np.unique(pair, return_inverse=True, return_counts=True)
    use &= count[inverse] == 1
    return _Data(frame[use], star[use], np.stack([x, y], axis=1)[use], err[use], directions[:, use])


def _directions(wcs: WCS, x: Floats, y: Floats) -> Floats:
    """Return unit vectors at pixels, one further right and one further up, shape ``(3, n, 3)``."""
    if len(x) == 0:
        return np.zeros((3, 0, 3))
    return sky_vectors(wcs, np.concatenate([x, x + 1, x]), np.concatenate([y, y, y + 1])).reshape(3, -1, 3)


def _connected(frame: Indices, star: Indices, n: int) -> Indices:
    """Label the frames by the group that common stars connect."""
    order = np.lexsort((frame, star))
    frame, star = frame[order], star[order]
    shared = sparse.csr_matrix((n, n), dtype=np.int64)
    for lag in range(1, _LINKS + 1):
        same = star[lag:] == star[:-lag]
        a, b = frame[:-lag][same], frame[lag:][same]
        shared = shared + sparse.csr_matrix((np.ones(len(a), np.int64), (a, b)), shape=(n, n))
    _, label = connected_components(shared >= MIN_STARS, directed=False)
    return np.asarray(label, np.intp)


def _bases(directions: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors across each direction, shape ``(n, 3)``: no seam at RA 0, no pole."""
    first = np.cross(np.eye(3)[np.argmin(np.abs(directions), axis=1)], directions)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first, np.cross(directions, first)


def _sightings(data: _Data) -> Sightings:
    """Put the stars of a group onto tangent planes, each on its own, about its mean direction."""
    star = data.star
    n_stars = int(star.max()) + 1
    sums = [np.bincount(star, weights=axis, minlength=n_stars) for axis in data.directions[0].T]
    centre = np.stack(sums, axis=1).astype(np.float64)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    bases = _bases(centre)
    depth = np.einsum("skc,kc->sk", data.directions, centre[star])
    plane = np.stack([np.einsum("skc,kc->sk", data.directions, b[star]) / depth for b in bases], axis=2)
    step = np.stack([plane[1] - plane[0], plane[2] - plane[0]], axis=2)
    unit = np.sqrt(np.median(np.abs(np.linalg.det(step))))
    slope = np.linalg.inv(step / unit)
    place = np.einsum("kab,kb->ka", slope, plane[0] / unit)
    # What all frames could follow unseen: displacements of second order across the group.
    axes = np.concatenate(_bases(centre.mean(axis=0, keepdims=True)))
    at = centre @ axes.T
    at = (at - at.mean(axis=0)) / np.ptp(at, axis=0).max()
    tangent = np.stack([axes @ b.T for b in bases], axis=2)
    common = monomials(*at.T)[:, : len(POWERS)].T[:, None, :, None] * tangent
    return Sightings(data.frame, star, place, slope, common.reshape(-1, n_stars, 2))


def _student(square: Floats, numbers: int | Indices) -> Floats:
    """Return the weight of deviations of so many numbers, given their squared length in sigma."""
    return np.asarray((_WINGS + numbers) / (_WINGS + square))


def _by_order(values: Floats) -> Floats:
    """Sum values of the six terms, shape ``(n, 6)``, over those of order 0, 1 and 2, shape ``(n, 3)``."""
    return np.stack([values[:, order == _ORDER].sum(axis=1) for order in range(3)], axis=1)


def _fit(data: _Data, half: Floats) -> list[Registration]:
    """Register one connected group; ``half`` is half of each frame's sides (x, y), pixels, shape ``(n, 2)``."""
    seen, frame, n = _sightings(data), data.frame, len(half)
    half = half[frame]
    stated = data.err_px**2 + _CENTROID_FLOOR_PX**2
    count = np.bincount(frame, minlength=n)
    trust = count / (_TRUST + count)

    # A start that no bad frame and no wrong match enters: medians over each star's frames, then over each frame.
    position = np.asarray(np.linalg.solve(seen.slope, seen.place[:, :, None])[:, :, 0], np.float64)
    off = seen.place - seen.onto_frames(group_medians(position, data.star, seen.n_stars))
    terms = np.zeros((n, len(POWERS), 2))
    terms[:, 0] = group_medians(off, frame, n)
    correction = terms[frame, 0]
    residual, leverage, scatter = off - correction, np.full(len(frame), 0.5), np.array(_SCATTER_PX)
    shared = seen.shared_terms(monomials(*((data.xy - correction) / half - 1).T))
    for _ in range(_TURNS):
        square = (residual**2).sum(axis=1) / (stated * (1 - leverage))
        excess = 1 - trust + trust * group_medians(square[:, None], frame, n)[:, 0] / _MEDIAN_SQUARE
        square /= excess[frame]
        weight = _student(square, 2) / (stated * excess[frame])
        loose = _student(_by_order((terms**2).sum(axis=2)) / scatter**2, _NUMBERS)
        prior = (loose / scatter**2)[:, _ORDER]
        # Where the WCS puts the star is where the correction is looked up.
        normal = Normal(seen, monomials(*((data.xy - correction) / half - 1).T), weight, prior)
        terms = normal.solve(terms, shared)
        residual, leverage = normal.residual(terms), normal.leverage()
        learnt = _NUMBERS - 2 * _by_order(np.diagonal(normal.covariance, axis1=1, axis2=2) * prior)
        measured = (loose * _by_order((terms**2).sum(axis=2))).sum(axis=0)
        expected = _SCATTER_TRUST * np.square(_SCATTER_PX)
        scatter = np.sqrt((expected + measured) / (_SCATTER_TRUST + learnt.sum(axis=0)))
        scatter = np.maximum(scatter, _SCATTER_FLOOR_PX)
        before, correction = correction, normal.correction(terms)
        if np.abs(correction - before).max() < _SETTLED_PX:
            break
    kept = (residual**2).sum(axis=1) < _PUT_ASIDE**2 * stated * (1 - leverage) * excess[frame]
    number = np.bincount(frame[kept], minlength=n)
    total = np.bincount(frame[kept], weights=(residual[kept] ** 2).sum(axis=1), minlength=n)
    return [
        Registration((tuple(dx.tolist()), tuple(dy.tolist())), float(np.sqrt(t / (2 * k))) if k else None, int(k))
        for (dx, dy), t, k in zip(terms.transpose(0, 2, 1), total, number, strict=True)
    ]
