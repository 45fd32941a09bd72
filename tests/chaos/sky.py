"""Tiny missions whose frames are READY: solved copies in the lake, and an undisturbed stack to hold to."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from astropy.io import fits
from sqlmodel import Session

from starloom.archive import missions
from starloom.archive.models import Frame, Photometry, Solution
from starloom.coadd import step
from starloom.frames.pixels import pixel_digest
from starloom.holding import StackRef, claimed
from starloom.hub import Hub
from starloom.lake import keys
from starloom.sky import field_sky
from starloom.sky.night import dithers, frame_name, write_compressed
from starloom.sky.render import FrameTruth, render
from starloom.sky.telescope import Telescope

TARGET = (343.91, 55.85)
START = datetime(2026, 10, 8, 22, tzinfo=UTC)
FRAMES = 3
#: Fields that differ: mission ``n`` has the pixels of field ``n % FIELDS``.
FIELDS = 6
TELESCOPE = Telescope(
    node="T42", scale_arcsec=5.0, width=128, height=96, zero_point_mag=21.0, sky_adu=300.0, cosmic_rays=0.0,
)  # fmt: skip
SKY_SIGMA_ADU = 20.0
"""Of one pixel: photon noise of 300 + 100 ADU at a gain of 1."""


@dataclass(frozen=True)
class TinyFrame:
    """A frame of a field: its file, what was rendered into it, the digest of its pixels."""

    data: bytes
    truth: FrameTruth
    digest: str


@cache
def field_frames(field: int) -> tuple[TinyFrame, ...]:
    """Render the frames of a field; the same field gives the same bytes."""
    sky = field_sky(*TARGET, 0.3, seed=3 + field, band="V")
    made = []
    with tempfile.TemporaryDirectory(prefix="starloom-chaos-") as folder:
        for n, pointing in enumerate(dithers(*TARGET, FRAMES, 0.005, seed=5 + field)):
            frame = render(TELESCOPE, sky, pointing, seed=10 * field + n, start=START + timedelta(minutes=n))
            frame.header.update(frame.truth.wcs)
            path = Path(folder) / "frame.fits.fz"
            write_compressed(path, frame.image, frame.header)
            made.append(TinyFrame(path.read_bytes(), frame.truth, pixel_digest(frame.image)))
    return tuple(made)


def frame_id(mission: int, n: int) -> str:
    """Return an id that sorts as the frames do: the order of a stack's inputs is part of its bits."""
    return f"{mission:024x}{n:08x}"


def add_mission(hub: Hub, name: str, number: int) -> None:
    """File a mission with its READY frames, OPEN; done again, nothing changes."""
    with hub.archive.session() as session:
        if missions.find(session, name) is not None:
            return
    stored = []
    for n, tiny in enumerate(field_frames(number % FIELDS)):
        start = START + timedelta(minutes=n)
        stored.append(hub.lake.put_bytes(tiny.data, keys.solved("T42", start, frame_id(number, n), 1)))
    with hub.archive.transaction() as session:
        missions.create_mission(session, name, ra_deg=TARGET[0], dec_deg=TARGET[1])
        session.flush()
        for n, tiny in enumerate(field_frames(number % FIELDS)):
            _add_frame(session, name, frame_id(number, n), n, tiny, stored[n].key, stored[n].version)


def _add_frame(
    session: Session, mission: str, ident: str, n: int, tiny: TinyFrame, key: str, version: str | None
) -> None:
    start = START + timedelta(minutes=n)
    truth = tiny.truth
    ra, dec = float(truth.wcs["CRVAL1"]), float(truth.wcs["CRVAL2"])
    session.add(
        Frame(
            id=ident, name=frame_name(mission, "T42", start), node_id="T42", obs_req=mission, mission_id=mission,
            start_utc=start, exposure_s=truth.exposure_s, filter="V", band="V", width=truth.width,
            height=truth.height, pixel_digest=tiny.digest, solved_key=key, solved_version=version, ingest="ok",
            calibrate="ok", solve="ok", measure="ok", ready_at=datetime.now(UTC),
        )
    )  # fmt: skip
    solution = Solution(
        frame_id=ident, solver="truth", catalog="truth", code_version="chaos", ra_deg=ra, dec_deg=dec,
        scale_arcsec=TELESCOPE.scale_arcsec, rotation_deg=0.0, parity=1, rms_arcsec=0.1, rms_px=0.02, matches=30,
        order=1, wcs=dict(truth.wcs), solved_key=key, solved_version=version,
    )  # fmt: skip
    session.add(solution)
    session.flush()
    assert solution.id is not None
    session.add(
        Photometry(
            frame_id=ident, solution_id=solution.id, band="V", zero_point_mag=truth.zero_point_mag,
            zero_point_err=0.02, fwhm_px=truth.fwhm_px, fwhm_arcsec=truth.fwhm_px * TELESCOPE.scale_arcsec,
            sky_adu=truth.sky_adu, sky_sigma_adu=SKY_SIGMA_ADU,
        )
    )  # fmt: skip


def stack_here(hub: Hub, mission: str, event_id: int, holder: str = "undisturbed") -> StackRef | None:
    """Stack a mission by the library calls that ``stack-mission`` makes, in this process."""
    with claimed(hub, mission, event_id, holder=holder) as claim:
        plans = step.bind_and_plan(hub, claim)
        if not plans:
            return None
        for plan in plans:
            for batch in plan.batches():
                step.stack_tiles(batch)
        return step.publish(hub, claim, plans)


def data_sums(path: Path) -> dict[str, str]:
    """Return the DATASUM of every image of a product: all that does not name the mission."""
    with fits.open(path, checksum=True) as hdus:
        return {hdu.name: hdu.header["DATASUM"] for hdu in hdus[1:] if hdu.name != "PROVENANCE"}
