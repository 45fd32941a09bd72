"""The sets of simulated frames with a sky in them: a set's frame follows from its seed alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from exposure import Detector, random_streak
from optics import Optics
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

from starloom.sky.cluster import globular
from starloom.sky.field import COUNT_SLOPE, offset_position
from starloom.sky.mosaic import PATTERNS
from starloom.sky.psf import make_psf

SIZES = ((1024, 1024), (1600, 1200), (2048, 1365), (2400, 1600))


def random_optics(rng: np.random.Generator, fov_deg: tuple[float, float] = (0.4, 3.0)) -> Optics:
    """A place on the sky, a field width, a detector, a rotation, a parity and 1 to 4 px of radial distortion."""
    ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    fov = float(np.exp(rng.uniform(*np.log(fov_deg))))
    width, height = SIZES[rng.integers(4)]
    rotation, mirrored = rng.uniform(0, 360), rng.random() < 0.4
    corner = rng.uniform(1, 4)
    return Optics(
        float(ra), float(dec), fov * 3600 / width, float(rotation), bool(mirrored), width, height,
        cubic=float(corner * rng.choice([-1, 1])),
    )  # fmt: skip


def rich_optics(rng: np.random.Generator, fov_deg: tuple[float, float], at_least: int = 25) -> Optics:
    """The same where the catalogue has stars enough, half of them hardly enough; a few may yet be saturated."""
    at_most = 60 if rng.random() < 0.5 else 10**6
    while True:
        optics = random_optics(rng, fov_deg)
        if at_least <= bright_on_frame(optics, 8.5) <= at_most:
            return optics


def synth(seed: int) -> SkyFrame:
    """The prototype's frames: rendered from the solving catalogue at its own epoch, kind but for the passband."""
    # The geometry takes the prototype's draws in their order: seed for seed the same fields.
    rng = np.random.default_rng(seed)
    optics = random_optics(rng)
    stars, known = true_stars(optics, seed, mag_limit=0.0)
    extra = _prototype_faint(rng, optics, len(known))
    stars = tuple(np.concatenate(pair) for pair in zip(stars, extra, strict=True))
    known = np.concatenate([known, np.zeros(len(extra[0]), bool)])
    psf = make_psf(float(rng.uniform(2, 5)), 3.5)
    detector = Detector(sky_adu=float(rng.uniform(200, 2000)), vignetting=0.15, pixel_response=0.02)
    streaks = (random_streak(rng, optics.shape, 20.0),) if rng.random() < 0.3 else ()
    header = plain_header(datetime(2000, 1, 1, 12, tzinfo=UTC))
    header["EQUINOX"] = 2000.0
    header["RA"] = float(optics.ra_deg + rng.normal(0, 0.2) / np.cos(np.radians(optics.dec_deg))) % 360.0
    header["DEC"] = float(np.clip(optics.dec_deg + rng.normal(0, 0.2), -90, 90))
    hint_scale(header, optics.scale_arcsec * float(1 + rng.normal(0, 0.02)))
    # The prototype's star of S/N 8 in 4 pi sigma^2 pixels, m = 14.2 to 15.2, is one of 5 sigma half a mag fainter.
    limit = float(rng.uniform(14.2, 15.2)) + 0.5
    return photograph("synth", seed, optics, stars, known, psf, detector, limit, rng, header, streaks)


def _prototype_faint(rng: np.random.Generator, optics: Optics, catalogued: int):
    """Stars that the catalogue lacks, from magnitude 11 on a few and from 11.9 on all of them, to 15.3."""
    radius = optics.radius_deg * 1.08 + 30 * optics.scale_arcsec / 3600
    area = np.pi * radius**2
    growth = 10 ** (COUNT_SLOPE * (15.3 - 11.8)) - 1
    n = min(rng.poisson(max(catalogued / area, 15) * area * growth), 40000)
    mag = 11.0 + np.log10(1 + rng.random(n) * (10 ** (COUNT_SLOPE * 4.3) - 1)) / COUNT_SLOPE
    mag = mag[(mag > 11.9) | (rng.random(n) < 0.25 * (mag - 11))]
    distance = radius * np.sqrt(rng.random(len(mag)))
    ra, dec = offset_position(optics.ra_deg, optics.dec_deg, distance, rng.uniform(0, 2 * np.pi, len(mag)))
    return ra, dec, mag


def amateur(rng: np.random.Generator, optics: Optics) -> tuple[Detector, float]:
    """A sensor, its sky and the frame's limiting magnitude."""
    bits14 = rng.random() < 0.3
    detector = Detector(
        sky_adu=float(np.exp(rng.uniform(*np.log((80, 2500))))) * (0.4 if bits14 else 1.0),
        gain=float(np.exp(rng.uniform(*np.log((0.2, 3.0))))),
        read_noise_adu=float(rng.uniform(1.5, 10)),
        pedestal=float(rng.choice([0, 100, 500, 1000])) if not bits14 else float(rng.choice([256, 512, 1024])),
        top=16383.0 if bits14 else 65535.0,
        vignetting=float(rng.uniform(0.02, 0.4)),
        gradient=tuple(float(g) for g in rng.uniform(-0.15, 0.15, 3)),
        pixel_response=0.01,
        hot_share=float(np.exp(rng.uniform(*np.log((3e-6, 3e-4))))),
        hot_columns=int(rng.integers(0, 4)),
        cosmic_rays=float(rng.uniform(0, 40)),
    )
    return detector, float(rng.uniform(13.8, 16.3))


def header_of_date(rng: np.random.Generator, optics: Optics, start: datetime, scale_error: float = 0.03):
    header = plain_header(start)
    hint_of_date(header, *off_by(rng, optics.ra_deg, optics.dec_deg, 0.5), start)
    hint_scale(header, optics.scale_arcsec * float(1 + rng.uniform(-scale_error, scale_error)))
    return header


def _real_sky(
    kind, seed, rng, optics, psf, detector, limit, extra=None, streaks=(), right=frozenset(), top_row=None
):
    """A frame of the realistic sky, with whatever else stands in it."""
    start = night_of(rng)
    stars, known = true_stars(
        optics,
        seed,
        mag_limit=min(limit + 0.7, 16.5),
        mag_scatter=0.25,
        position_scatter_arcsec=0.1,
        epoch=julian_year(start),
        colour_term=float(rng.uniform(-0.6, 0.2)),
    )
    if extra is not None:
        stars = tuple(np.concatenate(pair) for pair in zip(stars, extra, strict=True))
        known = np.concatenate([known, np.zeros(len(extra[0]), bool)])
    header = header_of_date(rng, optics, start)
    if top_row:
        header["ROWORDER"] = top_row
    return photograph(kind, seed, optics, stars, known, psf, detector, limit, rng, header, streaks, right)


def _rng(kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *kind.encode()])


def realistic(seed: int) -> SkyFrame:
    """Any field, with everything that a real frame has against it."""
    rng = _rng("realistic", seed)
    optics = replace(random_optics(rng), tilt=tuple(float(t) for t in rng.uniform(-0.5, 0.5, 2)))
    detector, limit = amateur(rng, optics)
    psf = make_psf(float(rng.uniform(1.8, 5)), float(rng.uniform(2.5, 4.5)))
    streaks = tuple(random_streak(rng, optics.shape, float(rng.uniform(5, 40))) for _ in range(rng.poisson(0.4)))
    return _real_sky("realistic", seed, rng, optics, psf, detector, limit, streaks=streaks)


def bayer(seed: int) -> SkyFrame:
    """One-shot-colour mosaics, all patterns, row order stated either way or not at all."""
    rng = _rng("bayer", seed)
    optics = rich_optics(rng, (0.8, 3.0))
    detector, limit = amateur(rng, optics)
    detector = replace(detector, bayer=PATTERNS[seed % 4])
    psf = make_psf(float(rng.uniform(2.0, 4.5)), float(rng.uniform(2.5, 4.5)))
    row = ("TOP-DOWN", "BOTTOM-UP", None)[seed // 4 % 3]
    return _real_sky("bayer", seed, rng, optics, psf, detector, limit, top_row=row)


def dslr(seed: int) -> SkyFrame:
    """A photo lens on a 14-bit camera: 5 to 15 degrees, 5 to 20 px of distortion, tilted; half are mosaics."""
    rng = _rng("dslr", seed)
    while bright_on_frame(optics := random_optics(rng, (5.0, 15.0)), 8.5) < 100:
        pass
    size = SIZES[2 + seed % 2]
    optics = replace(
        optics,
        scale_arcsec=optics.scale_arcsec * optics.width / size[0],
        width=size[0],
        height=size[1],
        cubic=float(rng.uniform(5, 20) * rng.choice([-1, 1])),
        quintic=float(rng.uniform(-4, 4)),
        tilt=tuple(float(t) for t in rng.uniform(-3, 3, 2)),
    )
    detector, _ = amateur(rng, optics)
    detector = replace(
        detector, top=16383.0, pedestal=float(rng.choice([512, 1024, 2048])), bayer="RGGB" if seed % 2 else "",
        sky_adu=float(rng.uniform(100, 2500)), vignetting=float(rng.uniform(0.2, 0.5)),
    )  # fmt: skip
    psf = make_psf(float(rng.uniform(1.7, 3.0)), float(rng.uniform(2.5, 4.0)))
    return _real_sky("dslr", seed, rng, optics, psf, detector, float(rng.uniform(11.5, 14.0)))


def cluster(seed: int) -> SkyFrame:
    """A globular cluster of thousands of stars near the middle of a real field, 2 arcsec a pixel."""
    rng = _rng("globular", seed)
    while True:
        optics = replace(random_optics(rng), scale_arcsec=2.0)
        optics = replace(optics, width=SIZES[1 + seed % 3][0], height=SIZES[1 + seed % 3][1])
        if bright_on_frame(optics, 8.5) >= 28:
            break
    detector, limit = amateur(rng, optics)
    limit = max(limit, 15.0)
    centre = off_by(rng, optics.ra_deg, optics.dec_deg, 0.15)
    extra = globular(
        *centre, int(rng.integers(3000, 12000)), float(rng.uniform(1.5, 4.0)) / 60, float(rng.uniform(11.0, 13.0)),
        seed=seed,
    )  # fmt: skip
    psf = make_psf(float(rng.uniform(1.8, 4.0)), float(rng.uniform(2.5, 4.5)))
    return _real_sky("globular", seed, rng, optics, psf, detector, limit, extra=extra)


def trailed(seed: int) -> SkyFrame:
    """A mount that drifts: every star a line of 2 to 10 px."""
    rng = _rng("trailed", seed)
    optics = rich_optics(rng, (0.6, 3.0))
    detector, limit = amateur(rng, optics)
    psf = make_psf(
        float(rng.uniform(2.0, 4.0)), float(rng.uniform(2.5, 4.5)),
        trail_px=float(rng.uniform(2, 10)), trail_angle_deg=float(rng.uniform(0, 180)),
    )  # fmt: skip
    right = frozenset({"trailed"})
    frame = _real_sky("trailed", seed, rng, optics, psf, detector, max(limit, 14.5), right=right)
    frame.about += f", trail {2 * (psf.extent_px - psf.fwhm_px):.1f} px"
    return frame


def defocused(seed: int) -> SkyFrame:
    """Out of focus: discs and rings of 5 to 12 px full width at half maximum."""
    rng = _rng("defocused", seed)
    optics = rich_optics(rng, (0.6, 3.0))
    detector, limit = amateur(rng, optics)
    # A ring a little wider than the seeing has its own diameter as its full width at half maximum.
    donut = float(rng.uniform(5, 12))
    psf = make_psf(
        float(rng.uniform(2.0, 3.0)), float(rng.uniform(2.5, 4.5)),
        donut_px=donut, obstruction=float(rng.choice([0.0, 0.3, 0.4])),
    )  # fmt: skip
    right = frozenset({"defocused"})
    frame = _real_sky("defocused", seed, rng, optics, psf, detector, max(limit, 14.5), right=right)
    frame.about += f", donut {donut:.1f} px"
    return frame


KINDS = {"bayer": bayer, "dslr": dslr, "globular": cluster, "trailed": trailed, "defocused": defocused}
