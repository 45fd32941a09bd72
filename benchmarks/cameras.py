"""Cameras whose distortion is learnt from their own frames: what that is worth on sparse fields."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from exposure import Detector
from optics import Optics
from peers import show
from scoring import ENOUGH_MATCHES, Row, solve_and_score
from sets import SIZES
from skyframes import SkyFrame, bright_on_frame, hint_scale, off_by, photograph, plain_header, true_stars

from starloom.astrometry.instrument import learn
from starloom.sky.psf import make_psf

CAMERAS = 20
SCALE_DRIFT = 1e-3


def camera(seed: int) -> Optics:
    """A camera of 0.75 to 1.2 degrees, without a place to point at yet."""
    rng = np.random.default_rng([seed, *b"camera"])
    width, height = SIZES[1 + rng.integers(3)]
    fov = float(rng.uniform(0.75, 1.2))
    return Optics(
        0.0, 0.0, fov * 3600 / width, float(rng.uniform(0, 360)), bool(rng.random() < 0.4), width, height,
        cubic=float(rng.uniform(1, 4) * rng.choice([-1, 1])),
        tilt=tuple(float(t) for t in rng.uniform(-0.6, 0.6, 2)),
    )  # fmt: skip


def camera_frame(seed: int, number: int, optics: Optics) -> SkyFrame:
    """One of a camera's frames: dense and sparse fields in turn, another temperature and a meridian flip each."""
    rng = np.random.default_rng([seed, number, *b"frame"])
    low, high = (14, 22) if number % 2 else (32, 400)
    while True:
        pointed = replace(
            optics,
            ra_deg=float(rng.uniform(0, 360)),
            dec_deg=float(np.degrees(np.arcsin(rng.uniform(-1, 1)))),
            scale_arcsec=optics.scale_arcsec * float(1 + SCALE_DRIFT * rng.normal()),
            rotation_deg=optics.rotation_deg + 180.0 * (rng.random() < 0.5) + float(rng.normal(0, 0.3)),
        )
        if low <= bright_on_frame(pointed, 8.0) <= high:
            break
    limit = float(rng.uniform(14.0, 15.5))
    stars, known = true_stars(pointed, seed * 1000 + number, mag_limit=limit + 0.7)
    header = plain_header(datetime(2000, 1, 1, 12, tzinfo=UTC))
    header["EQUINOX"] = 2000.0
    header["RA"], header["DEC"] = off_by(rng, pointed.ra_deg, pointed.dec_deg, 0.3)
    hint_scale(header, optics.scale_arcsec * 1.01)
    psf = make_psf(float(rng.uniform(2, 4)), 3.5)
    detector = Detector(sky_adu=float(rng.uniform(200, 2000)))
    return photograph("cameras", number, pointed, stars, known, psf, detector, limit, rng, header)


def one_camera(seed: int, frames: int) -> list[Row]:
    """Every frame of a camera solved alone, then with a model learnt from the camera's other frames."""
    optics = camera(seed)
    taken = [camera_frame(seed, number, optics) for number in range(frames)]
    alone = [solve_and_score(frame) for frame in taken]
    rows: list[Row] = [row | {"camera": seed, "how": "alone"} for row, _ in alone]
    samples = [None if outcome.fit is None else outcome.fit.sample for _, outcome in alone]
    for i, frame in enumerate(taken):
        others: list[Any] = [s for j, s in enumerate(samples) if j != i and s is not None]
        model = learn(others)
        if model is not None:
            row, _ = solve_and_score(frame, instrument=model)
            # What counts as sparse is decided by the first solution, so that both rows speak of the same frames.
            rows.append(row | {"camera": seed, "how": "learnt", "matches": alone[i][0]["matches"]})
    return rows


def run_cameras(*, frames: int, seed: int, jobs: int) -> list[Row]:
    """Solve, print and return the rows of every camera's frames."""
    seeds = range(seed, seed + CAMERAS)
    work = partial(one_camera, frames=frames)
    if jobs == 1:
        found = [work(s) for s in seeds]
    else:
        with multiprocessing.Pool(jobs) as pool:
            found = pool.map(work, seeds, chunksize=1)
    rows = [row for rows in found for row in rows]
    table = []
    for how in ("alone", "learnt"):
        for label, low, high in (
            (f"< {ENOUGH_MATCHES} matches", 0, ENOUGH_MATCHES),
            ("more", ENOUGH_MATCHES, 10**9),
        ):
            mine = [r for r in rows if r["how"] == how and low <= r["matches"] < high]
            rms = [r["rms_px"] for r in mine if r["outcome"] == "solved"]
            corners = [r["corners_ratio2"] for r in mine if "corners_ratio2" in r]
            if rms:
                table.append({
                    "": f"{how}, {label}",
                    "frames": len(mine),
                    "solved": len(rms),
                    "false": sum(r["outcome"] == "FALSE" for r in mine),
                    "error px median": f"{np.median(rms):.3f}",
                    "p90": f"{np.percentile(rms, 90):.3f}",
                    "error/stated corners": f"{np.sqrt(np.mean(corners)):.2f}" if corners else "",
                })  # fmt: skip
    show(f"{CAMERAS} cameras × {frames} frames, error of the map against truth", table)
    return rows
