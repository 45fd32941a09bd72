"""What solving costs in CPU: solve and refine from a ready star list, and the whole of a 24-megapixel frame."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import seiza
import sep
from exposure import Detector
from optics import Optics
from peers import program, show
from scoring import FALSE_CENTRE_PX, FALSE_SCALE, Row, cpu_s
from sets import synth
from skyframes import ENOUGH_STARS, SkyFrame, hint_scale, photograph, plain_header, true_stars

from starloom.astrometry import Parts, SolveOutcome, StarList, detect_stars, solve_pixels
from starloom.frames import read_frame
from starloom.photometry import PhotometryOptions, cone_of, photometer
from starloom.refcat import default_refcat
from starloom.sky.night import write_compressed
from starloom.sky.psf import make_psf

FRAMES = 30
ROUNDS = 3


def run_cost() -> list[Row]:
    """Print both tables and return their rows."""
    hinted, whole = hinted_cost(), whole_frame_cost()
    show(f"Solve and refine, hinted, from the same ready star lists, {FRAMES} frames of synth", hinted)
    show("A whole frame of 6000 × 4000 × 16 bit", whole)
    return [*hinted, *whole]


class Ready:
    """A detector that has already done its work."""

    def __init__(self, stars: StarList) -> None:
        self.stars = stars

    def __call__(self, data: Any, **options: Any) -> StarList:
        return self.stars


def hinted_cost() -> list[Row]:
    """Ours and the peers in turn, frame by frame."""
    frames: list[tuple[SkyFrame, StarList]] = []
    seed = 1000
    while len(frames) < FRAMES:
        frame = synth(seed)
        seed += 1
        if frame.catalogued >= ENOUGH_STARS:
            frames.append((frame, detect_stars(frame.data)))
    solve_pixels(frames[0][0].data, frames[0][0].header)  # imports and catalogue, once
    costs: dict[str, list[float]] = {}
    right: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for frame, stars in frames:
            for name, solver in _contenders(Path(folder)).items():
                before = cpu_s()
                found = solver(frame, stars)
                costs.setdefault(name, []).append(cpu_s() - before)
                right[name] = right.get(name, 0) + bool(found)
    ours = median(next(iter(costs.values())))
    return [
        {
            "": name,
            "CPU ms median": round(1e3 * median(found), 1),
            "p95": round(1e3 * float(np.percentile(found, 95)), 1),
            "CPU ratio to ours": round(median(found) / ours, 2),
            "right": f"{right[name]} of {len(frames)}",
        }
        for name, found in costs.items()
    ]


def _contenders(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"starloom: solve, refine, judge": _ours, "seiza.solve alone": _seiza}
    if shutil.which("solve-field"):
        found["astrometry.net solve-field (a process each, SIP of order 2)"] = lambda f, s: _solve_field(
            folder, f, s
        )
    return found


def _ours(frame: SkyFrame, stars: StarList) -> bool:
    outcome = solve_pixels(frame.data, frame.header, parts=replace(Parts(), detector=Ready(stars)))
    return outcome.solved and _right(frame, outcome.wcs_cards)


def _hint(frame: SkyFrame) -> tuple[float, float, float]:
    header = frame.header
    return header["RA"], header["DEC"], 206.264806 * header["XPIXSZ"] / header["FOCALLEN"]


def _seiza(frame: SkyFrame, stars: StarList) -> bool:
    ra, dec, scale = _hint(frame)
    few = stars.brightest(300)
    rows = list(zip(few.x.tolist(), few.y.tolist(), few.flux.tolist(), strict=True))
    ny, nx = stars.shape
    try:
        found = seiza.solve(
            rows, default_refcat().seiza(), nx, ny, ra=ra, dec=dec, scale_arcsec_px=scale, radius_deg=1.0,
            scale_tolerance=0.2, sip_order=0,
        )  # fmt: skip
    except (seiza.SolveError, TimeoutError):
        return False
    return _right(frame, dict(found.fits_header_cards()))


def _solve_field(folder: Path, frame: SkyFrame, stars: StarList) -> bool:
    from astropy.io import fits

    ra, dec, scale = _hint(frame)
    few = stars.brightest(300)
    columns = [fits.Column(n, "E", array=a) for n, a in (("X", few.x + 1), ("Y", few.y + 1), ("FLUX", few.flux))]
    for old in folder.glob("list*"):
        old.unlink()
    path = folder / "list.xyls"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    ny, nx = stars.shape
    program(
        "solve-field", "--no-plots", "--overwrite", "--width", str(nx), "--height", str(ny), "--x-column", "X",
        "--y-column", "Y", "--sort-column", "FLUX", "--ra", f"{ra:.5f}", "--dec", f"{dec:.5f}", "--radius", "1",
        "--scale-units", "arcsecperpix", "--scale-low", f"{0.8 * scale:.4f}", "--scale-high", f"{1.2 * scale:.4f}",
        "--cpulimit", "20", "--dir", str(folder), str(path),
    )  # fmt: skip
    wcs = folder / "list.wcs"
    return wcs.exists() and _right(frame, dict(fits.getheader(wcs)))


def _right(frame: SkyFrame, cards: dict[str, Any]) -> bool:
    from starloom.astrometry.wcs import WCS_KEYWORD

    assert frame.optics is not None
    ny, nx = frame.optics.shape
    kept = {k: v for k, v in cards.items() if WCS_KEYWORD.fullmatch(k)}
    at = np.array([nx / 2, nx / 2 + 100]), np.array([ny / 2, ny / 2])
    dx, dy = frame.optics.errors_px(kept, *at)
    return bool(
        np.hypot(dx, dy)[0] < FALSE_CENTRE_PX and np.hypot(dx[1] - dx[0], dy[1] - dy[0]) < 100 * FALSE_SCALE
    )


def large_frame() -> SkyFrame:
    """6000 × 4000 pixels of 1.2 arcsec with 4,000 stars above 5 sigma."""
    rng = np.random.default_rng(24)
    optics = Optics(305.0, 38.0, 1.2, 31.0, False, 6000, 4000, cubic=4.0)
    stars, known = true_stars(optics, 24, mag_limit=16.5)
    _, _, on = optics.on_frame(stars[0], stars[1])
    limit = float(np.sort(stars[2][on])[4000])
    from datetime import UTC, datetime

    start = datetime(2000, 1, 1, 12, tzinfo=UTC)
    header = plain_header(start)
    header["RA"], header["DEC"], header["EQUINOX"] = 305.1, 38.1, 2000.0
    hint_scale(header, 1.22)
    detector = Detector(sky_adu=600.0)
    return photograph("large", 24, optics, stars, known, make_psf(3.0), detector, limit, rng, header)


def whole_frame_cost() -> list[Row]:
    """Read, detect, solve, refine, zero point; and sep with windowed centroids on the pixels alone."""
    frame = large_frame()
    stages: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.fits.fz"
        write_compressed(path, frame.data, frame.header)
        for _ in range(ROUNDS):
            for name, cost in _one_round(path, counts).items():
                stages.setdefault(name, []).append(cost)
    cost = {name: median(found) for name, found in stages.items()}
    ours = sum(value for name, value in cost.items() if not name.startswith("peer"))
    cost = {"starloom: whole frame": ours} | cost
    return [
        {
            "": name,
            "CPU-s": f"{value:.3f}",
            "ratio to our whole": f"{value / ours:.2f}",
            "stars": counts.get(name, ""),
        }
        for name, value in cost.items()
    ]


def _one_round(path: Path, counts: dict[str, int]) -> dict[str, float]:
    found: dict[str, float] = {}

    def timed(name: str, before: float) -> float:
        now = cpu_s()
        found[name] = now - before
        return now

    began = cpu_s()
    data, header = read_frame(path)
    began = timed("read .fz", began)
    stars = detect_stars(data)
    began = timed("detect", began)
    outcome: SolveOutcome = solve_pixels(data, header, parts=replace(Parts(), detector=Ready(stars)))
    began = timed("solve, refine, judge", began)
    if not outcome.solved:
        raise SystemExit(f"the large frame did not solve: {outcome.message}")
    catalog = default_refcat().cone(*cone_of(outcome.wcs_cards, data.shape))
    photometer(data, outcome.wcs_cards, stars, catalog, PhotometryOptions(match_arcsec=3.0))
    began = timed("zero point", began)
    counts["detect"] = len(stars)
    pixels = np.ascontiguousarray(data, np.float32)
    began = cpu_s()
    sky = sep.Background(pixels)
    pixels = pixels - sky.back()
    objects = sep.extract(pixels, 4.0, err=sky.globalrms)
    sep.winpos(pixels, objects["x"], objects["y"], np.full(len(objects), 1.3))
    timed("peer: sep background, extract, winpos", began)
    counts["peer: sep background, extract, winpos"] = len(objects)
    return found
