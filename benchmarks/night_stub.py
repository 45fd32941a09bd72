"""Canned pixels for the simulated night: what reads or makes pixels is replaced, all around it is the hub's own.

Frames are a few bytes. Their identity, the commits of all four steps, the objects of the lake (raw, solved copy,
source list, receipt) and the runs, tasks and events are real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

SHAPE = (4096, 4096)
HEADER = fits.Header(
    {
        "INSTRUME": "Camera", "TELESCOP": "Telescope", "EXPTIME": 60.0, "FILTER": "V", "XBINNING": 1, "RA": 10.0,
        "DEC": 20.0, "OBSGEO-B": 47.0, "OBSGEO-L": 8.0, "OBSGEO-H": 500.0,
    }
)  # fmt: skip
STARS = SimpleNamespace(shape=SHAPE, trailed=False, defocused=False)
#: As many numbers as an average source list has, in miniature.
SOURCES = pa.table({name: np.arange(30.0) for name in ("x", "y", "ra_deg", "dec_deg", "flux", "mag", "mag_err")})


def install(loaded: str) -> None:
    """Replace what touches pixels in the rooms that a module of the tasks has loaded."""
    (_can_frames if loaded == "tasks.frames" else _can_stack)()


def _can_frames() -> None:
    from starloom.astrometry import step as astrometry
    from starloom.calibration import step as calibration
    from starloom.calibration.matching import Match
    from starloom.frames import Examined, FrameInfo, normalise
    from starloom.frames import step as frames
    from starloom.photometry import step as photometry

    def examine_apart(path: Path) -> Examined:
        data = Path(path).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return Examined(FrameInfo(Path(path), digest, len(data), SHAPE, "uint16", True, digest), normalise(HEADER))

    def calibrated(*_: Any) -> Any:
        nothing = ("key", "lake_version", "masked_fraction", "saturation_adu", "gain_e_per_adu", "read_noise_adu")
        return calibration._Outcome(Match(), ("uncalibrated",), dict.fromkeys(nothing))

    def write_solved(source: Path, target: Path, *_: Any, **__: Any) -> None:
        Path(target).write_bytes(Path(source).read_bytes() + b" solved")

    frames.examine_apart = examine_apart
    calibration._calibrated = calibrated
    astrometry.read_planes = lambda _: SimpleNamespace(header=HEADER)
    astrometry._outcome = lambda *_: _solved()
    astrometry.stars_hdu = lambda _: None
    astrometry.write_solved = write_solved
    photometry.read_planes = lambda _: SimpleNamespace(mask=None, data=np.zeros((4, 4)))
    photometry.read_stars = lambda _: [1]
    photometry.saturation_from_histogram = lambda *_: 60000.0
    photometry.catalog_for = lambda *_, **__: SimpleNamespace(catalog="Tycho-2")
    photometry.photometer = lambda *_, **__: _measured()


def _solved() -> SimpleNamespace:
    wcs = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 10.0,
        "CRVAL2": 20.0,
        "CRPIX1": 2048.5,
        "CRPIX2": 2048.5,
    }
    turn = {"CD1_1": -0.0002777, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0002777}
    return SimpleNamespace(
        solved=True, stars=STARS, wcs_cards=wcs | turn, solver="canned", catalog="Tycho-2", fit=None, epoch=2026.9,
        hint="header", ra_deg=10.0, dec_deg=20.0, scale_arcsec=1.0, rotation_deg=0.0, parity=1, rms_arcsec=0.2,
        rms_px=0.2, held_out_arcsec=0.25, matches=40, order=2, offset_deg=None, flags=(),
        footprint=[[10.6, 19.43], [9.4, 19.43], [9.4, 20.57], [10.6, 20.57]],
    )  # fmt: skip


def _measured() -> SimpleNamespace:
    return SimpleNamespace(
        zero_point_mag=21.0, zero_point_err=0.01, scatter_mag=0.02, calibrators=30, catalog_band="V",
        catalog="Tycho-2", catalog_version="2", colour_term=0.0, colour_ref=0.6, aperture_px=5.0, growth=1.05,
        gain_e_per_adu=1.0, psf_stars=20, fwhm_px=2.5, fwhm_arcsec=2.5, fwhm_corner_px=2.7, ellipticity=0.1,
        sky_adu=500.0, sky_sigma_adu=20.0, sky_brightness_mag_arcsec2=20.5, limiting_mag=18.0,
        saturation_adu=60000.0, sources=SOURCES,
    )  # fmt: skip


def _can_stack() -> None:
    from starloom.archive import claims
    from starloom.coadd import step
    from starloom.holding import ClaimRef, PlanRef, StackRef
    from starloom.hub import Hub
    from starloom.lake import keys

    def bind_and_plan(hub: Hub, claim: ClaimRef) -> list[PlanRef]:
        claims.bind(hub.archive, claim.claim(), {}, 0)
        if claims.settle_unchanged(hub.archive, claim.claim()):
            return []
        return [PlanRef(folder=Path(), band="V", pointing=1, units=[])]

    def publish(hub: Hub, claim: ClaimRef, plans: Sequence[PlanRef]) -> StackRef:
        bound = claims.bind(hub.archive, claim.claim(), {}, 0)
        stored = hub.lake.put_bytes(b"stack", keys.stack(claim.mission_id, claim.n, claim.epoch, "V", 1))
        reports = [
            SimpleNamespace(
                id=item.frame.id, weight=1.0, scale=1.0, reason=None, rejected_fraction=0.0, n_streaks=0,
                registration_rms_px=0.1,
            )
            for item in bound
        ]  # fmt: skip
        outcomes = [claims.FrameOutcome(report.id, 1.0, 1.0, 0.0, None) for report in reports]
        product = claims.NewProduct("V", 1, stored.key, stored.version, "0" * 64, 5, None, {})
        claims.publish(hub.archive, claim.claim(), [product], outcomes, {})
        step._tell_the_nodes(hub, claim, reports)
        name = f"{claim.mission_id} r{claim.n}"
        return StackRef(name=name, mission_id=claim.mission_id, n=claim.n, products=[], frames=[])

    step.bind_and_plan, step.publish = bind_and_plan, publish
