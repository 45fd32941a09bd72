"""Instruments: what the frames of a camera have taught of it, for the next frame to lean on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.distortion import Prior, size
from starloom.astrometry.learning import (
    MIN_FRAMES,
    agreeing,
    common_distortion,
    last_change,
    of_one_scale,
    of_one_shape,
    rms_px,
    simplest,
    stacked,
)
from starloom.astrometry.samples import VERSION, BadInstrument, Reader, Sample, packed, rounded

__all__ = ["BadInstrument", "InstrumentModel", "Sample", "learn"]

Floats = NDArray[np.float64]

#: A model speaks of the present: no more than the latest frames.
MAX_FRAMES = 300


@dataclass(frozen=True)
class InstrumentModel:
    """What a camera's frames have taught.

    Parameters
    ----------
    shape
        ``(ny, nx)`` of its frames.
    order
        Highest power of the distortion that is written down.
    power
        Highest power that foretells frames left out of the learning: the mean of what lies above is zero.
    mean
        The distortion, pixels at the corner, see `starloom.astrometry.distortion`; shape ``(size(order),)``.
    covariance
        How far the next frame's may be from it: error of the mean and scatter from frame to frame.
    scatter_px
        The latter, rms over the frame and both axes, pixels.
    frames
        Frames it rests on.
    dropped
        Frames put aside as outliers.
    since
        Julian year of the first frame it rests on, None where unknown; earlier ones may have had other optics.
    scale_arcsec, scale_scatter
        Plate scale, and its relative scatter.
    offset_deg, offset_scatter_deg
        Median of the true centre less the header's pointing (dRA cos Dec, dDec), and the scatter of its distance;
        None where the headers have none.
    """

    shape: tuple[int, int]
    order: int
    power: int
    mean: Floats
    covariance: Floats
    scatter_px: float
    frames: int
    dropped: int
    since: float | None
    scale_arcsec: float
    scale_scatter: float
    offset_deg: tuple[float, float] | None = None
    offset_scatter_deg: float | None = None

    def prior(self, shape: tuple[int, int]) -> Prior | None:
        """Return what it makes believe of a frame's distortion; None for a frame of another size."""
        return Prior(self.order, self.mean, self.covariance) if tuple(shape) == self.shape else None

    def to_json(self) -> dict[str, Any]:
        """Return the model as a dict fit for JSON."""
        return {
            "version": VERSION,
            "nx": self.shape[1],
            "ny": self.shape[0],
            "order": self.order,
            "power": self.power,
            "mean": rounded(self.mean),
            "covariance": packed(self.covariance),
            "scatter_px": self.scatter_px,
            "frames": self.frames,
            "dropped": self.dropped,
            "since": self.since,
            "scale_arcsec": self.scale_arcsec,
            "scale_scatter": self.scale_scatter,
            "offset_deg": None if self.offset_deg is None else list(self.offset_deg),
            "offset_scatter_deg": self.offset_scatter_deg,
        }

    @classmethod
    def from_json(cls, value: Any) -> InstrumentModel:
        """Read what `to_json` wrote.

        Raises
        ------
        BadInstrument
            ``bad-instrument-model``: it is something else, or no covariance.
        """
        known = Reader(value, "instrument model")
        order = known.order()
        covariance = known.matrix("covariance", size(order))
        if np.linalg.eigvalsh(covariance)[0] <= 0:
            raise BadInstrument("the instrument model's covariance is none: it has directions without a width")
        offset = None if known.get("offset_deg", None) is None else known.numbers("offset_deg", 2)
        scatter = known.get("offset_scatter_deg", None)
        return cls(
            shape=known.shape(),
            order=order,
            power=int(known.number("power", at_least=1)),
            mean=known.numbers("mean", size(order)),
            covariance=covariance,
            scatter_px=known.number("scatter_px", at_least=0.0),
            frames=int(known.number("frames", at_least=1)),
            dropped=int(known.number("dropped", at_least=0)),
            since=None if known.get("since", None) is None else known.number("since"),
            scale_arcsec=known.number("scale_arcsec", at_least=1e-6),
            scale_scatter=known.number("scale_scatter", at_least=0.0),
            offset_deg=None if offset is None else (float(offset[0]), float(offset[1])),
            offset_scatter_deg=None if scatter is None else known.number("offset_scatter_deg", at_least=0.0),
        )


def learn(samples: Sequence[Mapping[str, Any] | Sample]) -> InstrumentModel | None:
    """Learn an instrument from its frames.

    Parameters
    ----------
    samples
        What the frames said (`WcsFit.sample`, as dict or `Sample`), of one instrument, in any order if they have
        their epoch, else in the order of time. ``offset_deg`` may be added by whoever knows the header.

    Returns
    -------
    InstrumentModel or None
        None where fewer than three frames agree on anything.

    Raises
    ------
    BadInstrument
        A sample cannot be read.

    Notes
    -----
    Every frame's distortion is the camera's plus a scatter that is estimated with it, power by power: a model of
    random effects on normal equations (`Sample`), so that frames of five stars and of five hundred combine as they
    ought. Where the distortion or the plate scale changed for good, only what came after counts; a frame that fits
    none is put aside. Powers enter only where they help to foretell frames left out.
    """
    read = [s if isinstance(s, Sample) else Sample.from_json(s) for s in samples]
    read = of_one_shape(read)
    read = of_one_scale(read)[-MAX_FRAMES:]
    if len(read) < MIN_FRAMES:
        return None
    stack = stacked(read)
    start = last_change(stack)
    read, stack = read[start:], stack.only(np.arange(len(stack)) >= start)
    good = agreeing(stack)
    if good.sum() < MIN_FRAMES:
        return None
    kept = [sample for sample, ok in zip(read, good, strict=True) if ok]
    stack = stack.only(good)
    common = common_distortion(stack)
    mean, covariance, power = simplest(stack, common)
    offset, offset_scatter = _offset(kept)
    scale = np.array([s.scale_arcsec for s in kept])
    middle = float(np.median(scale))
    return InstrumentModel(
        shape=kept[0].shape,
        order=stack.order,
        power=power,
        mean=mean,
        covariance=covariance,
        scatter_px=rms_px(np.diag(common.scatter), stack),
        frames=len(kept),
        dropped=len(read) - len(kept),
        since=kept[0].epoch,
        scale_arcsec=middle,
        scale_scatter=_spread(scale / middle),
        offset_deg=offset,
        offset_scatter_deg=offset_scatter,
    )


def _offset(samples: list[Sample]) -> tuple[tuple[float, float] | None, float | None]:
    known = np.array([s.offset_deg for s in samples if s.offset_deg is not None], np.float64).reshape(-1, 2)
    if len(known) < MIN_FRAMES:
        return None, None
    middle = np.median(known, axis=0)
    # Half of all frames lie within the median distance, which is 1.18 sigma per axis of a normal scatter.
    distance = float(np.median(np.hypot(*(known - middle).T)))
    return (float(middle[0]), float(middle[1])), distance / 1.1774


def _spread(values: Floats) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
