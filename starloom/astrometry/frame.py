"""Plate-solving a frame from pixels to a judged WCS."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.astrometry.hints import hints, julian_epoch, mount_offset, scan_hints
from starloom.astrometry.outcome import SolveOutcome, solved, unsolved
from starloom.astrometry.seams import CatalogProvider, Hint, Unsolved
from starloom.astrometry.search import Parts, Search, Task
from starloom.calibration import superpixels
from starloom.errors import BadInput
from starloom.frames import normalise
from starloom.refcat import default_refcat

if TYPE_CHECKING:
    from starloom.astrometry.instrument import InstrumentModel

__all__ = ["Parts", "SolveOutcome", "solve_pixels"]

BUDGET_S = 30.0


def solve_pixels(
    data: NDArray[Any],
    header: fits.Header,
    *,
    target: tuple[float, float] | None = None,
    scale_arcsec: float | None = None,
    refcat: CatalogProvider | None = None,
    parts: Parts | None = None,
    budget_s: float = BUDGET_S,
    blind: bool = True,
    instrument: InstrumentModel | None = None,
    mask: NDArray[np.bool_] | None = None,
    own: CatalogProvider | None = None,
) -> SolveOutcome:
    """Plate-solve one frame.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``; a Bayer mosaic, if the header says so, is solved on its 2×2 cells.
    header
        Its header: hints only, nothing in it is believed.
    target
        Where the mission points, degrees ICRS.
    scale_arcsec
        Plate scale known for the instrument, arcsec per pixel.
    refcat
        Reference catalogue; the one that ships by default.
    parts
        Other parts than our own.
    budget_s
        Seconds after which nothing further is tried.
    blind
        Whether the whole sky may be searched where the hints lead nowhere; costs seconds.
    instrument
        What earlier frames taught of the instrument (`starloom.astrometry.instrument.InstrumentModel`): its plate
        scale and its mount's error make the first hint, its distortion the fit.
    mask
        Pixels not to be used, True, shape as ``data``.
    own
        The network's own stars of that field, tried where the catalogue is too sparse.

    Returns
    -------
    SolveOutcome
        Also for a frame that does not solve; only a frame that is no frame raises.

    Raises
    ------
    BadInput
        ``not-2d``: the array is not one 2-D image.
    """
    if data.ndim != 2:
        raise BadInput(
            f"an array of shape {data.shape} is not one frame", code="not-2d", hint="Give a single 2-D image."
        )
    began = time.monotonic()
    parts, catalog = parts or Parts(), refcat or default_refcat()
    facts = normalise(header)
    saturation = facts.value("saturation_adu")
    saturation = float(saturation) if saturation is not None else None
    binned = facts.value("bayer_pattern") is not None
    pixels = superpixels(data, saturation) if binned else data
    hidden = _cells_hidden(mask) if binned and mask is not None else mask
    try:
        stars = parts.detector(pixels, saturation_adu=saturation, mask=hidden)
    except Unsolved as error:
        return unsolved(error.code, error.message, None, None, began)
    full = _full_frame(stars, data.shape) if binned else stars
    if stars.fault == "too-few-stars":
        return unsolved("too-few-stars", f"{len(stars)} stars found", full, None, began)
    shape, epoch = _shape(data), julian_epoch(header)
    # A model learnt from cells speaks of their pixels, one learnt from frames of the frame's.
    in_cells = binned and instrument is not None and instrument.shape == stars.shape
    places: dict[str, Any] = {"target": target, "instrument": instrument}
    given = [
        _scaled(hint, binned and not (in_cells and "learnt" in hint.source))
        for hint in hints(header, shape, scale_arcsec=scale_arcsec, **places)
    ]
    task = Task(
        stars=stars,
        catalog=catalog,
        own=own,
        epoch=epoch,
        instrument=instrument,
        given=given,
        scan=lambda: (_scaled(hint, binned) for hint in scan_hints(header, shape, **places)),
        blind=blind,
    )
    search = Search(parts, task, began + budget_s)
    search.run()
    if search.fit is None:
        reason, message = search.failure()
        return unsolved(reason, message, full, search.verdict, began, search.tried)
    outcome = solved(
        search.fit,
        search.verdict,
        full,
        hint=search.source,
        solver=search.solver,
        binning=2 if binned else 1,
        began=began,
        epoch=epoch,
        flags=search.flags,
        tried=search.tried,
    )
    return replace(outcome, offset_deg=mount_offset(header, outcome.ra_deg, outcome.dec_deg))


def _scaled(hint: Hint, binned: bool) -> Hint:
    scale = hint.scale_arcsec
    return replace(hint, scale_arcsec=2 * scale) if binned and scale is not None else hint


def _cells_hidden(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which 2×2 cells hold a pixel that is not to be used."""
    ny, nx = (int(n) // 2 * 2 for n in mask.shape)
    return np.asarray(mask[:ny, :nx].reshape(ny // 2, 2, nx // 2, 2).any(axis=(1, 3)), bool)


def _shape(data: NDArray[Any]) -> tuple[int, int]:
    return int(data.shape[0]), int(data.shape[1])


def _full_frame(stars: StarList, shape: tuple[int, ...]) -> StarList:
    """Return stars found on 2×2 cells in pixels of the mosaic; fluxes are sums over its pixels."""
    return replace(
        stars,
        x=2 * stars.x + 0.5,
        y=2 * stars.y + 0.5,
        flux=4 * stars.flux,
        fwhm_px=2 * stars.fwhm_px,
        shape=(int(shape[0]), int(shape[1])),
        # A cell is the mean of four pixels, whose noise is independent.
        noise_adu=2 * stars.noise_adu,
        frame_fwhm_px=2 * stars.frame_fwhm_px,
        centroid_err_px=2 * stars.centroid_err_px,
        trail_px=2 * stars.trail_px,
    )
