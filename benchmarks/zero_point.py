"""Zero points against truth: bias, honesty of the stated error, and cost, beside a plain photutils script.

    OMP_NUM_THREADS=1 python benchmarks/zero_point.py [FRAMES]

Frames of `coloured.simulate`: seeing 1.5 to 6 px and growing to the corners, Moffat profiles of beta 2.5 to 4, 3
to 37 stars per 100 x 100 px, half of the fields vignetted and half of those flat-fielded, catalogues like Tycho-2
and like APASS. The zero point of a vignetted frame that nobody flat-fielded is the mean over its field.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.stats import SigmaClip, sigma_clip
from astropy.wcs import WCS
from coloured import CENTRE, SCALE_ARCSEC, TYCHO_V, ColouredFrame, simulate
from numpy.typing import NDArray
from peers import show
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture

from starloom.astrometry.detect import StarList, detect_stars
from starloom.photometry import FramePhotometry, PhotometryOptions, photometer
from starloom.photometry.selection import match
from starloom.refcat.provider import CatalogStars
from starloom.sky.telescope import Telescope

CROWDED = 16.0


def ours(frame: ColouredFrame, stars: StarList) -> FramePhotometry:
    """Measure as the hub does."""
    options = PhotometryOptions(
        band="V",
        match_arcsec=2 * SCALE_ARCSEC,
        saturation_adu=frame.saturation_adu,
        gain_e_per_adu=frame.gain_e_per_adu,
        zero_level_adu=0.0,
    )
    return photometer(frame.image, frame.cards, stars, frame.catalog, options)


def photutils_fluxes(image: NDArray[Any], stars: StarList) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apertures of three FWHM less the clipped median of an annulus: fluxes and peaks, as in a tutorial."""
    xy = np.column_stack([stars.x, stars.y])
    radius = 3.0 * stars.frame_fwhm_px
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ring = CircularAnnulus(xy, 1.3 * radius, 1.8 * radius)
        sky = ApertureStats(image, ring, sigma_clip=SigmaClip(3.0)).median
        inside = ApertureStats(image, CircularAperture(xy, radius))
        return np.asarray(inside.sum - sky * np.pi * radius**2, float), np.asarray(inside.max, float)


def plain(frame: ColouredFrame, stars: StarList) -> tuple[float, float]:
    """Zero point as a plain script has it: V by the relation, unweighted clipped mean, error of the mean."""
    flux, peak = photutils_fluxes(frame.image, stars)
    ra, dec = WCS(fits.Header(frame.cards), fix=False).all_pix2world(stars.x, stars.y, 0)
    usable = (peak < 0.85 * frame.saturation_adu) & (flux > 0)
    star, partner = match(ra, dec, usable, frame.catalog, match_arcsec=2 * SCALE_ARCSEC, blend_arcsec=1.0)
    mags = {name: values[partner] for name, values in frame.catalog.mags.items()}
    v = mags["V"] if "V" in mags else mags["VT"] + TYCHO_V * (mags["BT"] - mags["VT"])
    values = sigma_clip(v + 2.5 * np.log10(flux[star]), sigma=3).compressed()
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def accuracy(frames: int) -> None:
    """Simulate and measure; print bias and error over stated error of both, and of ours by kind of frame."""
    errors: dict[str, list[tuple[float, float]]] = {"starloom": [], "photutils, plain": []}
    kinds: dict[str, list[tuple[float, float]]] = {}
    calibrators, missing, terms = [], 0, []
    for seed in range(frames):
        frame = simulate(seed)
        stars = detect_stars(frame.image, saturation_adu=frame.saturation_adu)
        found = ours(frame, stars)
        truth = frame.zero_point_mag
        if found.zero_point_mag is None or found.zero_point_err is None:
            missing += 1
            continue
        calibrators.append(found.calibrators)
        pair = (found.zero_point_mag - truth, found.zero_point_err)
        errors["starloom"].append(pair)
        for kind in _kinds(frame):
            kinds.setdefault(kind, []).append(pair)
        if found.colour_term is not None and found.colour_term_err is not None:
            # The simulation states it the other way round: instrumental less standard.
            terms.append((found.colour_term + float(frame.about["colour_term"]), found.colour_term_err))
        value, stated = plain(frame, stars)
        errors["photutils, plain"].append((value - truth, stated))
    show(
        f"Zero point of {len(calibrators)} frames with colours, {np.median(calibrators):.0f} calibrators",
        [_row(name, pairs) for name, pairs in errors.items()],
    )
    show("Ours by kind of frame", [_row(name, kinds[name]) for name in sorted(kinds)])
    show("Ours, colour terms (mag per mag)", [_row("colour term", terms)])
    print(f"\nFrames without a zero point (fewer than five calibrators): {missing}")


def _kinds(frame: ColouredFrame) -> list[str]:
    about = frame.about
    vignetted = float(about["vignetting"]) > 0
    return [
        "vignetted, not flat-fielded" if vignetted and not about["flattened"] else "flat",
        "crowded" if float(about["stars_per_100px"]) > CROWDED else "sparse",
        "seeing above 3.5 px" if float(about["fwhm"]) > 3.5 else "seeing to 3.5 px",
        "beta above 3.2" if float(about["beta"]) > 3.2 else "beta to 3.2",
    ]


def _row(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    error, stated = np.array(pairs).T
    return {
        "": name,
        "frames": len(error),
        "bias, mag": f"{error.mean():+.4f} ± {error.std() / np.sqrt(len(error)):.4f}",
        "median, mag": f"{np.median(error):+.4f}",
        "rms, mag": f"{np.sqrt(np.mean(error**2)):.4f}",
        "stated, mag": f"{np.median(stated):.4f}",
        "error / stated, rms": f"{np.sqrt(np.mean((error / stated) ** 2)):.2f}",
    }


def cost(rounds: int = 3) -> None:
    """Print the CPU that the photometry of a 24-megapixel frame of 4,000 stars takes."""
    rng = np.random.default_rng(1)
    ny, nx, count, fwhm = 4000, 6000, 4000, 3.0
    image = rng.normal(1000.0, 15.0, (ny, nx)).astype(np.float32)
    x, y = rng.uniform(30, nx - 30, count), rng.uniform(30, ny - 30, count)
    flux = 10 ** rng.uniform(3.3, 6.0, count)
    offset = np.arange(-12, 13)
    for x0, y0, f in zip(x, y, flux, strict=True):
        cx, cy = round(x0), round(y0)
        r2 = (offset[:, None] + cy - y0) ** 2 + (offset[None, :] + cx - x0) ** 2
        alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / 3) - 1)
        image[cy - 12 : cy + 13, cx - 12 : cx + 13] += f * 2 / (np.pi * alpha2) * (1 + r2 / alpha2) ** -3
    pixels = np.clip(image, 0, 65535).astype(np.uint16)
    telescope = Telescope("B2", 1.0, nx, ny)
    cards = telescope.wcs_cards(*CENTRE)
    stars = detect_stars(pixels, max_stars=20_000, saturation_adu=65535.0)
    ra, dec = telescope.wcs(*CENTRE).all_pix2world(x, y, 0)
    mag = 22.0 - 2.5 * np.log10(flux)
    catalog = CatalogStars(
        ra, dec, mag, "V", "simulated", 2026.8, mags={"V": mag, "B": mag + rng.normal(0.7, 0.3)}
    )
    options = PhotometryOptions(band="V", match_arcsec=2.0, saturation_adu=65535.0, zero_level_adu=0.0)
    seconds: dict[str, list[float]] = {"starloom: all of it": [], "photutils ApertureStats: fluxes alone": []}
    for _ in range(rounds):
        start = time.process_time()
        found = photometer(pixels, cards, stars, catalog, options)
        middle = time.process_time()
        photutils_fluxes(pixels, stars)
        seconds["starloom: all of it"].append(middle - start)
        seconds["photutils ApertureStats: fluxes alone"].append(time.process_time() - middle)
    assert found.zero_point_mag is not None
    least = {name: min(values) for name, values in seconds.items()}
    rows = [
        {"": name, "CPU-s": f"{value:.3f}", "ratio to ours": f"{value / least['starloom: all of it']:.1f}"}
        for name, value in least.items()
    ]
    show(f"Photometry of 24 megapixels with {len(stars)} stars, least of {rounds}", rows)


def main() -> None:
    frames = next((int(a) for a in sys.argv[1:] if a.isdigit()), 200)
    accuracy(frames)
    cost()


if __name__ == "__main__":
    main()
