"""Real sets stacked by ours and by SWarp: depth, fluxes against the frames', registration, seams, trails.

    python benchmarks/coadd_real.py [SET ...] [--data DIR] [--work DIR] [--no-swarp]

Sets: tres1, hatp32, decam, bok352, bok217, bok177, m17, sn2010h, unwise. Both programs get the same frames, grid
and flux scales, so that what differs is resampling, sky, weights and rejection. Columns:

- gain: how much deeper than the median frame, mag, in empty apertures of a FWHM on the same places
  (`starloom.coadd.depth.stack_depth`); ideal: what the weights promise for frames of white noise
- flux: median over bright stars of flux in the stack over the weighted mean of the frames' fluxes, less one, %;
  scatter: of that ratio, %
- rms: of the common stars about their joint places, px, median over frames
- seam: for mosaics, the median step across the frames' edges over the noise of a pixel; beside it that across
  lines 60 px further inside, where no edge is: the nebula's own
- strips: for mosaics, by how much frames differ from each other where they overlap, skies matched, rms of cells
  over the noise of a pixel

Previews (PNG) of all products lie in ``--work``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sep
from astropy.io import fits
from coadd_engines import ROOT, swarp
from peers import show
from scipy import ndimage

from starloom.coadd import StackOptions, StackPlan, stack_depth, stack_files, write_preview
from starloom.coadd.celestial import sky_pixels, sky_vectors
from starloom.coadd.depth import DepthFrame
from starloom.coadd.inputs import frame_wcs_cards, open_frame, wcs_from_cards
from starloom.coadd.match import sky_basis
from starloom.coadd.pixels import open_source
from starloom.coadd.seams import measure_seams, outline, strips_between
from starloom.coadd.stack import plan_files, product_path
from starloom.errors import BadInput

DATA = ROOT.parent / "shared" / "data"
FOLDERS = {
    "tres1": "tres1_umo", "hatp32": "hatp32_microobs", "decam": "decam_unwise_ra187",
    "bok352": "bok_mosaic3_ra352",
    "bok217": "bok_mosaic3_ra217", "bok177": "bok_mosaic3_ra177", "m17": "m17_2mass", "sn2010h": "sn2010h_surveys",
    "unwise": "decam_unwise_ra187",
}  # fmt: skip
HINTS = {
    "tres1": ("--ra", "286.0408", "--dec", "36.6326"),
    "hatp32": ("--ra", "31.04", "--dec", "46.69", "--scale", "5.165"),
}
#: Grids that unlike images share, arcsec: the finest telescope's own would make gigabytes of the coarsest.
COMMON_SCALE = {"sn2010h": 1.0, "unwise": 1.375}


def frames_of(name: str, data: Path, work: Path) -> list[Path]:
    """Return the frames of a set, solved or with their masks and variances put beside the image where need be."""
    folder = data / FOLDERS[name]
    if name in HINTS:
        return _solved(sorted(folder.glob("*[0-9].fits.fz")) or sorted(folder.glob("*.FITS.gz")), name, work)
    if name in ("decam", "bok177", "bok217"):
        return [_assembled(path, work) for path in sorted(folder.glob("*_ooi_*.fits"))]
    if name == "bok352":
        frames = sorted(p for p in folder.glob("deep2*.fits") if not p.name.endswith(".wht.fits"))
        return [_assembled(path, work) for path in frames + sorted(folder.glob("*_oki_*.fits"))]
    # GALEX's FUV, of 0 and 1 photon a pixel, has no sky noise to weigh by: it is left out as `bad-noise`.
    pattern = {"m17": "*.fits.gz", "sn2010h": "*.fits.gz", "unwise": "unwise*img-m.fits"}[name]
    return sorted(folder.glob(pattern))


def _solved(paths: Sequence[Path], name: str, work: Path) -> list[Path]:
    out = work / "solved" / name
    found = [out / path.name for path in paths]
    if not all(path.exists() for path in found):
        command = [sys.executable, "-m", "starloom", "solve", *paths, "--out", out, *HINTS[name]]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return found


def _assembled(path: Path, work: Path) -> Path:
    """Write image, ``MASK`` and ``VAR`` of a survey's three files into one."""
    mask = Path(str(path).replace("_ooi_", "_ood_").replace("_oki_", "_ood_"))
    weight = Path(str(path).replace("_ooi_", "_oow_").replace("_oki_", "_oow_"))
    if weight == path:
        weight = path.with_suffix(".wht.fits")
    with fits.open(path) as hdus:
        header = hdus[0].header.copy()
        header.update(hdus[1].header)
        image = hdus[1].data.astype(np.float32)
    for key in ("XTENSION", "PCOUNT", "GCOUNT", "EXTNAME", "BZERO", "BSCALE", "CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    # The deep2 frames carry no zero point, but are of one camera, filter and exposure: any one number will do.
    if path.name.startswith("deep2"):
        header["MAGZPT"] = 25.0
    planes = [fits.PrimaryHDU(image, header)]
    if mask != path and mask.exists():
        planes.append(fits.ImageHDU((fits.getdata(mask, 1) != 0).astype(np.uint8), name="MASK"))
    variance = fits.getdata(weight, 1).astype(np.float64)
    with np.errstate(divide="ignore"):
        planes.append(fits.ImageHDU(np.where(variance > 0, 1 / variance, np.nan).astype(np.float32), name="VAR"))
    out = work / "assembled" / path.name
    out.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(planes).writeto(out, overwrite=True)
    return out


@dataclass(frozen=True)
class Stacked:
    """A product with the frames that are in it; ``bare`` is the same with nothing but an image, by SWarp."""

    plan: StackPlan
    product: Path
    bare: Path | None


def stacked(name: str, paths: Sequence[Path], work: Path, *, with_swarp: bool) -> Iterator[Stacked]:
    """Stack a set and yield each of its products."""
    out = work / f"{name}.fits"
    options = StackOptions(scale_arcsec=COMMON_SCALE.get(name), threads=2)
    plans = plan_files(paths, options)
    report = stack_files(paths, out, options)
    for plan, info in zip(plans, report.products, strict=True):
        assert plan.digest() == info.digest
        assert info.path == product_path(out, plan, plans)
        write_preview(info.path, info.path.with_suffix(".png"))
        yield Stacked(plan, info.path, _by_swarp(plan, info.path) if with_swarp else None)


def _by_swarp(plan: StackPlan, product: Path) -> Path:
    """Stack a plan's frames with SWarp onto its grid; ``SCI`` of the result is NaN where nothing is."""
    folder = product.with_suffix(".swarp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    frames = []
    for n, frame in enumerate(plan.used):
        with open_frame(frame.input.path) as opened:
            ny, nx = opened.shape
            image = opened.section(0, ny, 0, nx)
        bad = open_source(frame.input.path).mask(0, ny, 0, nx)
        header = fits.Header(frame.wcs_cards)
        header["FLXSCALE"] = frame.scale
        if frame.input.saturation_adu is not None:
            header["SATURATE"] = frame.input.saturation_adu
        good = np.isfinite(image) if bad is None else np.isfinite(image) & (bad == 0)
        path = folder / f"{n:03d}.fits"
        fits.PrimaryHDU(np.where(good, image, 0).astype(np.float32), header).writeto(path)
        fits.PrimaryHDU(good.astype(np.float32)).writeto(path.with_suffix(".weight.fits"))
        frames.append(path)
    target = folder / "grid.hdr"
    fits.Header(plan.grid).totextfile(target)
    out = folder / "out.fits"
    swarp(frames, out, target, back_size=64, weight_type="MAP_WEIGHT")
    with fits.open(out) as hdus, fits.open(out.with_suffix(".weight.fits")) as weight:
        image = np.where(weight[0].data > 0, hdus[0].data, np.nan).astype(np.float32)
    bare = product.with_name(f"{product.stem}.swarp.fits")
    header = fits.Header(_bare(plan.grid))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI")]).writeto(bare, overwrite=True)
    write_preview(bare, bare.with_suffix(".png"))
    shutil.rmtree(folder)
    return bare


def _bare(grid: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in grid.items() if not key.startswith("NAXIS")}


def wcs_cards(header: fits.Header) -> dict[str, object]:
    """Return the WCS of a header as the cards a plan has."""
    return frame_wcs_cards(Path("header"), header)


def gain(plan: StackPlan, product: Path) -> float | None:
    """Return how much deeper (mag) a stack is than its median frame; None where there is too little empty sky."""
    used = plan.used
    radius = float(np.median([frame.input.fwhm_arcsec for frame in used]))
    frames = [DepthFrame(frame.input.path, frame.wcs_cards, frame.scale) for frame in used]
    try:
        return stack_depth(product, frames, radius).gain_mag
    except BadInput as error:
        if error.code != "no-empty-sky":
            raise
        return None


def ideal_gain(plan: StackPlan) -> float:
    """Return the depth (mag) that optimal weights gain over the median frame."""
    weights = np.array([frame.weight for frame in plan.used])
    return float(1.25 * np.log10(weights.sum() / np.median(weights)))


def flux_ratios(plan: StackPlan, product: Path, image: Path) -> np.ndarray:
    """Return flux in ``image`` over the weighted mean of the frames', for bright, lonely, unsaturated stars.

    Places are of ``product``. Apertures of 2 FWHM of the widest frame: what unlike seeing leaves outside is small.
    """
    with fits.open(product) as hdus:
        found, flags = hdus["SCI"].data.astype(np.float32), hdus["FLAGS"].data
    data = fits.getdata(image, "SCI").astype(np.float32)
    grid = wcs_from_cards(_bare(plan.grid))
    radius = 2 * max(frame.fwhm_px for frame in plan.used)
    absent = ~np.isfinite(found)
    clean = np.ascontiguousarray(np.where(absent, np.nanmedian(found), found))
    sky = sep.Background(clean, mask=absent, bw=64, bh=64)
    objects = sep.extract(clean - sky.back(), 5.0, err=sky.globalrms, mask=absent, minarea=5)
    apart = np.hypot(objects["x"][:, None] - objects["x"], objects["y"][:, None] - objects["y"])
    np.fill_diagonal(apart, np.inf)
    lonely = (apart > 1.6 * radius).all(axis=1) & (objects["flux"] > 50 * sky.globalrms * radius)
    touched, _, out = sep.sum_circle((absent | (flags > 0)).astype(np.float32), objects["x"], objects["y"], radius)
    places = np.stack([objects["x"], objects["y"]])[:, lonely & (touched == 0) & (out == 0)]
    if not places.shape[1]:
        return np.zeros(0)
    vectors = sky_vectors(grid, *places)
    fluxes = np.full((len(plan.used), places.shape[1]), np.nan)
    known = np.zeros(places.shape[1], bool)
    for n, frame in enumerate(plan.used):
        with open_frame(frame.input.path) as opened:
            ny, nx = opened.shape
            pixels = opened.section(0, ny, 0, nx)
        x, y = sky_pixels(wcs_from_cards(frame.wcs_cards), vectors)
        r = radius * np.sqrt(frame.area)
        inside = (x > 2.2 * r) & (y > 2.2 * r) & (x < nx - 2.2 * r) & (y < ny - 2.2 * r)
        fluxes[n, inside] = frame.scale * _photometry(pixels, x[inside], y[inside], r)
        # A star that a frame's edge cuts is partly in the stack: compared with nothing.
        known |= ~inside & (x > -2 * r) & (y > -2 * r) & (x < nx + 2 * r) & (y < ny + 2 * r)
    keep = np.isfinite(fluxes).any(axis=0) & ~known
    ratio = _photometry(data, *places[:, keep], radius) / _expected(fluxes[:, keep], plan)
    return ratio[np.isfinite(ratio)]


def _expected(fluxes: np.ndarray, plan: StackPlan) -> np.ndarray:
    """Return the weighted mean of each star's fluxes, shape ``(frames, stars)``, NaN where a frame has none.

    Without those further than four deviations from the median, where five frames or more tell: a hot pixel or a
    cosmic ray in a frame's aperture is not what a stack should show.
    """
    middle = np.nanmedian(fluxes, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(fluxes - middle), axis=0)
    enough = np.isfinite(fluxes).sum(axis=0) >= 5
    good = np.isfinite(fluxes) & ~(enough & (np.abs(fluxes - middle) > 4 * spread))
    weight = np.where(good, np.array([frame.weight for frame in plan.used])[:, None], 0.0)
    return np.asarray((weight * np.nan_to_num(fluxes)).sum(axis=0) / weight.sum(axis=0))


def _photometry(data: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    lost = ~np.isfinite(data)
    data = np.ascontiguousarray(np.where(lost, 0, data))
    flux, _, _ = sep.sum_circle(data, x, y, radius, mask=lost, subpix=7, bkgann=(1.2 * radius, 2.0 * radius))
    return np.asarray(flux)


def seams(plan: StackPlan, image: Path, *, inward_px: float) -> float:
    """Return the typical step across a line ``inward_px`` inside of a frame's edge, over the noise of a pixel.

    What changes on both sides of the line alike is the sky's own slope, and is taken off.
    """
    data = fits.getdata(image, "SCI").astype(np.float64)
    grid = wcs_from_cards(_bare(plan.grid))
    rough = data - ndimage.median_filter(np.nan_to_num(data, nan=np.nanmedian(data)), 5)
    sigma = 1.4826 * float(np.nanmedian(np.abs(rough)))
    steps = []
    for frame in plan.used:
        wcs, (ny, nx) = wcs_from_cards(frame.wcs_cards), frame.shape
        along_x, along_y = np.arange(80.0, nx - 80), np.arange(80.0, ny - 80)
        for at, inner, along, swap in (
            (inward_px, 1, along_y, False), (nx - 1 - inward_px, -1, along_y, False),
            (inward_px, 1, along_x, True), (ny - 1 - inward_px, -1, along_x, True),
        ):  # fmt: skip
            a, b, c, d = (_band(data, grid, wcs, at, along, inner * off, swap) for off in (-18, -8, 8, 18))
            step = (c - b) - 0.8 * ((b - a) + (d - c))
            known = np.isfinite(step)
            if known.sum() > 100:
                steps.append(abs(float(np.median(step[known]))) / sigma)
    return float(np.median(steps))


def strips(plan: StackPlan) -> float:
    """Return what the frames still differ by in the strips they share, rms over the noise of a frame's pixel."""
    grid = wcs_from_cards(_bare(plan.grid))
    wcs = [wcs_from_cards(frame.wcs_cards) for frame in plan.used]
    outlines = [outline(w, frame.shape, grid) for w, frame in zip(wcs, plan.used, strict=True)]
    ny, nx = plan.shape
    left = []
    for seam in measure_seams(plan.used, wcs, grid, outlines, strips_between(outlines)):
        basis = sky_basis(2 * seam.x / (nx - 1) - 1, 2 * seam.y / (ny - 1) - 1)
        terms = np.subtract(plan.used[seam.first].sky, plan.used[seam.second].sky)
        left.append(seam.difference - terms @ basis)
    return float(np.sqrt(np.mean(np.concatenate(left) ** 2)) / np.median([frame.sigma for frame in plan.used]))


def _band(data, grid, wcs, at: float, along: np.ndarray, off: int, swap: bool) -> np.ndarray:
    """Return the median of 9 px around a line ``off`` px beside a line of a frame, for each place along it."""
    values = []
    for across in range(off - 4, off + 5):
        line = np.full_like(along, at + across)
        x, y = sky_pixels(grid, sky_vectors(wcs, *((along, line) if swap else (line, along))))
        ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
        inside = (ix >= 0) & (iy >= 0) & (ix < data.shape[1]) & (iy < data.shape[0])
        value = np.full(len(along), np.nan)
        value[inside] = data[iy[inside], ix[inside]]
        values.append(value)
    return np.median(values, axis=0)


def trails(plan: StackPlan, table: Path) -> list[dict[str, object]]:
    """Return, for each trail of a table of truth, how far from it the masks of its frame lie; and all others."""
    grid = wcs_from_cards(_bare(plan.grid))
    rows: list[dict[str, object]] = []
    known: dict[str, np.ndarray] = {}
    with table.open() as lines:
        for row in csv.DictReader(lines):
            known[row["file"]] = np.array([float(row[f"border_{k}"]) for k in ("x0", "y0", "x1", "y1")])
    for frame in plan.used:
        truth = known.get(frame.input.path.name)
        wcs = wcs_from_cards(frame.wcs_cards)
        for streak in frame.streaks:
            t = np.linspace(0, 1, 200)
            x = streak.x0 + t * (streak.x1 - streak.x0)
            y = streak.y0 + t * (streak.y1 - streak.y0)
            fx, fy = sky_pixels(wcs, sky_vectors(grid, x, y))
            off = None if truth is None else round(float(np.max(_distance(truth, fx, fy))), 1)
            width = 2 * streak.half_width * np.sqrt(frame.area)
            ends = f"({fx[0]:.0f}, {fy[0]:.0f}) – ({fx[-1]:.0f}, {fy[-1]:.0f})"
            rows.append({"frame": frame.input.id, "mask": ends, "width px": round(width, 1), "off px": off})
    found = {row["frame"] for row in rows if row["off px"] is not None and row["off px"] < 5}
    rows += [
        {"frame": name, "mask": "none", "width px": None, "off px": None} for name in known if name not in found
    ]
    return rows


def _distance(line: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = line[2] - line[0], line[3] - line[1]
    return np.abs((x - line[0]) * dy - (y - line[1]) * dx) / np.hypot(dx, dy)


def row_of(name: str, who: str, item: Stacked, image: Path) -> dict[str, object]:
    """Return the table's row of one stack."""
    plan = item.plan
    depth = gain(plan, image) if len(plan.used) > 1 else None
    ratios = flux_ratios(plan, item.product, image)
    tell = len(ratios) >= 5
    rms = [f.registration_rms_px for f in plan.used if f.registration_rms_px is not None]
    edges = "–"
    if name == "m17":
        edges = f"{seams(plan, image, inward_px=0):.2f} ({seams(plan, image, inward_px=60):.2f})"
        if who == "ours":
            edges += f", strips {strips(plan):.2f}"
    return {
        "set": name, "band": plan.band, "": who, "frames": f"{len(plan.used)}/{len(plan.frames)}",
        "gain mag": "–" if depth is None else f"{depth:.2f}",
        "ideal": f"{ideal_gain(plan):.2f}" if len(plan.used) > 1 else "–",
        "stars": len(ratios),
        "flux %": f"{100 * (np.median(ratios) - 1):+.2f}" if tell else "–",
        "scatter %": f"{148.26 * np.median(np.abs(ratios - np.median(ratios))):.2f}" if tell else "–",
        "rms px": f"{np.median(rms):.3f}" if rms and who == "ours" else "–",
        "empty %": f"{100 * np.isnan(fits.getdata(image, 'SCI')).mean():.1f}",
        "seam": edges,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(FOLDERS), choices=list(FOLDERS), metavar="SET")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "coadd-real")
    parser.add_argument("--no-swarp", action="store_true")
    chosen = parser.parse_args()
    if not chosen.data.is_dir():
        raise SystemExit(f"the real sets are not here: {chosen.data} is not a folder (--data DIR)")
    chosen.work.mkdir(parents=True, exist_ok=True)
    # Surveys' headers: deprecated RADECSYS, PV cards beside SIP, and so on.
    warnings.simplefilter("ignore", fits.verify.VerifyWarning)
    rows: list[dict[str, object]] = []
    lines: list[dict[str, object]] = []
    for name in chosen.sets:
        paths = frames_of(name, chosen.data, chosen.work)
        for item in stacked(name, paths, chosen.work, with_swarp=not chosen.no_swarp):
            rows.append(row_of(name, "ours", item, item.product))
            if item.bare is not None:
                rows.append(row_of(name, "SWarp", item, item.bare))
            if name == "tres1":
                lines += trails(item.plan, chosen.data / FOLDERS[name] / "TRUTH_trails.csv")
    show("Real sets", rows)
    if lines:
        show("Trails of TrES-1 (frame pixels)", lines)


if __name__ == "__main__":
    main()
