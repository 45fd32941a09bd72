"""Plate-solve files by the handful."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from starloom.astrometry.choosing import place_of, solve_among
from starloom.astrometry.solved_file import write_solved
from starloom.errors import BadInput, StarloomError
from starloom.frames import read_frame
from starloom.refcat import Refcats


def solve_files(
    paths: Iterable[Path | str],
    out: Path | None = None,
    *,
    target: tuple[float, float] | None = None,
    scale_arcsec: float | None = None,
    refcats: Refcats | None = None,
    blind: bool = True,
) -> list[dict[str, Any]]:
    """Plate-solve files one after another; a bad one never stops the others.

    Parameters
    ----------
    paths
        FITS files.
    out
        Folder for copies with the WCS in the header and the pixels untouched; made if absent, ``None`` for none.
    target, scale_arcsec, blind
        See `starloom.astrometry.solve_pixels`.
    refcats
        The catalogues there are; the one that ships by default.

    Returns
    -------
    list of dict
        A row a file, fit for JSON: ``file, solved, reason, message, hint, solver, catalog, ra_deg, dec_deg,
        scale_arcsec, rms_arcsec, rms_px, matches, elapsed_s``. ``None`` stands for what is not known; a file that
        cannot be used has the error's code as its reason.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    refcats = refcats or Refcats()
    known: dict[object, float] = {}
    rows = []
    written: set[str] = set()
    for path in map(Path, paths):
        copy = None if out is None else out / path.name
        rows.append(_solve_file(path, copy, path.name in written, target, scale_arcsec, refcats, blind, known))
        if rows[-1]["solved"]:
            written.add(path.name)
    return rows


def _solve_file(
    path: Path,
    copy: Path | None,
    taken: bool,
    target: tuple[float, float] | None,
    scale_arcsec: float | None,
    refcats: Refcats,
    blind: bool,
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
        at, side = place_of(header, target, scale)
        outcome = solve_among(
            refcats, data, header, at=at, side_arcsec=side, target=target, scale_arcsec=scale, blind=blind
        )
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
            "solver": outcome.solver,
            "catalog": outcome.catalog,
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
        "solver": "",
        "catalog": "",
        **dict.fromkeys(names),
        "elapsed_s": round(time.monotonic() - began, 3),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
