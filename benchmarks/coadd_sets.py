"""Simulated nights with known truth for the co-add's benchmarks; seeded, so a frame follows from its name.

    python benchmarks/coadd_sets.py A12 MIX18 HARD12 DISC10 [--data DIR] [--scale 0.25] [--json]

`A{n}`
    n frames of telescope A, 6248x4176 at 0.80"/px: SIP, turned, gradients, cosmic rays, a trail in every fourth.
`MIX{n}`
    4/6 of A, 1/6 of B (4096x4096 at 1.10"/px, mirrored) and 1/6 of C (3000x2000 at 1.50"/px).
`HARD{n}`
    Five telescopes of 1.4 to 6 px FWHM with Moffat profiles (slope 2.5 to 4) that change over the field, galaxies,
    a nebula, saturated stars, hot pixels, borders without data; no flux scale or zero point in the header.
`DISC{n}`
    Frames of A without trails, and a disc of 10 arcmin at 1 % of the sky in the middle.

``--scale`` cuts the frames' sides (and their dithers), not the pixels: 0.25 makes a sixteenth of the work. Frames
are kept under ``--data`` and made only once, shared by all sets. For each there are ``.fits``, ``.fz`` (``fpack
-r``: RICE, a row a tile) and ``.head`` (TPV and FLXSCALE, for SWarp, which ignores SIP).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from coadd_render import (
    FWHM_PER_SIGMA,
    add_cosmic_rays,
    add_gaussians,
    add_moffats,
    add_trail,
    disc,
    moffat_alpha,
    nebula,
    sersic_points,
    sky_offsets,
)
from coadd_tpv import write_head
from peers import show

RA_DEG, DEC_DEG = 150.0, 20.0
DATA = Path(tempfile.gettempdir()) / "coadd-sets"
GAIN = 1.2
STAR_SPACING_PX = 70
HARD_GALAXY_EVERY, HARD_SATURATED_SHARE = 9, 0.015
DISC_RADIUS_ARCMIN = 5.0
DISC_BRIGHTNESS = 0.01 * 1550 / 0.64
"""Units (zero point 25) per arcsec²: 1 % of the mean sky of telescope A."""

NEBULA_BRIGHTNESS = 0.08 * 1550 / 0.64


@dataclass(frozen=True)
class Telescope:
    """What frames of one telescope have in common."""

    nx: int
    ny: int
    scale_arcsec: float
    fwhm_arcsec: float
    zero_point: float
    mirrored: bool = False
    turn_deg: float = 0.0
    turn_step_deg: float = 0.0


PLAIN = {
    "A": Telescope(6248, 4176, 0.80, 2.8, 25.0),
    "B": Telescope(4096, 4096, 1.10, 3.5, 24.2, mirrored=True, turn_deg=25, turn_step_deg=20),
    "C": Telescope(3000, 2000, 1.50, 4.0, 23.5, turn_deg=-70, turn_step_deg=40),
}
HARD = {
    "P": Telescope(3400, 2500, 0.75, 4.3, 25.3),  # 5.7 px
    "Q": Telescope(2600, 2000, 1.00, 3.2, 25.0, turn_deg=90),  # 3.2 px
    "R": Telescope(1400, 1100, 1.90, 2.8, 23.6, mirrored=True, turn_deg=20, turn_step_deg=31),  # 1.5 px
    "S": Telescope(2200, 1700, 1.20, 2.7, 24.6, turn_deg=180),  # 2.2 px
    "T": Telescope(2000, 2000, 1.25, 5.0, 24.3, mirrored=True, turn_deg=-40, turn_step_deg=17),  # 4.0 px
}


@dataclass(frozen=True)
class Family:
    """Telescopes under one sky, and the grid that its stacks are made on (pixels, arcsec)."""

    telescopes: dict[str, Telescope]
    target: tuple[int, int, float]


FAMILIES = {
    "plain": Family(PLAIN, (6400, 4400, 0.80)),
    "hard": Family(HARD, (2700, 2050, 1.00)),
    "disc": Family({"A": PLAIN["A"]}, (6400, 4400, 0.80)),
}


@dataclass(frozen=True)
class SkySet:
    """A set on disk: ``frames`` are their records (see `_make`), ``family`` names the sky."""

    name: str
    family: str
    folder: Path
    frames: tuple[dict[str, Any], ...]

    def paths(self, suffix: str = ".fz") -> list[Path]:
        return [self.folder / f"{frame['name']}{suffix}" for frame in self.frames]

    @property
    def target(self) -> Path:
        return self.folder / "target.hdr"

    @property
    def truth(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "truth.npz") as saved:
            return dict(saved)

    @property
    def megapixels(self) -> float:
        return sum(frame["nx"] * frame["ny"] for frame in self.frames) / 1e6


def tangent_header(
    nx: int, ny: int, scale_arcsec: float, turn_deg=0.0, ra=RA_DEG, dec=DEC_DEG, mirrored=False, sip=None
):
    """A TAN header, turned and mirrored, with the SIP terms in ``sip`` if there are any."""
    header = fits.Header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, nx, ny
    suffix = "-SIP" if sip else ""
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = (nx + 1) / 2, (ny + 1) / 2
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["RADESYS"], header["EQUINOX"] = "ICRS", 2000.0
    east, step = (1 if mirrored else -1), scale_arcsec / 3600
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    header["CD1_1"], header["CD1_2"] = east * step * c, -step * s
    header["CD2_1"], header["CD2_2"] = east * step * s, step * c
    if sip:
        header["A_ORDER"] = header["B_ORDER"] = 3
        header.update(sip)
    return header


def find_set(name: str, data: Path = DATA, scale: float = 1.0) -> SkySet:
    """Return a set by name; frames that are not there yet are made."""
    match = re.fullmatch(r"(A|MIX|HARD|DISC)(\d+)", name)
    if match is None:
        raise SystemExit(f"no set is called {name}: A12, MIX18, HARD15, DISC10 … are")
    kind, n = match[1], int(match[2])
    family = {"A": "plain", "MIX": "plain", "HARD": "hard", "DISC": "disc"}[kind]
    if kind == "HARD":
        wanted = [("PQRST"[k % 5], k // 5) for k in range(n)]
    elif kind == "MIX":
        shares = (("A", n - 2 * (n // 6)), ("B", n // 6), ("C", n // 6))
        wanted = [(telescope, k) for telescope, share in shares for k in range(share)]
    else:
        wanted = [("A", k) for k in range(n)]
    folder = data / f"{family}-{scale:g}"
    folder.mkdir(parents=True, exist_ok=True)
    stars = _stars(family, folder, scale)
    frames = [_frame(family, telescope, k, folder, scale, stars) for telescope, k in wanted]
    return SkySet(name, family, folder, tuple(frames))


def _frame(family: str, telescope: str, k: int, folder: Path, scale: float, stars) -> dict[str, Any]:
    record = folder / f"{telescope}{k:03d}.json"
    if not record.exists():
        record.write_text(json.dumps(_make(family, telescope, k, folder, scale, stars)))
    return json.loads(record.read_text())


def _stars(family: str, folder: Path, scale: float) -> dict[str, np.ndarray]:
    """True stars: one a cell of 70 px of the target's grid, so that none disturbs its neighbour's aperture."""
    path = folder / "truth.npz"
    if not path.exists():
        rng = np.random.default_rng(7)
        full_x, full_y, step = FAMILIES[family].target
        nx, ny, margin = round(full_x * scale), round(full_y * scale), round(800 * scale)
        grid = tangent_header(nx, ny, step)
        gx, gy = (
            g.ravel()
            for g in np.meshgrid(
                np.arange(-margin, nx + margin, STAR_SPACING_PX), np.arange(-margin, ny + margin, STAR_SPACING_PX)
            )
        )
        x, y = gx + rng.uniform(-18, 18, gx.size), gy + rng.uniform(-18, 18, gx.size)
        ra, dec = WCS(grid).all_pix2world(x, y, 0)
        flux = 10 ** rng.uniform(3.2, 5.6 if family != "hard" else 5.0, gx.size)
        kind = np.zeros(gx.size, np.int8)
        if family == "hard":
            kind[rng.random(gx.size) < HARD_SATURATED_SHARE] = 2
            kind[::HARD_GALAXY_EVERY] = 1
            flux[kind == 2] = 10 ** rng.uniform(6.0, 6.8, int((kind == 2).sum()))
        temporary = folder / f"truth-{os.getpid()}.npz"
        np.savez(temporary, ra=ra, dec=dec, flux=flux, kind=kind)
        grid.totextfile(folder / "target.hdr", overwrite=True)
        temporary.replace(path)
    with np.load(path) as saved:
        return dict(saved)


def _sip(rng: np.random.Generator, nx: int, ny: int) -> dict[str, float]:
    reach = 3124 / max(nx, ny) * 2
    names = ("A_2_0", "A_1_1", "A_0_2", "B_2_0", "B_1_1", "B_0_2")
    terms = {name: rng.uniform(-3, 3) * 1e-7 * reach for name in names}
    cubic = rng.uniform(1.0, 2.0) * 1e-10 * reach**2
    cubes = {"A_3_0": 1, "A_1_2": 1, "B_2_1": 1, "B_0_3": 1, "A_2_1": 0.1, "B_1_2": -0.1}
    return terms | {name: share * cubic for name, share in cubes.items()}


def _make(family: str, name: str, k: int, folder: Path, scale: float, stars) -> dict[str, Any]:
    """Render one frame and return its truth. The draws of A, B and C are the prototype's, in its order."""
    telescope = FAMILIES[family].telescopes[name]
    rng = np.random.default_rng(1000 * ord(name) + k)
    nx, ny = round(telescope.nx * scale), round(telescope.ny * scale)
    turn = rng.uniform(-4, 4) + telescope.turn_deg + telescope.turn_step_deg * k
    if name == "A":
        turn += 0 if k % 4 else 180
    sip = _sip(rng, nx, ny)
    ra, dec = RA_DEG + rng.uniform(-0.05, 0.05) * scale, DEC_DEG + rng.uniform(-0.04, 0.04) * scale
    header = tangent_header(nx, ny, telescope.scale_arcsec, turn, ra, dec, telescope.mirrored, sip)
    fwhm_px = telescope.fwhm_arcsec * rng.uniform(0.9, 1.15) / telescope.scale_arcsec
    zero_point = telescope.zero_point + rng.uniform(-0.3, 0.3)
    sky, slopes = rng.uniform(600, 2500), rng.uniform(-150, 150, 3)
    record = {
        "name": f"{name}{k:03d}", "telescope": name, "nx": nx, "ny": ny, "scale_arcsec": telescope.scale_arcsec,
        "zero_point": zero_point, "flux_scale": 10 ** (-0.4 * (zero_point - 25)), "fwhm_px": fwhm_px, "gain": GAIN,
        "sky": sky, "slopes": [float(s) for s in slopes], "beta": None, "turn_deg": turn, "trail": False,
    }  # fmt: skip
    wcs = WCS(header, fix=False)
    image = np.zeros((ny, nx), np.float32)
    x, y = wcs.all_world2pix(stars["ra"], stars["dec"], 0, tolerance=1e-8, maxiter=60, quiet=True)
    flux = stars["flux"] / record["flux_scale"]
    if family == "hard":
        # A generator of its own: what the hard set needs more must not shift the draws of the others.
        record["beta"] = float(np.random.default_rng([ord(name), k]).uniform(2.5, 4.0))
        _hard_sky(image, wcs, x, y, flux, stars["kind"], record)
    else:
        add_gaussians(image, x, y, flux, fwhm_px / FWHM_PER_SIGMA)
    if family == "disc":
        light = disc(DISC_RADIUS_ARCMIN * min(1.0, 2 * scale), DISC_BRIGHTNESS)
        image += _diffuse(light, wcs, image.shape, record)
    u = np.linspace(-1, 1, nx, dtype=np.float32)[None]
    v = np.linspace(-1, 1, ny, dtype=np.float32)[:, None]
    image += (
        np.float32(sky) + np.float32(slopes[0]) * u + np.float32(slopes[1]) * v + np.float32(slopes[2] / 2) * u * v
    )
    record["read_noise"] = rng.uniform(3, 8)
    noise = np.sqrt(image / GAIN + record["read_noise"] ** 2, dtype=np.float32)
    image += rng.standard_normal(image.shape, dtype=np.float32) * noise
    add_cosmic_rays(image, rng, 400 * nx * ny // 26_000_000 + 40)
    if family == "plain" and k % 4 == 1:
        record["trail"] = True
        add_trail(image, rng)
    if family == "hard":
        # The detector's own: the same pixels in each of a telescope's frames.
        detector = np.random.default_rng(ord(name))
        hot = detector.random(image.shape, dtype=np.float32) < 2e-4
        image[hot] += 10 ** detector.uniform(2.3, 4.3, int(hot.sum()))
    np.clip(np.rint(image, out=image), 0, 65535, out=image)
    header["EXPTIME"], header["FILTER"], header["TELESCOP"] = 60.0, "r", f"telescope {name}"
    header["DATE-OBS"] = f"2026-03-{1 + k // 1000:02d}T{k // 60 % 24:02d}:{k % 60:02d}:{ord(name) - 65:02d}"
    header["GAIN"], header["RDNOISE"], header["SATURATE"] = GAIN, record["read_noise"], 65000.0
    if family != "hard":
        header["MAGZPT"] = zero_point
    _write(folder, record, image, header, border=family == "hard" and k % 2 == 1)
    return record


def _diffuse(light, wcs: WCS, shape: tuple[int, int], record: dict[str, Any]) -> np.ndarray:
    per_pixel = record["scale_arcsec"] ** 2 / record["flux_scale"]
    return np.float32(per_pixel) * light(*sky_offsets(wcs, shape, (RA_DEG, DEC_DEG))).astype(np.float32)


def local_fwhm(record: dict[str, Any], x, y):
    """FWHM (px) of a hard frame at its pixels, and the ellipticity that grows with it towards the corners."""
    u, v = 2 * x / record["nx"] - 1, 2 * y / record["ny"] - 1
    r2, angle = np.minimum((u * u + v * v) / 2, 1.5), np.arctan2(v, u)
    ellipticity = 0.15 * r2
    return record["fwhm_px"] * (1 + 0.2 * r2), -ellipticity * np.cos(2 * angle), -ellipticity * np.sin(2 * angle)


def _hard_sky(image, wcs: WCS, x, y, flux, kind, record: dict[str, Any]) -> None:
    px, py, share = x[kind != 1], y[kind != 1], flux[kind != 1]
    points = [(px, py, share)]
    rng = np.random.default_rng(11)
    cd = wcs.pixel_scale_matrix * 3600
    for gx, gy, light in zip(x[kind == 1], y[kind == 1], flux[kind == 1], strict=True):
        index, half_light, ratio = rng.choice([1.0, 4.0]), rng.uniform(1.5, 5), rng.uniform(0.3, 1)
        # The same points in every frame: drawn on the sky (arcsec), put through the frame's matrix.
        dx, dy = np.linalg.solve(cd, np.array(sersic_points(rng, 150, index, half_light, ratio)))
        points.append((gx + dx, gy + dy, np.full(150, 3 * light / 150)))
    px, py, share = (np.concatenate(column) for column in zip(*points, strict=True))
    near = (px > -250) & (py > -250) & (px < record["nx"] + 250) & (py < record["ny"] + 250)
    px, py, share = px[near], py[near], share[near]
    fwhm, e1, e2 = local_fwhm(record, px, py)
    beta = np.full(px.size, record["beta"])
    add_moffats(image, px, py, share, moffat_alpha(fwhm, beta), beta, e1, e2)
    image += _diffuse(nebula(NEBULA_BRIGHTNESS), wcs, image.shape, record)


def _write(folder: Path, record: dict[str, Any], image, header: fits.Header, *, border: bool) -> None:
    path = folder / f"{record['name']}.fits"
    options = ["-r"]
    if border:
        # As calibrated frames are: floats, and no data where the overscan was or the registration ran out.
        image[:24], image[-9:], image[:, :17], image[:, -31:] = np.nan, np.nan, np.nan, np.nan
        options = ["-g2", "-q", "0"]
    fits.PrimaryHDU(image if border else image.astype(np.uint16), header).writeto(path, overwrite=True)
    packed = folder / f"{record['name']}-{os.getpid()}.tmp"
    with packed.open("wb") as stream:
        subprocess.run(["fpack", *options, "-S", path], stdout=stream, check=True)
    packed.replace(path.with_suffix(".fz"))
    write_head(path.with_suffix(".head"), header, {"FLXSCALE": record["flux_scale"]})


def arguments(description: str | None, *, sets: Sequence[str], scale: float = 1.0) -> argparse.ArgumentParser:
    """The options that every co-add benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(sets), help="names of sets")
    parser.add_argument("--data", type=Path, default=DATA, help="where sets are kept")
    parser.add_argument("--scale", type=float, default=scale, help="side of the frames over the full one")
    parser.add_argument("--json", action="store_true", help="JSON instead of a Markdown table")
    return parser


def main() -> None:
    options = arguments(__doc__, sets=["A12", "MIX18"]).parse_args()
    rows = []
    for name in options.sets:
        found = find_set(name, options.data, options.scale)
        packed = sum(path.stat().st_size for path in found.paths())
        fwhm = [frame["fwhm_px"] for frame in found.frames]
        rows.append({
            "set": name, "frames": len(found.frames), "Mpix": round(found.megapixels, 1),
            ".fz MB": round(packed / 1e6, 1), "FWHM px": f"{min(fwhm):.1f}-{max(fwhm):.1f}",
            "folder": str(found.folder),
        })  # fmt: skip
    show("Simulated sets", rows)


if __name__ == "__main__":
    main()
