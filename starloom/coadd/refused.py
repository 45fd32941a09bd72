"""Frames of which no plan can be made: they stop nothing, and are told with their reason and weight 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from starloom.coadd.inputs import InputFrame, open_frame, told_by_header
from starloom.coadd.plan import PlanFrame, Reason
from starloom.errors import BadInput

_TOLD = 100
"""Frames that one message names; a stack may have thousands."""


def refused(item: InputFrame, error: BadInput) -> PlanFrame:
    """Return a frame that cannot be stacked as plans carry it: with weight 0, and the error's code as its reason.

    Raises
    ------
    BadInput
        ``error`` itself where it is no frame's own fault.
    """
    if error.code not in get_args(Reason):
        raise error
    return PlanFrame(
        input=item.bare(),
        shape=(0, 0),
        wcs_cards=item.wcs_cards or {},
        start=str(item.provenance.get("start") or "") or None,
        reason=cast("Reason", error.code),
    )


def undescribed(path: Path) -> InputFrame:
    """Return what the header of a file tells that could not be measured; noise and seeing are mere fillers."""
    try:
        with open_frame(path) as frame:
            told = told_by_header(frame.header)
    except BadInput:
        told = {"band": "unknown", "node": "unknown", "exposure_s": 0.0}
    return InputFrame(id=path.name, path=path, sky_sigma_adu=0.0, fwhm_arcsec=1.0, **told)


def nothing_to_stack(frames: Sequence[PlanFrame], errors: Sequence[BadInput]) -> BadInput:
    """Return the error for a stack of which no frame is left, naming each with its reason.

    Parameters
    ----------
    frames
        All of them.
    errors
        What was said of those that were refused; where all are for one reason, its code and remedy are theirs.
    """
    said = [f"{frame.input.id} {frame.reason}" for frame in frames[:_TOLD]]
    more = f" and {len(frames) - _TOLD} more" if len(frames) > _TOLD else ""
    message = f"no frame can be stacked: {', '.join(said)}{more}"
    if errors and len({frame.reason for frame in frames}) == 1:
        if len(frames) == 1:
            return errors[0]
        return BadInput(message, code=errors[0].code, hint=errors[0].hint)
    return BadInput(
        message,
        code="nothing-to-stack",
        hint="A frame needs a WCS, noise, to reach the target, and common stars or a zero point (MAGZPT).",
    )
