"""A small network's night for the demo: one field, one band, three unlike telescopes, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from starloom.sky.field import Sky, field_sky, offset_position
from starloom.sky.night import Exposure, dithers, frame_name, write_compressed, write_frame
from starloom.sky.render import FrameTruth, Trail, render
from starloom.sky.telescope import Telescope

# In Lacerta, 3° from the galactic plane: over 100 catalogue stars a square degree, none brighter than VT 8.
TARGET = (343.91, 55.85)
TARGET_NAME = "Lac field"
BAND = "V"
# V = VT - 0.090 (BT - VT): ESA 1997, SP-1200, 1.3.20.
V_COLOUR_TERM = -0.090
# The field stands highest around 22 h UTC from a site near Greenwich's meridian.
NIGHT = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)
# The sky is that night's: solvers move the catalogue to the date in the header.
EPOCH = 2026.77
OFF_TARGET_DEG = 10.0

TELESCOPES = (
    Telescope(
        "T17", 1.6, 1500, 1100, rotation_deg=12.0, parity=1, distortion_px=3.0, fwhm_px=(2.6, 3.2),
        gain_e_per_adu=1.0, read_noise_e=3.5, pedestal_adu=200.0, bitpix=16, zero_point_mag=22.8,
        sky_adu=600.0, exposure_s=60.0, vignetting=0.02, gradient=0.06, program="nina",
        filter_name="V", focal_length_mm=490.0,
    ),
    Telescope(
        "T24", 2.2, 1200, 900, rotation_deg=197.0, parity=-1, distortion_px=-2.0, fwhm_px=(2.3, 2.8),
        gain_e_per_adu=0.1, read_noise_e=9.0, pedestal_adu=1000.0, bitpix=32, full_well_adu=1_000_000.0,
        zero_point_mag=25.6, sky_adu=9000.0, exposure_s=120.0, vignetting=0.03, gradient=-0.04,
        program="maxim", filter_name="Johnson V", focal_length_mm=840.0,
    ),
    Telescope(
        "T68", 3.0, 1000, 750, rotation_deg=75.0, parity=1, distortion_px=1.5, fwhm_px=(2.1, 2.5),
        gain_e_per_adu=1.4, read_noise_e=2.0, pedestal_adu=64.0, bitpix=-32, full_well_adu=65535.0,
        zero_point_mag=21.6, sky_adu=800.0, exposure_s=20.0, vignetting=0.01, gradient=0.03,
        program="seestar", filter_name="V", focal_length_mm=250.0,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class NetworkTruth:
    """What `make_network` wrote, and the truth about it.

    Parameters
    ----------
    mission
        Mission id in the file names.
    target_deg
        Right ascension and declination of the field, degrees ICRS.
    band, filter_names
        The one band, and what each node calls it.
    nodes
        Node ids.
    good, trail, corrupt, duplicate, misnamed, off_target, late
        Files by what is true of them; disjoint. ``trail`` frames are usable, ``duplicate`` repeats the pixels,
        node and start of the first good frame, ``late`` belongs to the mission but is to arrive afterwards.
    arrival
        Every file but the late one, in the order in which to deliver them.
    frames
        The truth of every rendered file by path (also of the bad ones).
    telescopes
        The synthetic telescopes by node.
    sky
        The true stars of the field.
    truth_json, stars_csv
        The same truth as files.
    """

    mission: str
    target_deg: tuple[float, float]
    band: str
    filter_names: dict[str, str]
    nodes: list[str]
    good: list[Path]
    trail: list[Path]
    corrupt: list[Path]
    duplicate: list[Path]
    misnamed: list[Path]
    off_target: list[Path]
    late: list[Path]
    arrival: list[Path]
    frames: dict[Path, FrameTruth]
    telescopes: dict[str, Telescope]
    sky: Sky
    truth_json: Path
    stars_csv: Path


def make_network(
    out: Path, seed: int = 550, *, mission: str = "550", frames_per_node: tuple[int, int, int] = (4, 3, 3)
) -> NetworkTruth:
    """Render a mission of three telescopes into a folder.

    Parameters
    ----------
    out
        Folder to write to; made if absent. Frames go to ``frames/``, the duplicate to ``resent/`` (it has the
        name of the frame it repeats), the late one to ``late/``, truth beside them.
    seed
        Seed of everything; the same seed gives the same pixels.
    mission
        Mission id of the file names.
    frames_per_node
        Number of good frames of each of the three telescopes.

    Notes
    -----
    Every frame carries at least 25 catalogue stars, so that a solver that knows its work solves it.
    """
    for folder in ("frames", "resent", "late"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    night = _Night(out, mission, seed)
    for telescope, count in zip(TELESCOPES, frames_per_node, strict=True):
        for pointing in dithers(*TARGET, count, 0.04, seed=int(night.rng.integers(2**31))):
            night.good.append(night.take(telescope, pointing))
    first, second, third = TELESCOPES
    trail = night.take(second, TARGET, trail=Trail(0.0, 180.0, 1199.0, 655.0, sigma_per_px=12.0))
    late = night.take(first, TARGET, folder="late")
    elsewhere = offset_position(*TARGET, OFF_TARGET_DEG, np.radians(60.0))
    away = (float(elsewhere[0]), float(elsewhere[1]))
    off_target = night.take(third, away, sky=_sky_around(away, seed + 1))
    corrupt = night.take(third, TARGET)
    _cut_short(corrupt.path)
    misnamed = night.take(third, TARGET, name="Light_Lac_20.0s_IRCUT_0014.fits.fz")
    duplicate = _sent_again(night.good[0], out / "resent")

    arrival = [e.path for e in (*night.good, trail, off_target, corrupt, misnamed)]
    night.rng.shuffle(arrival)
    arrival.append(duplicate.path)  # a repeat comes after what it repeats
    exposures = [*night.good, trail, late, off_target, corrupt, misnamed, duplicate]
    truth = NetworkTruth(
        mission=mission,
        target_deg=TARGET,
        band=BAND,
        filter_names={t.node: t.filter_name for t in TELESCOPES},
        nodes=[t.node for t in TELESCOPES],
        good=[e.path for e in night.good],
        trail=[trail.path],
        corrupt=[corrupt.path],
        duplicate=[duplicate.path],
        misnamed=[misnamed.path],
        off_target=[off_target.path],
        late=[late.path],
        arrival=arrival,
        frames={e.path: e.truth for e in exposures},
        telescopes={t.node: t for t in TELESCOPES},
        sky=night.sky,
        truth_json=out / "truth.json",
        stars_csv=out / "stars.csv",
    )
    truth.stars_csv.parent.mkdir(parents=True, exist_ok=True)
    night.sky.write_csv(truth.stars_csv)
    truth.truth_json.write_text(json.dumps(_as_json(truth, out), indent=1) + "\n", encoding="utf-8")
    return truth


class _Night:
    """Takes frame after frame: a clock for each node, a fresh seed and a changing sky for each frame."""

    def __init__(self, out: Path, mission: str, seed: int) -> None:
        self.out, self.mission = out, mission
        self.rng = np.random.default_rng(seed)
        self.sky = _sky_around(TARGET, seed)
        self.good: list[Exposure] = []
        self._clock = {t.node: NIGHT + timedelta(seconds=i * 37) for i, t in enumerate(TELESCOPES)}

    def take(
        self,
        telescope: Telescope,
        pointing: tuple[float, float],
        *,
        folder: str = "frames",
        name: str | None = None,
        sky: Sky | None = None,
        trail: Trail | None = None,
    ) -> Exposure:
        start = self._clock[telescope.node]
        self._clock[telescope.node] += timedelta(seconds=telescope.exposure_s + 15)
        conditions = replace(telescope, sky_adu=telescope.sky_adu * float(self.rng.uniform(0.85, 1.2)))
        frame = render(
            conditions,
            sky or self.sky,
            pointing,
            seed=int(self.rng.integers(2**31)),
            start=start,
            transparency=float(self.rng.uniform(0.85, 1.0)),
            trail=trail,
            object_name=TARGET_NAME,
        )
        return write_frame(self.out / folder / (name or frame_name(self.mission, telescope.node, start)), frame)


def _sky_around(centre: tuple[float, float], seed: int) -> Sky:
    reach = max(t.radius_deg for t in TELESCOPES) * 1.3 + 0.1
    return field_sky(*centre, reach, seed=seed, band=BAND, epoch=EPOCH, colour_term=V_COLOUR_TERM, colour_zero=0.0)


def _cut_short(path: Path) -> None:
    """Keep the first 60 % of a file, as a broken transfer does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])


def _sent_again(original: Exposure, folder: Path) -> Exposure:
    """Write the same pixels with another compression and one more card, under the same name."""
    with fits.open(original.path) as hdus:
        image, header = hdus[1].data, hdus[1].header.copy()
    for card in ("CHECKSUM", "DATASUM"):
        header.remove(card, ignore_missing=True)
    header["HISTORY"] = "sent again by the node's operator"
    path = folder / original.path.name
    write_compressed(path, image, header, compression="GZIP_2")
    return Exposure(path, original.truth)


def _as_json(truth: NetworkTruth, out: Path) -> dict[str, Any]:
    def names(paths: list[Path]) -> list[str]:
        return [path.relative_to(out).as_posix() for path in paths]

    kinds = ("good", "trail", "corrupt", "duplicate", "misnamed", "off_target", "late", "arrival")
    return {
        "mission": truth.mission,
        "target_deg": list(truth.target_deg),
        "band": truth.band,
        "filter_names": truth.filter_names,
        "nodes": truth.nodes,
        "stars": truth.stars_csv.name,
        **{kind: names(getattr(truth, kind)) for kind in kinds},
        "frames": {path.relative_to(out).as_posix(): t.as_dict() for path, t in truth.frames.items()},
    }
