"""Plate-solving a frame from pixels to a judged WCS, and files by the handful."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.astrometry.hints import hints
from starloom.astrometry.outcome import SolveOutcome, solved, unsolved
from starloom.astrometry.seams import CatalogProvider, Hint, Unsolved
from starloom.astrometry.search import Parts, Search
from starloom.astrometry.solved_file import write_solved
from starloom.calibration import superpixels
from starloom.errors import BadInput, StarloomError
from starloom.frames import normalise, read_frame
from starloom.refcat import default_refcat

__all__ = ["Parts", "SolveOutcome", "solve_files", "solve_pixels", "write_solved"]

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
        Seconds after which no further hint is tried.

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
    try:
        stars = parts.detector(pixels, saturation_adu=saturation)
    except Unsolved as error:
        return unsolved(error.code, error.message, None, None, began)
    full = _full_frame(stars, data.shape) if binned else stars
    if stars.fault == "too-few-stars":
        return unsolved("too-few-stars", f"{len(stars)} stars found", full, None, began)
    search = Search(parts, catalog, stars, began + budget_s)
    tried = search.run(_scaled(hints(header, _shape(data), target=target, scale_arcsec=scale_arcsec), binned))
    if search.fit is None:
        reason, message = search.failure()
        message += f" (tried: {'; '.join(tried)})" if tried else ""
        return unsolved(reason, message, full, search.verdict, began)
    return solved(
        search.fit,
        search.verdict,
        full,
        hint=search.source,
        solver=search.solver,
        binning=2 if binned else 1,
        began=began,
    )


def _scaled(ladder: Iterable[Hint], binned: bool) -> Iterator[Hint]:
    for hint in ladder:
        scale = hint.scale_arcsec
        yield replace(hint, scale_arcsec=2 * scale) if binned and scale is not None else hint


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
    )


def solve_files(
    paths: Iterable[Path | str],
    out: Path | None = None,
    *,
    target: tuple[float, float] | None = None,
    scale_arcsec: float | None = None,
    refcat: CatalogProvider | None = None,
) -> list[dict[str, Any]]:
    """Plate-solve files one after another; a bad one never stops the others.

    Parameters
    ----------
    paths
        FITS files.
    out
        Folder for copies with the WCS in the header and the pixels untouched; made if absent, ``None`` for none.
    target, scale_arcsec, refcat
        See `solve_pixels`.

    Returns
    -------
    list of dict
        A row a file, fit for JSON: ``file, solved, reason, message, hint, ra_deg, dec_deg, scale_arcsec,
        rms_arcsec, rms_px, matches, elapsed_s``. ``None`` stands for what is not known; a file that cannot be
        used has the error's code as its reason.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    known: dict[object, float] = {}
    rows = []
    written: set[str] = set()
    for path in map(Path, paths):
        copy = None if out is None else out / path.name
        rows.append(_solve_file(path, copy, path.name in written, target, scale_arcsec, refcat, known))
        if rows[-1]["solved"]:
            written.add(path.name)
    return rows


def _solve_file(
    path: Path,
    copy: Path | None,
    taken: bool,
    target: tuple[float, float] | None,
    scale_arcsec: float | None,
    refcat: CatalogProvider | None,
    known: dict[object, float],
) -> dict[str, Any]:
    """Solve one file; ``known`` carries the plate scales of cameras that solved before."""
    began = time.monotonic()
    try:
        if copy is not None and taken:
            raise BadInput(
                f"{copy} is the copy of another file of the same name",
                code="same-name",
                hint="Solve files of the same name into different folders.",
            )
        data, header = read_frame(path)
        camera = (data.shape, *(str(header.get(key)) for key in ("INSTRUME", "XPIXSZ", "FOCALLEN", "TELESCOP")))
        scale = scale_arcsec if scale_arcsec is not None else known.get(camera)
        outcome = solve_pixels(data, header, target=target, scale_arcsec=scale, refcat=refcat)
        if outcome.solved:
            known[camera] = outcome.scale_arcsec
            if copy is not None:
                write_solved(path, copy, outcome.wcs_cards)
    except StarloomError as error:
        return _row(path, began) | {"reason": error.code, "message": error.message, "hint": error.hint}
    numbers = {
        name: _finite(getattr(outcome, name))
        for name in ("ra_deg", "dec_deg", "scale_arcsec", "rms_arcsec", "rms_px")
    }
    return (
        _row(path, began)
        | numbers
        | {
            "solved": outcome.solved,
            "reason": outcome.reason,
            "message": outcome.message,
            "hint": "" if outcome.solved else outcome.hint,
            "matches": outcome.matches,
        }
    )


def _row(path: Path, began: float) -> dict[str, Any]:
    names = ("ra_deg", "dec_deg", "scale_arcsec", "rms_arcsec", "rms_px", "matches")
    return {
        "file": str(path),
        "solved": False,
        "reason": "",
        "message": "",
        "hint": "",
        **dict.fromkeys(names),
        "elapsed_s": round(time.monotonic() - began, 3),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
