"""Frames that must never be solved: nothing on them, or a pointing that is elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from astropy.io import fits
from exposure import Detector, expose, random_streak
from scipy.ndimage import zoom
from sets import amateur, random_optics, rich_optics
from skyframes import (
    SkyFrame,
    bright_on_frame,
    hint_of_date,
    hint_scale,
    julian_year,
    night_of,
    off_by,
    photograph,
    plain_header,
    true_stars,
)

from starloom.sky.psf import make_psf

# What tells the truth about a frame without stars, written down before the first run.
NO_STARS = frozenset({"no-sky", "too-few-stars"})
KINDS = (
    "noise", "flat", "clouds", "hot-pixels", "cosmic-rays", "satellites", "elsewhere", "elsewhere-blind",
)  # fmt: skip


def no_sky(seed: int) -> SkyFrame:
    """A frame that must not be accepted; the seed chooses its kind in turn."""
    kind = KINDS[seed % len(KINDS)]
    rng = np.random.default_rng([seed, *b"no-sky"])
    if kind.startswith("elsewhere"):
        return _elsewhere(kind, seed, rng)
    optics = random_optics(rng)
    detector, _ = amateur(rng, optics)
    calm = replace(detector, hot_share=0.0, hot_columns=0, cosmic_rays=0.0)
    light = np.zeros(optics.shape, np.float32)
    streaks = ()
    if kind == "flat":
        calm = replace(
            calm, sky_adu=0.4 * calm.top, vignetting=0.3, pixel_response=float(rng.uniform(0.002, 0.02))
        )
    elif kind == "clouds":
        light = _clouds(rng, optics.shape) * np.float32(calm.sky_adu * rng.uniform(0.2, 1.5))
    elif kind == "hot-pixels":
        calm = replace(calm, hot_share=float(rng.uniform(1e-4, 1e-3)), hot_columns=int(rng.integers(0, 6)))
    elif kind == "cosmic-rays":
        calm = replace(calm, cosmic_rays=float(rng.uniform(20, 200)))
    elif kind == "satellites":
        streaks = tuple(
            random_streak(rng, optics.shape, float(rng.uniform(5, 60))) for _ in range(rng.integers(1, 6))
        )
    reasons = NO_STARS | {"trailed"} if kind == "satellites" else NO_STARS
    header = _header(rng, optics.ra_deg, optics.dec_deg, optics.scale_arcsec)
    return SkyFrame(kind, seed, expose(light, calm, rng, streaks), header, None, 0, reasons)


def _header(rng: np.random.Generator, ra: float, dec: float, scale: float) -> fits.Header:
    start = night_of(rng)
    header = plain_header(start)
    hint_of_date(header, *off_by(rng, ra, dec, 0.5), start)
    hint_scale(header, scale * float(1 + rng.uniform(-0.03, 0.03)))
    return header


def _clouds(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Smooth brightness of many scales, 0 to 1, none as small as a star."""
    total = np.zeros(shape, np.float32)
    for cells, weight in ((3, 1.0), (6, 0.6), (12, 0.35), (24, 0.2)):
        coarse = rng.random((cells + 3, cells + 3)).astype(np.float32)
        fine = zoom(coarse, (shape[0] / cells, shape[1] / cells), order=3)
        total += np.float32(weight) * fine[: shape[0], : shape[1]]
    total -= total.min()
    return total / total.max()


def _elsewhere(kind: str, seed: int, rng: np.random.Generator) -> SkyFrame:
    """A good frame whose header points 10 degrees or more away; `elsewhere-blind` may search the sky."""
    optics = rich_optics(rng, (0.6, 3.0))
    detector: Detector
    detector, limit = amateur(rng, optics)
    start = night_of(rng)
    while True:
        other = random_optics(rng)
        cosine = np.cos(np.radians(other.dec_deg - optics.dec_deg))
        apart = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        if apart >= 10:
            break
    stars, known = true_stars(
        optics, seed, mag_limit=limit + 0.7, position_scatter_arcsec=0.1, epoch=julian_year(start)
    )
    psf = make_psf(float(rng.uniform(1.8, 5)), float(rng.uniform(2.5, 4.5)))
    header = _header(rng, other.ra_deg, other.dec_deg, optics.scale_arcsec)
    reasons = {"wrong-hint", "no-match"}
    there = replace(optics, ra_deg=other.ra_deg, dec_deg=other.dec_deg)
    if bright_on_frame(there) < 12:
        # Where the header points, the catalogue is as sparse as the refusal then says.
        reasons.add("catalogue-too-sparse")
    blind = kind == "elsewhere-blind"
    frame = photograph(
        kind, seed, optics, stars, known, psf, detector, max(limit, 14.5), rng, header,
        right_reasons=frozenset(reasons), blind=blind,
    )  # fmt: skip
    return replace(frame, misled=True)
