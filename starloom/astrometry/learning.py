"""Learning: the statistics that make one distortion of the samples of many frames."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from starloom.astrometry.distortion import SIMILARITY, Prior, degrees, design, everyday, size
from starloom.astrometry.samples import Sample

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: With fewer frames nothing is said.
MIN_FRAMES = 3
# Scatter from frame to frame to start from, pixels at the corner, and below which no camera is believed: flexure,
# focus, refraction.
SCATTER_PX, SCATTER_FLOOR_PX = 0.05, 0.003
# Refraction squeezes frames by up to a thousandth, with the sky and not with the camera.
SHAPE_SCATTER = 1e-4
# Frames that such a scatter counts for: two frames alone say little of it.
SCATTER_FRAMES = 2.0
# A change of optics: this improbable as chance, and this large, rms over the frame.
CHANGE_CHANCE, CHANGE_PX = 1e-6, 0.1
CHANGE_SCALE = 0.02
# Places looked at closely: an odd frame draws attention away from the true one.
CANDIDATES = 6
OUTLIER_CHANCE, OUTLIER_SIGMAS = 1e-5, 3.0
# A further power must foretell frames left out by so many nats.
WORTH_NATS = 3.0
# Degrees of freedom of the Student distribution that keeps odd frames from pulling.
TAILS = 4.0


@dataclass(frozen=True)
class Stack:
    """Normal equations of many frames, shapes ``(f, k, k)`` and ``(f, k)``, and what is believed of any camera."""

    order: int
    unit_px: float
    prior: Prior
    information: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.score)

    def only(self, which: Flags) -> Stack:
        """Return some of the frames."""
        return replace(self, information=self.information[which], score=self.score[which])


@dataclass(frozen=True)
class Common:
    """A camera: mean of its distortion, error of the mean, variance from frame to frame, shapes as in `Stack`."""

    mean: Floats
    covariance: Floats
    scatter: Floats
    pulled: Floats
    pulled_score: Floats


def of_one_shape(samples: list[Sample]) -> list[Sample]:
    """Return the samples of the most frequent frame size, the latest of equals, in the order of time."""
    counts = Counter(s.shape for s in samples)
    if not counts:
        return []
    most = max(counts.values())
    shape = next(s.shape for s in reversed(samples) if counts[s.shape] == most)
    same = [s for s in samples if s.shape == shape]
    if all(s.epoch is not None for s in same):
        same.sort(key=lambda s: s.epoch or 0.0)
    return same


def of_one_scale(samples: list[Sample]) -> list[Sample]:
    """Return the samples since the plate scale last changed, without lone ones of another scale."""
    if not samples:
        return []
    scale = np.array([s.scale_arcsec for s in samples])
    now = float(np.median(scale[-5:]))
    same = np.abs(scale / now - 1.0) < CHANGE_SCALE
    # Two in a row of another scale are other optics, one is a mistake.
    other = np.flatnonzero(~same[1:] & ~same[:-1])
    start = int(other[-1]) + 2 if len(other) else 0
    return [s for s, ok in list(zip(samples, same, strict=True))[start:] if ok]


def stacked(samples: list[Sample]) -> Stack:
    """Bring all samples to one order: the fifth where most have it, else the third."""
    ny, nx = samples[0].shape
    unit = float(np.hypot(nx, ny)) / 2
    half = unit * float(np.median([s.scale_arcsec for s in samples])) / 3600
    high = [s for s in samples if s.order == 5]
    if 2 * len(high) > len(samples) and len(high) >= MIN_FRAMES:
        order, chosen = 5, high
    else:
        order, chosen = 3, [_lowered(s, unit, half) for s in samples]
    # A sample of lower order has nothing to say where the higher powers are as large as the lower ones.
    return Stack(
        order,
        unit,
        everyday(order, unit, half),
        np.stack([s.information for s in chosen]),
        np.stack([s.score for s in chosen]),
    )


def _lowered(sample: Sample, unit_px: float, half_deg: float) -> Sample:
    """Return a sample of the third order: what any camera may have beyond is integrated out."""
    if sample.order == 3:
        return sample
    k = size(3)
    belief = everyday(5, unit_px, half_deg).covariance[k:, k:]
    upper = sample.information[k:, k:] + np.linalg.inv(belief)
    cross = sample.information[:k, k:]
    pulled = np.linalg.solve(upper, np.column_stack([cross.T, sample.score[k:]]))
    return Sample(
        sample.shape,
        3,
        sample.information[:k, :k] - cross @ pulled[:, :-1],
        sample.score[:k] - cross @ pulled[:, -1],
        sample.matches,
        sample.scale_arcsec,
        sample.epoch,
        sample.offset_deg,
    )


def _first_scatter(stack: Stack) -> Floats:
    power = degrees(stack.order)
    return np.where(power == 1, SHAPE_SCATTER * stack.unit_px, SCATTER_PX) ** 2


def common_distortion(
    stack: Stack, *, robust: bool = False, scatter: Floats | None = None, turns: int = 60
) -> Common:
    """Estimate mean and scatter together (EM), or the mean alone where the scatter is given.

    References
    ----------
    Laird & Ware 1982, Biometrics 38, 963 (random effects by EM); Lange, Little & Taylor 1989, JASA 84, 881 (with
    a Student distribution instead of the normal, which sees through outliers).
    """
    power = degrees(stack.order)
    first = _first_scatter(stack)
    given = scatter is not None
    variance = first if scatter is None else scatter
    belief = stack.prior.precision
    weight = np.ones(len(stack))
    mean: Floats = np.zeros(0)
    covariance: Floats = np.zeros(0)
    for _ in range(1 if given else turns):
        own = np.linalg.inv(stack.information + np.diag(1.0 / variance))
        half = stack.information @ own
        pulled = stack.information - half @ stack.information
        pulled_score = stack.score - (half @ stack.score[:, :, None])[:, :, 0]
        covariance = np.asarray(np.linalg.inv(np.tensordot(weight, pulled, 1) + belief), np.float64)
        mean = np.asarray(covariance @ (weight @ pulled_score + belief @ stack.prior.mean), np.float64)
        if given:
            break
        # What each frame's own distortion departs from the mean by, and how well that is known.
        wanted = stack.score - stack.information @ mean
        departure = (own @ wanted[:, :, None])[:, :, 0]
        square = departure**2 + np.diagonal(own, axis1=1, axis2=2)
        if robust:
            distance, rank = _distances(stack, mean, covariance, variance)
            weight = (TAILS + rank) / (TAILS + distance)
        new = variance.copy()
        for p in np.unique(power):
            mine = power == p
            total = float((weight @ square[:, mine]).sum()) + SCATTER_FRAMES * float(first[mine].sum())
            new[mine] = max(total / ((weight.sum() + SCATTER_FRAMES) * mine.sum()), SCATTER_FLOOR_PX**2)
        still = np.allclose(new, variance, rtol=0.005)
        # EM creeps towards small variances; stretched steps get there in half the turns.
        variance = np.maximum(variance * (new / variance) ** 1.7, SCATTER_FLOOR_PX**2)
        if still:
            break
    return Common(mean, covariance, variance, pulled, pulled_score)


def _distances(stack: Stack, mean: Floats, covariance: Floats, scatter: Floats) -> tuple[Floats, Floats]:
    """Return each frame's squared distance from the common distortion, in sigmas, and its degrees of freedom.

    In normal equations: with ``r = b - N d`` and the spread S of d, it is ``rᵀ (N + N S N)⁺ r``.
    """
    values, vectors = np.linalg.eigh(stack.information)
    # Directions in which a frame says nothing are none: they get a spread of their own and no departure.
    some = values > 1e-8 * np.maximum(values[:, -1:], 1e-300)
    wanted = stack.score - stack.information @ mean
    inverse = np.where(some, 1.0 / np.where(some, values, 1.0), 0.0)
    departure = inverse * (vectors.transpose(0, 2, 1) @ wanted[:, :, None])[:, :, 0]
    spread = vectors.transpose(0, 2, 1) @ (covariance + np.diag(scatter)) @ vectors
    spread = spread * some[:, :, None] * some[:, None, :]
    own = np.where(some, inverse, 1.0)
    spread[:, np.arange(len(mean)), np.arange(len(mean))] += own
    distance = (departure * np.linalg.solve(spread, departure[:, :, None])[:, :, 0]).sum(axis=1)
    return distance, some.sum(axis=1).astype(np.float64)


def agreeing(stack: Stack) -> Flags:
    """Return which frames agree with the others: those that do not are improbable, and far off besides.

    Flexure moves many numbers together, which a variance for each power does not know: such frames are improbable
    without being wrong.
    """
    common = common_distortion(stack, robust=True)
    distance, rank = _distances(stack, common.mean, common.covariance, common.scatter)
    own = np.linalg.inv(stack.information + np.diag(1.0 / common.scatter))
    departure = (own @ (stack.score - stack.information @ common.mean)[:, :, None])[:, :, 0]
    usual = rms_px(np.diag(common.scatter), stack)
    far = np.array([rms_px(np.outer(d, d), stack) for d in departure]) > OUTLIER_SIGMAS * usual
    return np.asarray(~(far & (chdtrc(rank, distance) < OUTLIER_CHANCE)))


def last_change(stack: Stack) -> int:
    """Return the index of the first frame after the last change of the distortion; 0 where there was none."""
    start = 0
    while True:
        found = _change(stack.only(np.arange(len(stack)) >= start))
        if not found:
            return start
        start += found


def _change(stack: Stack) -> int:
    """Return where a series of frames falls apart into two that differ; 0 where it does not."""
    n = len(stack)
    splits = np.arange(MIN_FRAMES, n - MIN_FRAMES + 1)
    if not len(splits):
        return 0
    higher = degrees(stack.order) > 1
    # The linear part may change with the sky.
    scatter = np.where(higher, _first_scatter(stack), (0.01 * stack.unit_px) ** 2)
    common = common_distortion(stack, scatter=scatter)
    # Both sides lean on what they have in common: an unlikely camera would else differ from its own few frames.
    stack = replace(stack, prior=replace(stack.prior, mean=common.mean))
    promising = splits[np.argsort([-_departure(stack, common, int(k)) for k in splits])]
    for k in promising[:CANDIDATES].tolist():
        # Each side about its own mean, from which odd frames do not pull it: one of them is no change.
        sides = [
            common_distortion(stack.only(side), robust=True) for side in (np.arange(n) < k, np.arange(n) >= k)
        ]
        difference = np.where(higher, sides[1].mean - sides[0].mean, 0.0)
        spread = (sides[0].covariance + sides[1].covariance)[np.ix_(higher, higher)]
        distance = difference[higher] @ np.linalg.solve(spread, difference[higher])
        certain = chdtrc(int(higher.sum()), distance) * len(splits) < CHANGE_CHANCE
        if certain and rms_px(np.outer(difference, difference), stack) > CHANGE_PX:
            return int(k)
    return 0


def _departure(stack: Stack, common: Common, k: int) -> float:
    """Return how far the frames before ``k`` and those after differ, in squared sigmas."""
    # Each side leans a little on the belief, without which a side of sparse frames has no answer at all.
    belief = stack.prior.precision
    means, covariances = [], []
    for part in (slice(None, k), slice(k, None)):
        covariance = np.linalg.inv(common.pulled[part].sum(axis=0) + belief)
        means.append(covariance @ (common.pulled_score[part].sum(axis=0) + belief @ stack.prior.mean))
        covariances.append(covariance)
    higher = degrees(stack.order) > 1
    difference = (means[1] - means[0])[higher]
    return float(
        difference @ np.linalg.solve((covariances[0] + covariances[1])[np.ix_(higher, higher)], difference)
    )


def simplest(stack: Stack, common: Common) -> tuple[Floats, Floats, int]:
    """Return mean, covariance of the next frame and highest power, by what frames left out say."""
    power = degrees(stack.order)
    best, score = 1, -np.inf
    for highest in range(1, stack.order + 1):
        likelihood = _foretold(stack, common, power <= highest)
        if likelihood > score + WORTH_NATS:
            best, score = highest, likelihood
    nothing = power > best
    covariance = common.covariance + np.diag(common.scatter)
    mean = np.where(nothing, 0.0, common.mean)
    covariance[nothing], covariance[:, nothing] = 0.0, 0.0
    left = np.diag(common.covariance) + common.scatter + common.mean**2
    covariance[nothing, nothing] = left[nothing]
    return mean, covariance, best


def _foretold(stack: Stack, common: Common, used: Flags) -> float:
    """Return the log probability of every frame under the model that the others make of some of the numbers."""
    cut = np.ix_(used, used)
    belief = np.linalg.inv(stack.prior.covariance[cut])
    scatter = np.diag(common.scatter[used])
    weights, scores = [], []
    for information, score in zip(stack.information, stack.score, strict=True):
        n, b = information[cut], score[used]
        half = n @ np.linalg.inv(n + np.linalg.inv(scatter))
        weights.append(n - half @ n)
        scores.append(b - half @ b)
    all_weights, all_scores = np.sum(weights, axis=0), np.sum(scores, axis=0)
    total = 0.0
    for i, (information, score) in enumerate(zip(stack.information, stack.score, strict=True)):
        covariance = np.linalg.inv(all_weights - weights[i] + belief)
        mean = covariance @ (all_scores - scores[i])
        spread = covariance + scatter
        n, b = information[cut], score[used]
        precision = np.linalg.inv(spread)
        both = b + precision @ mean
        total += 0.5 * float(both @ np.linalg.solve(n + precision, both) - mean @ precision @ mean)
        total -= 0.5 * float(np.linalg.slogdet(np.eye(len(n)) + spread @ n)[1])
    return total


def rms_px(covariance: Floats, stack: Stack) -> float:
    """Return the rms displacement over the frame that a covariance of the numbers stands for, pixels."""
    u, v = (a.ravel() for a in np.meshgrid(np.linspace(-0.7, 0.7, 9), np.linspace(-0.7, 0.7, 9)))
    at = design(u, v, stack.order)[:, :, SIMILARITY:]
    return float(np.sqrt(np.einsum("anj,jk,ank->n", at, covariance, at).mean()))
