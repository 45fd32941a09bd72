"""Which frames would harm a stack: weight 0, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from starloom.coadd.plan import PlanFrame, Reason

POOR_SEEING_FWHM = 2.5
POOR_SEEING_WEIGHT = 0.05
"""A blurred frame goes only if it also weighs this little, for point sources, against the median frame."""

LOW_TRANSPARENCY = 6.0
"""Flux scale over the median of the frame's telescope: two magnitudes of cloud are never even over a frame."""
_TRANSPARENCY_FRAMES = 3

MISREGISTERED_PX = 1.0


def triage(frames: Sequence[PlanFrame]) -> list[PlanFrame]:
    """Return the frames, those that would harm with weight 0 and their reason.

    Parameters
    ----------
    frames
        Of one product, with scale, weight, seeing and registration; those without a weight are left as they are.

    Notes
    -----
    Conservative: a weight takes care of a frame that is merely worse. Out go frames blurred beyond 2.5 times the
    median FWHM with a weight, for point sources, below 5 % of the median one; frames six times fainter than their
    telescope's median; frames whose stars scatter by more than a pixel or half a FWHM after registration.
    """
    used = [f for f in frames if f.weight > 0]
    if not used:
        return list(frames)
    fwhm = float(np.median([f.input.fwhm_arcsec for f in used]))
    worth = float(np.median([_point_weight(f) for f in used]))
    scales: dict[str, list[float]] = {}
    for f in used:
        scales.setdefault(f.input.node, []).append(_dimmed(f))
    return [_judged(f, fwhm, worth, scales[f.input.node]) if f.weight > 0 else f for f in frames]


def _point_weight(frame: PlanFrame) -> float:
    return 1 / (frame.sigma * frame.input.fwhm_arcsec) ** 2


def _dimmed(frame: PlanFrame) -> float:
    """Return the flux scale per exposure time: what clouds raise, whatever the exposure."""
    return frame.scale * (frame.input.exposure_s or 1.0)


def _worst_residual(frame: PlanFrame) -> float:
    seeing = frame.fwhm_px * float(np.sqrt(frame.area))
    return min(MISREGISTERED_PX, 0.5 * seeing)


def _judged(frame: PlanFrame, fwhm: float, worth: float, scales: Sequence[float]) -> PlanFrame:
    reason: Reason | None = None
    if frame.registration_rms_px is not None and frame.registration_rms_px > _worst_residual(frame):
        reason = "misregistered"
    elif frame.input.fwhm_arcsec > POOR_SEEING_FWHM * fwhm and _point_weight(frame) < POOR_SEEING_WEIGHT * worth:
        reason = "poor-seeing"
    elif len(scales) >= _TRANSPARENCY_FRAMES and _dimmed(frame) > LOW_TRANSPARENCY * float(np.median(scales)):
        reason = "low-transparency"
    return frame if reason is None else frame.model_copy(update={"weight": 0.0, "reason": reason})
