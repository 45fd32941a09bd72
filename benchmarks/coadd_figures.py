"""The figures of docs/coadd.md, from simulations with known truth, and of TrES-1 where the real sets are.

    python benchmarks/coadd_figures.py [NAME ...] [--out docs/img] [--data DIR] [--work DIR]

Names: trail, cores, noise, proper, tres1. Drawn with Pillow alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import coadd_proper
import coadd_real
import numpy as np
from astropy.io import fits
from coadd_render import FWHM_PER_SIGMA, add_gaussians
from PIL import Image, ImageDraw, ImageFont

from starloom.coadd import StackOptions, stack_files
from starloom.coadd.celestial import sky_pixels, sky_vectors
from starloom.coadd.combine import FrameNoise, combine_tile
from starloom.coadd.inputs import open_frame, wcs_from_cards
from starloom.coadd.plan import Tile
from starloom.coadd.preview import asinh_stretch

COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189))
FONT = ImageFont.load_default(size=13)
PLOT = (620, 340)


def panels(images: Sequence[np.ndarray], titles: Sequence[str], *, zoom: int = 1) -> Image.Image:
    """Return images (0 to 1, first row below) side by side, each with a line of text above."""
    grey = [Image.fromarray((np.clip(a[::-1], 0, 1) * 255).astype(np.uint8)) for a in images]
    grey = [g.resize((g.width * zoom, g.height * zoom), Image.Resampling.NEAREST) for g in grey]
    gap, head = 6, 22
    sheet = Image.new("L", (sum(g.width + gap for g in grey) - gap, head + max(g.height for g in grey)), 255)
    draw, x = ImageDraw.Draw(sheet), 0
    for picture, title in zip(grey, titles, strict=True):
        draw.text((x + 2, 3), title, fill=0, font=FONT)
        sheet.paste(picture, (x, head))
        x += picture.width + gap
    return sheet


def linear(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.nan_to_num(image, nan=low) - low) / (high - low)


def plot(
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float],
    y_ticks: Sequence[float],
    x_ticks: Sequence[float],
    even: float,
) -> Image.Image:
    """Return curves over a logarithmic x; ``even`` is the level at which a dashed line stands for the ideal."""
    sheet = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(sheet)
    left, right, top, bottom = 62, PLOT[0] - 26, 26, PLOT[1] - 44
    x0, x1 = np.log(min(x_ticks)), np.log(max(x_ticks))

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (np.log(x) - x0) / (x1 - x0), (y - y_range[0]) / (y_range[1] - y_range[0])
        return float(left + across * (right - left)), float(bottom - np.clip(up, 0, 1) * (bottom - top))

    for y in y_ticks:
        draw.line([(left, at(1, y)[1]), (right, at(1, y)[1])], fill=(225, 225, 225))
        draw.text((left - 6, at(1, y)[1]), f"{y:g}", fill="black", font=FONT, anchor="rm")
    for x in x_ticks:
        draw.line([(at(x, y_range[0])[0], bottom), (at(x, y_range[0])[0], bottom + 4)], fill="black")
        draw.text((at(x, y_range[0])[0], bottom + 6), f"{x:g}", fill="black", font=FONT, anchor="ma")
    for start in range(left, right, 12):
        draw.line([(start, at(1, even)[1]), (start + 6, at(1, even)[1])], fill=(90, 90, 90))
    draw.rectangle([left, top, right, bottom], outline="black")
    draw.text(((left + right) / 2, PLOT[1] - 4), x_label, fill="black", font=FONT, anchor="ms")
    draw.text((4, 4), y_label, fill="black", font=FONT)
    for n, (name, (x, y)) in enumerate(curves.items()):
        points = [at(a, b) for a, b in zip(x, y, strict=True)]
        draw.line(points, fill=COLOURS[n], width=2)
        for px, py in points:
            draw.ellipse([px - 3, py - 3, px + 3, py + 3], fill=COLOURS[n])
        draw.text((right - 10, bottom - 20 * (len(curves) - n)), name, fill=COLOURS[n], font=FONT, anchor="rt")
    return sheet


def written(path: Path, image: np.ndarray, n: int, *, turn_deg: float, shift_px: tuple[float, float]) -> Path:
    """Write an image as a frame with a WCS, turned and shifted, and a zero point."""
    ny, nx = image.shape
    c, s = np.cos(np.radians(turn_deg)) / 3600, np.sin(np.radians(turn_deg)) / 3600
    header = fits.Header()
    header.update(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "RADESYS": "ICRS",
            "CRPIX1": (nx + 1) / 2 + shift_px[0], "CRPIX2": (ny + 1) / 2 + shift_px[1],
            "CD1_1": -c, "CD1_2": -s, "CD2_1": -s, "CD2_2": c, "BAND": "V", "TELID": "T", "EXPTIME": 60.0,
            "DATE-OBS": f"2026-01-01T00:{n:02d}:00", "MAGZPT": 25.0, "MAGZERR": 0.01,
        }
    )  # fmt: skip
    fits.PrimaryHDU(image.astype(np.float32), header).writeto(path, overwrite=True)
    return path


def trail(work: Path) -> Image.Image:
    """A trail of 1.5 sigma a pixel in one of five frames."""
    rng, side, sigma, fwhm = np.random.default_rng(4), 480, 10.0, 3.0
    x, y = rng.uniform(5, side - 5, (2, 160))
    flux = 10 ** rng.uniform(2.6, 4.6, 160)
    paths = []
    yy, xx = np.indices((side, side))
    away = ((xx - side / 2) * 0.42 - (yy - side / 2) * 0.91) / (fwhm / FWHM_PER_SIGMA)
    for n in range(5):
        shift = rng.uniform(-3, 3, 2)
        image = rng.normal(500, sigma, (side, side))
        add_gaussians(image, x + shift[0], y + shift[1], flux, fwhm / FWHM_PER_SIGMA)
        if n == 2:
            image += 1.5 * sigma * np.exp(-0.5 * away**2)
        paths.append(written(work / f"trail{n}.fits", image, n, turn_deg=0.0, shift_px=(shift[0], shift[1])))
    shown = []
    for combine, streaks in (("mean", False), ("clipped", False), ("clipped", True)):
        out = work / "trail.fits"
        stack_files(paths, out, StackOptions(combine=combine, streaks=streaks, scale_arcsec=1.0))
        sci = fits.getdata(out, "SCI")
        y0, x0 = (n // 2 - 220 for n in sci.shape)
        # Seen at half the size, where the eye adds up what lies along a line.
        cut = sci[y0 : y0 + 440, x0 : x0 + 440].reshape(220, 2, 220, 2).mean(axis=(1, 3))
        sky, noise = np.median(cut), 1.4826 * np.median(np.abs(cut - np.median(cut)))
        shown.append(linear(cut, sky - 2 * noise, sky + 6 * noise))
    return panels(shown, ["mean", "clip", "clip, trails found"])


class _WithoutTerm(FrameNoise):
    """A frame whose seeing the clip takes for that of all others."""

    alike = 0.0  # type: ignore[assignment]


def cores(_: Path) -> Image.Image:
    """Flux of stars in clipped stacks of frames of 2 to 6 px FWHM over that in their mean, by peak."""
    rng, side = np.random.default_rng(5), 480
    fwhms = (2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
    gx, gy = (
        a.ravel().astype(float) for a in np.meshgrid(np.arange(40, side - 30, 40), np.arange(40, side - 30, 40))
    )
    gx, gy = gx + rng.uniform(-0.5, 0.5, gx.size), gy + rng.uniform(-0.5, 0.5, gy.size)
    snr = np.array([5, 10, 20, 30, 50, 100, 200, 500, 1000, 3000])
    noises = [FrameNoise(1.0, 1.0, fwhm) for fwhm in fwhms]
    same = [_WithoutTerm(1.0, 1.0, 3.0) for _ in fwhms]
    tile = Tile(x0=0, y0=0, nx=side, ny=side)
    inner = (slice(0, side), slice(0, side))
    lattice = (side // 32 + 1, side // 32 + 1)
    found: dict[str, list[float]] = {"with the term": [], "without": []}
    for value in snr:
        # Peak of the median frame's star over the noise.
        flux = np.full(gx.size, value * 2 * np.pi * (3.5 / FWHM_PER_SIGMA) ** 2)
        cube = np.empty((len(fwhms), side, side), np.float32)
        for frame, fwhm in zip(cube, fwhms, strict=True):
            image = rng.normal(0, 1, (side, side))
            add_gaussians(image, gx, gy, flux, fwhm / FWHM_PER_SIGMA)
            frame[:] = image
        mean = cube.mean(axis=0)
        for name, told in (("with the term", noises), ("without", same)):
            sci = combine_tile(
                cube.copy(), told, None, StackOptions(), np.zeros(lattice, np.float32), tile, inner
            ).sci
            lost = sum(
                (sci - mean)[round(b) - 9 : round(b) + 10, round(a) - 9 : round(a) + 10].sum()
                for a, b in zip(gx, gy, strict=True)
            )
            found[name].append(100 * float(lost) / flux.sum())
    return plot(
        {name: (snr, np.array(v)) for name, v in found.items()},
        x_label="peak of the star over the noise of a pixel of one frame",
        y_label="flux in the clipped stack less that in the mean, %",
        y_range=(-10, 10), y_ticks=np.arange(-10, 11, 5), x_ticks=snr, even=0.0,
    )  # fmt: skip


def noise(work: Path) -> Image.Image:
    """Scatter of sums over blocks of sky over what WEIGHT says of independent pixels."""
    rng, side = np.random.default_rng(6), 700
    paths = []
    for n in range(4):
        shift = rng.uniform(-0.5, 0.5, 2)
        image = rng.normal(500, 10, (side, side))
        paths.append(written(work / f"noise{n}.fits", image, n, turn_deg=3.0 * n, shift_px=(shift[0], shift[1])))
    sizes = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32])
    curves = {}
    # At equal scales area and bilinear are one; area is for output that is coarser.
    for name, kernel, scale in (
        ("bilinear", "bilinear", 1.0),
        ("Lanczos-3", "lanczos3", 1.0),
        ("area, pixels 1.6 times as wide", "area", 1.6),
    ):
        out = work / "noise.fits"
        options = StackOptions(kernel=kernel, scale_arcsec=scale, match_sky=False, streaks=False, combine="mean")
        stack_files(paths, out, options)
        with fits.open(out) as hdus:
            sci, weight = hdus["SCI"].data.astype(float), hdus["WEIGHT"].data.astype(float)
        middle = tuple(slice(n // 2 - round(300 / scale), n // 2 + round(300 / scale)) for n in sci.shape)
        score = (sci[middle] - np.median(sci[middle])) * np.sqrt(weight[middle])
        curves[name] = (sizes, np.array([_blocks(score, int(b)) for b in sizes]))
    return plot(
        curves, x_label="side of the block, px", y_label="scatter of block sums over that of the weights",
        y_range=(0.5, 1.1), y_ticks=np.arange(0.5, 1.11, 0.1), x_ticks=sizes, even=1.0,
    )  # fmt: skip


def _blocks(score: np.ndarray, size: int) -> float:
    n = score.shape[0] // size
    return float(np.std(score[: n * size, : n * size].reshape(n, size, n, size).sum(axis=(1, 3))) / size)


def proper(_: Path) -> Image.Image:
    """A star field in the weighted mean, the homogenised and the proper co-add, with their efficiencies."""
    rng, side = np.random.default_rng(7), coadd_proper.SIDE
    psfs = coadd_proper.true_psfs()
    missing = coadd_proper.holes(rng)
    x, y = coadd_proper.STARS
    lone = np.zeros((side, side))
    lone[y, x] = 1.0
    field = np.zeros((side, side))
    at = rng.integers(40, side - 40, (2, 500))
    field[at[0], at[1]] = 10 ** rng.uniform(0.8, 2.8, 500)
    blank = np.stack([rng.normal(0, s, (side, side)) for s in coadd_proper.SIGMAS])
    stars, scene = (np.stack([coadd_proper.seen(plane, p) for p in psfs]) for plane in (lone, field))
    best = np.sqrt(sum(w * (p**2).sum() for w, p in zip(coadd_proper.WEIGHTS, psfs, strict=True)))
    shown, titles = [], []
    ones = np.ones(len(psfs))
    for name, coadd in (
        ("weighted mean", coadd_proper.weighted(ones)),
        ("homogenised", coadd_proper.homogenised),
        ("proper", coadd_proper.proper),
    ):
        answer, psf = coadd(stars, missing, psfs)
        quiet, _ = coadd(blank, missing, psfs)
        rim = slice(coadd_proper.RIM, -coadd_proper.RIM)
        response = np.mean(coadd_proper.score(answer, psf)[y, x])
        share = response / np.std(coadd_proper.score(quiet, psf)[rim, rim]) / best
        image, _ = coadd(scene + blank, missing, psfs)
        cut = image[90:320, 90:320]
        deviation = 1.4826 * np.median(np.abs(cut - np.median(cut)))
        shown.append(linear(cut, np.median(cut) - 2 * deviation, np.median(cut) + 12 * deviation))
        titles.append(f"{name}: {100 * share:.0f} %")
    return panels(shown, titles)


def tres1(work: Path, data: Path) -> Image.Image:
    """One frame of TrES-1, the stack, and its weight."""
    paths = coadd_real.frames_of("tres1", data, work)
    out = work / "tres1-figure.fits"
    stack_files(paths, out)
    with fits.open(out) as hdus:
        sci, weight = hdus["SCI"].data, hdus["WEIGHT"].data
        grid = wcs_from_cards(dict(coadd_real.wcs_cards(hdus["SCI"].header)))
    chosen = next(p for p in paths if "061" in p.name)
    with open_frame(chosen) as frame:
        ny, nx = frame.shape
        image = frame.section(0, ny, 0, nx)
        wcs = wcs_from_cards(coadd_real.wcs_cards(frame.header))
    # Nearest pixels: a look, not a measurement.
    rows, columns = np.indices(sci.shape)
    x, y = (np.rint(a).astype(int) for a in sky_pixels(wcs, sky_vectors(grid, columns.ravel(), rows.ravel())))
    inside = (x >= 0) & (y >= 0) & (x < nx) & (y < ny)
    single = np.full(sci.size, np.nan)
    single[inside] = image[y[inside], x[inside]]
    # Around the middle of the trail of TRUTH_trails.csv.
    middle = sky_pixels(grid, sky_vectors(wcs, np.array([965.0]), np.array([385.0])))
    cut = tuple(slice(int(at[0]) - 130, int(at[0]) + 130) for at in reversed(middle))
    shown = [asinh_stretch(single.reshape(sci.shape)[cut]), asinh_stretch(sci[cut])]
    shown.append(weight[cut] / weight.max())
    return panels(shown, ["one frame, with a trail", "the stack of 14", "its weight"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=coadd_real.ROOT / "docs" / "img")
    parser.add_argument("--data", type=Path, default=coadd_real.DATA)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "coadd-real")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    makers = {"trail": trail, "cores": cores, "noise": noise, "proper": proper}
    if chosen.data.is_dir():
        makers["tres1"] = lambda work: tres1(work, chosen.data)
    else:
        print(f"the real sets are not here ({chosen.data}): no figure of TrES-1")
    for name in chosen.names or makers:
        path = chosen.out / f"coadd_{name}.png"
        makers[name](chosen.work).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
