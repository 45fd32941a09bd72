"""The linear algebra of joint registration: corrections of frames and positions of stars, at once.

A sighting ``k`` of star ``s`` on frame ``i`` is ``place_k = slope_k P_s + B(u_k, v_k) c_i + noise``, in frame
pixels: ``place`` and ``slope`` carry the star's free position ``P_s`` onto the frame, ``c_i`` are the six terms of
the frame's correction per axis, with a Gaussian prior of mean 0. The stars are eliminated (Schur complement) and
the frames' normal equations solved by conjugate gradients, without ever being written out: the cost goes with the
number of sightings, not with the square of that of frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Powers of u and v of a correction's terms."""

_PRODUCTS = tuple((n - q, q) for n in range(5) for q in range(n + 1))
"""Powers of all products of two terms: a frame's normal matrix is made of their sums."""

_PRODUCT_OF = np.array([[_PRODUCTS.index((a + c, b + d)) for c, d in POWERS] for a, b in POWERS])

_SIGMA = 1e-3
"""The terms are solved for to this fraction of their errors, rms over the frames."""

_TURN = 1e-3
"""Or until what was wrong is this fraction of what it was: the weights change again in the next turn."""

_MAX_ITERATIONS = 300


def monomials(u: Floats, v: Floats) -> Floats:
    """Return ``u^p v^q`` up to the fourth power, shape ``(n, 15)``; the first six are those of `POWERS`."""
    columns = [np.ones_like(u)]
    for power in range(1, 5):
        last = columns[-power:]
        columns += [column * u for column in last] + [last[-1] * v]
    return np.stack(columns, axis=1)


def group_medians(values: Floats, group: Indices, n: int) -> Floats:
    """Return the medians of the columns of ``values``, shape ``(m, k)``, in each of ``n`` groups (none empty)."""
    count = np.bincount(group, minlength=n)
    start = np.cumsum(count) - count
    low, high = start + (count - 1) // 2, start + count // 2
    ordered = [column[np.lexsort((column, group))] for column in values.T]
    return np.stack([(column[low] + column[high]) / 2 for column in ordered], axis=1)


@dataclass(frozen=True)
class Sightings:
    """Every common star on every frame that saw it.

    Parameters
    ----------
    frame, star
        Which frame and which star, counted from 0 without gaps, shape ``(m,)``.
    place
        Where it was seen, frame pixels, relative to where the WCS puts the star's reference point, ``(m, 2)``.
    slope
        Frame pixels per unit of the star's position, shape ``(m, 2, 2)``.
    common
        Displacements of all stars that frames could share unseen, because corrections can follow them: shape
        ``(k, n_stars, 2)``, in units of the star's position. They only speed up the solution.
    """

    frame: Indices
    star: Indices
    place: Floats
    slope: Floats
    common: Floats

    @cached_property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.frame.max()) + 1

    @cached_property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(self.star.max()) + 1

    def onto_frames(self, position: Floats) -> Floats:
        """Return the places of star positions, shape ``(n_stars, 2)``, at every sighting, ``(m, 2)``."""
        return np.asarray(np.einsum("kab,kb->ka", self.slope, position[self.star]))

    def per_frame(self, values: Floats) -> Floats:
        """Return the sums of ``values``, shape ``(m, k)``, over the sightings of each frame."""
        return np.asarray(_adder(self.frame, self.n_frames) @ values)

    def per_star(self, values: Floats) -> Floats:
        """Return the sums of ``values``, shape ``(m, k)``, over the sightings of each star."""
        return np.asarray(_adder(self.star, self.n_stars) @ values)

    def basis(self, terms: Floats) -> sparse.csr_matrix:
        """Return the matrix that makes corrections of the frames' terms: ``terms``, shape ``(m, 6)``, as rows."""
        m = len(self.frame)
        columns = 6 * self.frame[:, None] + np.arange(6)
        rows = np.arange(0, 6 * m + 1, 6)
        return sparse.csr_matrix((terms.ravel(), columns.ravel(), rows), shape=(m, 6 * self.n_frames))

    def shared_terms(self, products: Floats) -> Floats:
        """Return the terms, shape ``(n_frames, 12, k)``, by which every frame follows `common`."""
        # A trifle on the diagonal: a frame of three stars has no quadratic terms of its own.
        matrix = self.per_frame(products)[:, _PRODUCT_OF]
        matrix += 1e-6 * matrix[:, :1, :1] * np.eye(6)
        turned = self.basis(products[:, :6]).T
        right = [(turned @ self.onto_frames(one)).reshape(-1, 6, 2) for one in self.common]
        return np.stack([np.linalg.solve(matrix, one).reshape(-1, 12) for one in right], axis=2)


def _adder(group: Indices, n: int) -> sparse.csr_matrix:
    m = len(group)
    return sparse.csr_matrix((np.ones(m), (group, np.arange(m))), shape=(n, m))


class Normal:
    """Normal equations of the corrections under given weights, the stars eliminated.

    Parameters
    ----------
    sightings
        The data.
    products
        `monomials` at every sighting, shape ``(m, 15)``.
    weight
        Inverse variance of every sighting, per axis, shape ``(m,)``.
    prior
        Inverse variance of every frame's terms beforehand, shape ``(n_frames, 6)``.

    Attributes
    ----------
    covariance
        Of every frame's terms, one axis, if the other frames' were known, shape ``(n_frames, 6, 6)``.
    """

    def __init__(self, sightings: Sightings, products: Floats, weight: Floats, prior: Floats) -> None:
        self._seen, self._prior = sightings, prior[:, :, None]
        self._products, self._weight, self._root = products, weight, np.sqrt(weight)[:, None]
        self._basis = sightings.basis(products[:, :6] * self._root)
        # In units of sigma the stars' share of any sightings is G Gᵀ, with G the slopes times a root of the stars'
        # covariance.
        slope = sightings.slope * self._root[:, :, None]
        a, b, c = sightings.per_star(
            np.stack(
                [
                    (slope[:, :, 0] ** 2).sum(axis=1),
                    slope.prod(axis=2).sum(axis=1),
                    (slope[:, :, 1] ** 2).sum(axis=1),
                ],
                axis=1,
            )
        ).T
        root = np.zeros((sightings.n_stars, 2, 2))
        root[:, 0, 0] = np.sqrt(c / (a * c - b * b))
        root[:, 1, 0] = -b / c * root[:, 0, 0]
        root[:, 1, 1] = np.sqrt(1 / c)
        slope = np.einsum("kab,kbc->kac", slope, root[sightings.star])
        m = len(weight)
        columns = np.repeat(2 * sightings.star[:, None] + np.arange(2), 2, axis=0)
        self._stars = sparse.csr_matrix(
            (slope.ravel(), columns.ravel(), np.arange(0, 4 * m + 1, 2)), shape=(2 * m, 2 * sightings.n_stars)
        )
        self._star_share = (slope**2).sum(axis=(1, 2)) / 2
        sums = sightings.per_frame(products * (weight * (1 - self._star_share))[:, None])
        self.covariance = np.linalg.inv(sums[:, _PRODUCT_OF] + np.eye(6) * prior[:, None, :])

    def _without_stars(self, sigmas: Floats) -> Floats:
        """Return what the stars cannot take of deviations in units of sigma, shape ``(m, 2)``."""
        flat = sigmas.ravel()
        return np.asarray(sigmas - (self._stars @ (self._stars.T @ flat)).reshape(-1, 2))

    def _pull(self, sigmas: Floats) -> Floats:
        return np.asarray(self._basis.T @ self._without_stars(sigmas)).reshape(-1, 6, 2)

    def correction(self, terms: Floats) -> Floats:
        """Return dx and dy at every sighting, shape ``(m, 2)``, of terms of shape ``(n_frames, 6, 2)``."""
        return np.asarray(self._basis @ terms.reshape(-1, 2)) / self._root

    def residual(self, terms: Floats) -> Floats:
        """Return the sightings less their model, the stars at their best, frame pixels, shape ``(m, 2)``."""
        left = self._root * self._seen.place - self._basis @ terms.reshape(-1, 2)
        return self._without_stars(left) / self._root

    def leverage(self) -> Floats:
        """Return how much of its own noise each sighting draws the model along (0 to 1), shape ``(m,)``."""
        folded = np.zeros((len(self.covariance), len(_PRODUCTS)))
        for a in range(6):
            for b in range(6):
                folded[:, _PRODUCT_OF[a, b]] += self.covariance[:, a, b]
        frame_share = self._weight * np.einsum("kp,kp->k", self._products, folded[self._seen.frame])
        return np.asarray(np.clip(self._star_share + (1 - self._star_share) ** 2 * frame_share, 0, 0.9))

    def solve(self, start: Floats, shared: Floats) -> Floats:
        """Return the terms, shape ``(n_frames, 6, 2)``, by conjugate gradients.

        Parameters
        ----------
        start
            Where to begin, same shape.
        shared
            `Sightings.shared_terms`. Preconditioned frame by frame alone, what frames share would come last: only
            the prior holds it.
        """
        flat = shared.reshape(-1, shared.shape[2])
        weighed = (shared.reshape(-1, 6, 2, shared.shape[2]) * self._prior[..., None]).reshape(flat.shape)
        coarse = np.linalg.pinv(flat.T @ weighed, hermitian=True)

        def eased(left: Floats) -> Floats:
            common = flat @ (coarse @ (flat.T @ left.ravel()))
            return np.asarray(self.covariance @ left + common.reshape(left.shape))

        terms = start.copy()
        wrong = self._root * self._seen.place - self._basis @ terms.reshape(-1, 2)
        left = self._pull(wrong) - self._prior * terms
        step = ahead = eased(left)
        size = float(np.vdot(left, ahead))
        goal = max(_SIGMA**2 * terms.size, _TURN**2 * size)
        for _ in range(_MAX_ITERATIONS):
            if size <= goal:
                break
            pushed = self._pull(np.asarray(self._basis @ step.reshape(-1, 2))) + self._prior * step
            length = size / float(np.vdot(step, pushed))
            terms += length * step
            left -= length * pushed
            ahead = eased(left)
            size, old = float(np.vdot(left, ahead)), size
            step = ahead + (size / old) * step
        return terms
