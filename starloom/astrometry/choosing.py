"""Solve a frame against the catalogue that serves its field and size best."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from astropy.io import fits
from numpy.typing import NDArray

from starloom.astrometry.frame import solve_pixels
from starloom.astrometry.hints import julian_epoch
from starloom.astrometry.outcome import SolveOutcome
from starloom.frames import normalise

if TYPE_CHECKING:
    from starloom.refcat import Refcat, Refcats

log = logging.getLogger(__name__)

#: What a frame is told that lies outside the region whose catalogue it was given.
ELSEWHERE = ("no-match", "not-verified", "wrong-hint", "catalogue-too-sparse")


def solve_among(
    refcats: Refcats,
    data: NDArray[Any],
    header: fits.Header,
    *,
    at: tuple[float, float] | None,
    side_arcsec: float | None,
    **how: Any,
) -> SolveOutcome:
    """Plate-solve one frame against one of several catalogues, and at last against the one that ships.

    Parameters
    ----------
    refcats
        The catalogues there are.
    data, header
        See `starloom.astrometry.solve_pixels`.
    at
        Where the frame is thought to be, degrees ICRS; None where nobody knows: the one that ships serves then.
    side_arcsec
        Side of its pixels, as far as known.
    how
        Further arguments of `starloom.astrometry.solve_pixels`.
    """
    chosen: Refcat = refcats.shipped
    if at is not None and side_arcsec:
        height, width = (side * side_arcsec / 3600 for side in data.shape[:2])
        choice = refcats.for_solving(*at, width, height, epoch=julian_epoch(header))
        log.info("solved against %s: %s", choice.catalog, choice.why)
        chosen = choice.refcat
    outcome = solve_pixels(data, header, refcat=chosen, **how)
    # A catalogue of the hinted region alone cannot serve a frame that lies elsewhere.
    if outcome.reason in ELSEWHERE and chosen is not refcats.shipped:
        return solve_pixels(data, header, refcat=refcats.shipped, **how)
    return outcome


def place_of(
    header: fits.Header, target: tuple[float, float] | None, scale_arcsec: float | None
) -> tuple[tuple[float, float] | None, float | None]:
    """Return where a file's frame is thought to be (degrees ICRS) and the side of its pixels (arcsec)."""
    facts = normalise(header)
    ra, dec = facts.value("ra_deg"), facts.value("dec_deg")
    at = target if ra is None or dec is None else (float(ra), float(dec))
    return at, scale_arcsec or facts.value("scale_arcsec")
