"""What became of a frame that was to be solved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.astrometry.detect import StarList
from starloom.astrometry.refine import WcsFit
from starloom.astrometry.seams import Unsolved, WcsCards
from starloom.astrometry.verify import Verdict

REMEDIES = {
    "no-sky": "Look at the frame: is it a light frame, and is it not saturated all over?",
    "too-few-stars": "Look at the frame: clouds, focus, dew, a closed lid; or expose longer.",
    "trailed": "Check tracking and guiding; the stars are lines.",
    "defocused": "Focus; the stars are discs.",
    "no-position-hint": "Write RA and DEC to the header, register the mission's target or install a blind solver.",
    "catalogue-too-sparse": "The frame is too small for this catalogue; give a deeper one.",
    "wrong-hint": "Check where the telescope pointed: header and mission name places whose stars these are not.",
    "no-match": "Check that the telescope pointed where the header or the mission says, and its plate scale.",
    "not-verified": "Look at the frame; a position was found but not believed, so none was written.",
}


@dataclass(frozen=True)
class SolveOutcome:
    """What became of a frame.

    Parameters
    ----------
    solved
        Whether the WCS is believed.
    reason
        Empty when solved, else one of `REMEDIES`: ``no-sky``, ``too-few-stars``, ``trailed``, ``defocused``,
        ``no-position-hint``, ``catalogue-too-sparse``, ``wrong-hint``, ``no-match`` or ``not-verified``.
    message
        The reason in words, and what was tried; solved: what is remarkable about it, mostly nothing.
    hint
        Solved: which hint led there. Unsolved: what the reader can do about it.
    wcs_cards
        FITS cards, TAN or TAN-SIP; empty when unsolved.
    ra_deg, dec_deg
        Centre of the frame, degrees ICRS; NaN when unsolved, as all numbers below.
    scale_arcsec
        Plate scale at the centre, arcsec per pixel.
    rotation_deg
        Position angle of the frame's +y axis, degrees from north through east, 0 to 360.
    parity
        ``+1``: as on the sky, ``-1``: mirrored; 0 when unsolved.
    rms_arcsec, rms_px
        Root mean square of the two-dimensional residuals of the matched stars.
    held_out_arcsec
        The same for stars held out of the fit: the honest error of the WCS at a star.
    matches
        Matched stars the WCS rests on.
    order
        Highest power of the WCS: 1 to 3; 0 when unsolved.
    footprint
        ``[[ra, dec], …]`` of the four outer corners, degrees, in the order (0,0), (nx,0), (nx,ny), (0,ny).
    solver, catalog
        Who found it, and against which catalogue.
    stars
        The detected stars, in pixels of the full frame; None when detection failed.
    verdict
        The verifier's last word; None when there was no candidate.
    elapsed_s
        Wall-clock seconds.
    fit
        The believed fit, in pixels of the image that was solved (of the 2×2 cells of a mosaic); None when
        unsolved.
    offset_deg
        True centre less the header's pointing (dRA cos Dec, dDec), degrees; None where there is none.
    epoch
        Julian year to which the catalogue was moved; None: its own.
    flags
        ``wrong-hint``: the frame lies elsewhere than header and mission say.
    tried
        What was tried, in order.
    """

    solved: bool
    reason: str
    message: str
    hint: str
    wcs_cards: WcsCards
    ra_deg: float
    dec_deg: float
    scale_arcsec: float
    rotation_deg: float
    parity: int
    rms_arcsec: float
    rms_px: float
    held_out_arcsec: float
    matches: int
    order: int
    footprint: list[list[float]]
    solver: str
    catalog: str
    stars: StarList | None
    verdict: Verdict | None
    elapsed_s: float
    fit: WcsFit | None = None
    offset_deg: tuple[float, float] | None = None
    epoch: float | None = None
    flags: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()


def solved(
    fit: WcsFit,
    verdict: Verdict | None,
    stars: StarList,
    *,
    hint: str,
    solver: str,
    binning: int,
    began: float,
    epoch: float | None = None,
    flags: tuple[str, ...] = (),
    tried: Sequence[str] = (),
) -> SolveOutcome:
    """Describe a solved frame.

    Parameters
    ----------
    fit, verdict
        The believed WCS of the image the stars were found on, and the verifier's word.
    stars
        The stars in pixels of the full frame, whose shape is the frame's.
    hint, solver
        Where it was found, and by whom.
    binning
        1, or 2 where the image was made of the full frame's 2×2 cells.
    began
        When the work was begun, on the monotonic clock.
    epoch, flags, tried
        See `SolveOutcome`.
    """
    found = fit.map.magnified(binning)
    ny, nx = stars.shape
    ra, dec = found.sky((nx - 1) / 2, (ny - 1) / 2)
    corners = found.sky(np.array([-0.5, nx - 0.5, nx - 0.5, -0.5]), np.array([-0.5, -0.5, ny - 0.5, ny - 0.5]))
    cd = found.cd
    return SolveOutcome(
        solved=True,
        reason="",
        message="the frame lies elsewhere than header and mission say" if "wrong-hint" in flags else "",
        hint=hint,
        wcs_cards=found.cards(stars.shape),
        ra_deg=float(ra),
        dec_deg=float(dec),
        scale_arcsec=found.scale_arcsec,
        rotation_deg=float(np.degrees(np.arctan2(cd[0, 1], cd[1, 1])) % 360.0),
        parity=1 if np.linalg.det(cd) < 0 else -1,
        rms_arcsec=fit.rms_arcsec,
        rms_px=fit.rms_px * binning,
        held_out_arcsec=fit.held_out_arcsec,
        matches=fit.matches,
        order=fit.order,
        footprint=[[float(a), float(d)] for a, d in zip(*corners, strict=True)],
        solver=solver,
        catalog=fit.catalog.catalog,
        stars=stars,
        verdict=verdict,
        elapsed_s=time.monotonic() - began,
        fit=fit,
        epoch=epoch,
        flags=flags,
        tried=tuple(tried),
    )


def unsolved(
    reason: str,
    message: str,
    stars: StarList | None,
    verdict: Verdict | None,
    began: float,
    tried: Sequence[str] = (),
) -> SolveOutcome:
    """Describe a frame that did not solve; ``began`` is when it was begun on the monotonic clock."""
    nan = float("nan")
    message += f" (tried: {'; '.join(tried)})" if tried else ""
    return SolveOutcome(
        solved=False,
        reason=reason,
        message=message,
        hint=REMEDIES.get(reason, Unsolved.hint),
        wcs_cards={},
        ra_deg=nan,
        dec_deg=nan,
        scale_arcsec=nan,
        rotation_deg=nan,
        parity=0,
        rms_arcsec=nan,
        rms_px=nan,
        held_out_arcsec=nan,
        matches=0,
        order=0,
        footprint=[],
        solver="",
        catalog="",
        stars=stars,
        verdict=verdict,
        elapsed_s=time.monotonic() - began,
        tried=tuple(tried),
    )
