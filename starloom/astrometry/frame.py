"""Plate-solving a frame from pixels to a judged WCS, and files by the handful."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList, detect_stars
from starloom.astrometry.hints import hints
from starloom.astrometry.refine import WcsFit, refine_wcs
from starloom.astrometry.seams import (
    CatalogProvider,
    Detector,
    Hint,
    Refiner,
    Solver,
    Unsolved,
    Verifier,
    WcsCards,
)
from starloom.astrometry.solve import SeizaSolver
from starloom.astrometry.solved_file import write_solved
from starloom.astrometry.verify import Verdict, judge
from starloom.calibration import resampled_cards, superpixels
from starloom.errors import BadInput, StarloomError
from starloom.frames import normalise, read_frame
from starloom.refcat import default_refcat

__all__ = ["Parts", "SolveOutcome", "solve_files", "solve_pixels", "write_solved"]

# With fewer catalogue stars on the frame hardly any solver succeeds (measured on Tycho-2).
SPARSE_STARS = 10
BUDGET_S = 30.0
QUICK_STARS = 60
ATTEMPT_S = 4.0

REMEDIES = {
    "no-sky": "Look at the frame: is it a light frame, and is it not saturated all over?",
    "too-few-stars": "Look at the frame: clouds, focus, dew, a closed lid; or expose longer.",
    "trailed": "Check tracking and guiding; the stars are lines.",
    "no-position-hint": "Write RA and DEC to the header, or register the mission's target.",
    "catalogue-too-sparse": "The frame is too small for this catalogue; give a deeper one.",
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
        Empty when solved, else ``no-sky``, ``too-few-stars``, ``trailed``, ``no-position-hint``,
        ``catalogue-too-sparse``, ``no-match`` or ``not-verified``.
    message
        The reason in words.
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


@dataclass(frozen=True)
class Parts:
    """The exchangeable parts of plate solving."""

    detector: Detector = detect_stars
    solver: Solver = field(default_factory=SeizaSolver)
    refiner: Refiner = refine_wcs
    verifier: Verifier = judge


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
        return _unsolved(error.code, error.message, None, None, began)
    full = _full_frame(stars, data.shape) if binned else stars
    if stars.fault == "too-few-stars":
        return _unsolved("too-few-stars", f"{len(stars)} stars found", full, None, began)
    search = _Search(parts, catalog, stars, began + budget_s)
    tried = search.run(_scaled(hints(header, _shape(data), target=target, scale_arcsec=scale_arcsec), binned))
    if search.fit is None:
        reason, message = search.failure()
        message += f" (tried: {'; '.join(tried)})" if tried else ""
        return _unsolved(reason, message, full, search.verdict, began)
    cards = search.fit.cards
    if binned:
        cards = resampled_cards(cards, 0.5, -0.25, -0.25)
    return _solved(search, cards, full, 2 if binned else 1, began)


class _Search:
    """Goes down the ladder of hints until a WCS is believed."""

    def __init__(self, parts: Parts, catalog: CatalogProvider, stars: StarList, deadline: float) -> None:
        self.parts, self.catalog, self.stars, self.deadline = parts, catalog, stars, deadline
        self.fit: WcsFit | None = None
        self.verdict: Verdict | None = None
        self.solver = self.source = ""
        self._steps: list[Hint] = []
        self._tried: list[str] = []
        self._out_of_time = False

    def run(self, ladder: Iterable[Hint]) -> list[str]:
        """Return the sources of the hints tried; ``fit`` is the believed WCS, if any."""
        self._steps = list(ladder)
        # Failing on few stars takes a fifth of the time of failing on many, and few suffice nearly always.
        for depth in (QUICK_STARS, len(self.stars)):
            for hint in self._steps:
                if time.monotonic() > self.deadline:
                    self._out_of_time = True
                    return self._tried
                if self._attempt(hint, self.stars.brightest(depth)):
                    return self._tried
            if len(self.stars) <= QUICK_STARS:
                break
        return self._tried

    def _attempt(self, hint: Hint, few: StarList) -> bool:
        if hint.source not in self._tried:
            self._tried.append(hint.source)
        try:
            candidate = self.parts.solver.solve(few, hint, self.catalog, budget_s=ATTEMPT_S)
            fit = self.parts.refiner(candidate, self.stars, self.catalog)
        except Unsolved:
            return False
        self.verdict = self.parts.verifier(fit, self.stars)
        if self.verdict.accepted:
            self.fit, self.solver, self.source = fit, candidate.solver, hint.source
        return self.verdict.accepted

    def failure(self) -> tuple[str, str]:
        """Return the most telling reason, and it in words."""
        if not self._tried:
            return "no-position-hint", "neither header nor mission says where the frame points"
        if self.stars.trailed:
            return "trailed", f"stars are drawn out (ellipticity {self.stars.frame_ellipticity:.2f})"
        if self.verdict is not None:
            return "not-verified", "; ".join(self.verdict.faults)
        # A scan reaches scales at which any frame would hold stars enough, so what was said counts first.
        said = [hint for hint in self._steps if not hint.guessed_scale]
        most = max(self._catalog_stars(hint) for hint in said or self._steps)
        if most < SPARSE_STARS:
            return "catalogue-too-sparse", f"the catalogue has about {most} stars on the frame"
        late = ", time ran out" if self._out_of_time else ""
        return "no-match", f"{len(self.stars)} stars match the catalogue nowhere near the hints{late}"

    def _catalog_stars(self, hint: Hint) -> int:
        """Estimate how many catalogue stars the frame holds if the hint is right."""
        if hint.scale_arcsec is None:
            return 0
        ny, nx = self.stars.shape
        area = nx * ny * (hint.scale_arcsec / 3600) ** 2
        radius = float(np.clip(np.sqrt(area / np.pi), 0.3, 20.0))
        found = len(self.catalog.cone(hint.ra_deg, hint.dec_deg, radius))
        return int(found * area / (np.pi * radius**2))


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


def _solved(search: _Search, cards: WcsCards, stars: StarList, binning: int, began: float) -> SolveOutcome:
    fit = search.fit
    assert fit is not None
    found = fit.map
    ny, nx = search.stars.shape
    ra, dec = found.sky(found.x0, found.y0)
    corners = found.sky(np.array([-0.5, nx - 0.5, nx - 0.5, -0.5]), np.array([-0.5, -0.5, ny - 0.5, ny - 0.5]))
    cd = found.cd
    return SolveOutcome(
        solved=True,
        reason="",
        message="",
        hint=search.source,
        wcs_cards=cards,
        ra_deg=float(ra),
        dec_deg=float(dec),
        scale_arcsec=found.scale_arcsec / binning,
        rotation_deg=float(np.degrees(np.arctan2(cd[0, 1], cd[1, 1])) % 360.0),
        parity=1 if np.linalg.det(cd) < 0 else -1,
        rms_arcsec=fit.rms_arcsec,
        rms_px=fit.rms_px * binning,
        held_out_arcsec=fit.held_out_arcsec,
        matches=fit.matches,
        order=fit.order,
        footprint=[[float(a), float(d)] for a, d in zip(*corners, strict=True)],
        solver=search.solver,
        catalog=fit.catalog.catalog,
        stars=stars,
        verdict=search.verdict,
        elapsed_s=time.monotonic() - began,
    )


def _unsolved(
    reason: str, message: str, stars: StarList | None, verdict: Verdict | None, began: float
) -> SolveOutcome:
    nan = float("nan")
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
        A row a file, fit for JSON: ``file, solved, reason, message, ra_deg, dec_deg, scale_arcsec, rms_arcsec,
        rms_px, matches, elapsed_s``. ``None`` stands for what is not known; a file that cannot be used has the
        error's code as its reason.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    known: dict[object, float] = {}
    return [_solve_file(Path(path), out, target, scale_arcsec, refcat, known) for path in paths]


def _solve_file(
    path: Path,
    out: Path | None,
    target: tuple[float, float] | None,
    scale_arcsec: float | None,
    refcat: CatalogProvider | None,
    known: dict[object, float],
) -> dict[str, Any]:
    """Solve one file; ``known`` carries the plate scales of cameras that solved before."""
    began = time.monotonic()
    try:
        data, header = read_frame(path)
        camera = (data.shape, *(str(header.get(key)) for key in ("INSTRUME", "XPIXSZ", "FOCALLEN", "TELESCOP")))
        scale = scale_arcsec if scale_arcsec is not None else known.get(camera)
        outcome = solve_pixels(data, header, target=target, scale_arcsec=scale, refcat=refcat)
        if outcome.solved:
            known[camera] = outcome.scale_arcsec
            if out is not None:
                write_solved(path, out / path.name, outcome.wcs_cards)
    except StarloomError as error:
        return _row(path, began) | {"reason": error.code, "message": error.message}
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
        **dict.fromkeys(names),
        "elapsed_s": round(time.monotonic() - began, 3),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
