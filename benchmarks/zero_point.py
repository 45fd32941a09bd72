"""Zero points against truth: bias, honesty of the stated error, and cost, beside a plain photutils script.

    OMP_NUM_THREADS=1 python benchmarks/zero_point.py [FRAMES]

Rendered frames (600 x 600, Moffat profiles) of stars with colours. The band of the instrument differs from V by a
colour term and by 0.03 mag a star; the catalogue has BT and VT with errors that grow towards its limit, beyond
which it has nothing; fields differ in colour, density, seeing, gain and saturation.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from astropy.stats import SigmaClip, sigma_clip
from numpy.typing import NDArray
from peers import show
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture

from starloom.astrometry.detect import StarList, detect_stars
from starloom.photometry import FramePhotometry, PhotometryOptions, photometer
from starloom.photometry.selection import match
from starloom.refcat.provider import CatalogStars
from starloom.sky.field import Sky, offset_position
from starloom.sky.render import FrameTruth, render
from starloom.sky.telescope import Telescope

START = datetime(2026, 10, 8, tzinfo=UTC)
CENTRE = (120.0, 35.0)
CATALOG_LIMIT = 11.8
SUN = 0.73
SCALE_ARCSEC = 8.0


@dataclass(frozen=True)
class Frame:
    """One simulated frame, its truth and its catalogue."""

    image: NDArray[Any]
    truth: FrameTruth
    catalog: CatalogStars
    telescope: Telescope


def simulate(seed: int, *, passband_scatter: float = 0.03) -> Frame:
    """Draw a field and an instrument, and render one frame."""
    rng = np.random.default_rng(seed)
    size = 600
    radius = size * SCALE_ARCSEC / 3600 * 0.75
    per_deg2 = float(np.exp(rng.uniform(np.log(25), np.log(120))))
    slope, faintest = 0.36, 14.5
    count = int(rng.poisson(per_deg2 * np.pi * radius**2 * 10 ** (slope * (faintest - CATALOG_LIMIT))))
    vt = np.maximum(faintest + np.log10(rng.random(count)) / slope, 5.0)
    colour = np.clip(rng.normal(rng.uniform(0.45, 0.95), 0.35, count), -0.15, 1.7)
    ra, dec = offset_position(*CENTRE, radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count))
    v = vt - 0.090 * colour
    term = rng.normal(0.0, 0.08)
    telescope = Telescope(
        "B1", SCALE_ARCSEC, size, size,
        gain_e_per_adu=float(rng.uniform(0.3, 2.0)), read_noise_e=5.0, pedestal_adu=200.0,
        sky_adu=float(rng.uniform(100, 1500)), zero_point_mag=float(rng.uniform(19.5, 21.5)),
        moffat_beta=float(rng.uniform(2.5, 4.5)), cosmic_rays=5.0,
    )  # fmt: skip
    natural = v + term * (colour - SUN) + rng.normal(0.0, passband_scatter, count)
    sky = Sky(ra, dec, natural, np.ones(count, bool), CENTRE, radius, "V")
    frame = render(telescope, sky, CENTRE, seed=seed + 10**6, start=START, fwhm_px=float(rng.uniform(2.0, 4.0)))
    err_v = 0.012 + 0.08 * 10 ** (0.4 * (vt - CATALOG_LIMIT))
    err_b = 0.015 + 0.10 * 10 ** (0.4 * (vt + colour - SUN - CATALOG_LIMIT))
    vt_seen, bt_seen = vt + rng.normal(0, err_v), vt + colour + rng.normal(0, err_b)
    listed = np.flatnonzero(vt_seen < CATALOG_LIMIT)
    listed = listed[np.argsort(vt_seen[listed])]
    catalog = CatalogStars(
        ra[listed], dec[listed], vt_seen[listed], "VT", "simulated", 2026.8,
        mags={"BT": bt_seen[listed], "VT": vt_seen[listed]},
        mag_errs={"BT": err_b[listed], "VT": err_v[listed]},
    )  # fmt: skip
    return Frame(frame.image, frame.truth, catalog, telescope)


def ours(frame: Frame, stars: StarList) -> FramePhotometry:
    """Measure as the hub does."""
    options = PhotometryOptions(
        band="V",
        match_arcsec=2 * SCALE_ARCSEC,
        saturation_adu=frame.telescope.full_well_adu,
        gain_e_per_adu=frame.telescope.gain_e_per_adu,
        zero_level_adu=frame.telescope.pedestal_adu,
    )
    return photometer(frame.image, frame.truth.wcs, stars, frame.catalog, options)


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


def plain(frame: Frame, stars: StarList) -> tuple[float, float]:
    """Zero point as a plain script has it: V by the relation, unweighted clipped mean, error of the mean."""
    flux, peak = photutils_fluxes(frame.image, stars)
    ra, dec = frame.truth.to_wcs().all_pix2world(stars.x, stars.y, 0)
    usable = (peak < 0.85 * frame.telescope.full_well_adu) & (flux > 0)
    star, partner = match(ra, dec, usable, frame.catalog, match_arcsec=2 * SCALE_ARCSEC, blend_arcsec=1.0)
    bt, vt = frame.catalog.mags["BT"][partner], frame.catalog.mags["VT"][partner]
    values = sigma_clip(vt - 0.090 * (bt - vt) + 2.5 * np.log10(flux[star]), sigma=3).compressed()
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def accuracy(frames: int) -> None:
    """Simulate and measure; print bias and error over stated error of both."""
    errors: dict[str, list[tuple[float, float]]] = {"starloom": [], "photutils, plain": []}
    calibrators, missing = [], 0
    for seed in range(frames):
        frame = simulate(seed)
        stars = detect_stars(frame.image, saturation_adu=frame.telescope.full_well_adu)
        found = ours(frame, stars)
        truth = frame.truth.zero_point_mag
        if found.zero_point_mag is None or found.zero_point_err is None:
            missing += 1
            continue
        calibrators.append(found.calibrators)
        errors["starloom"].append((found.zero_point_mag - truth, found.zero_point_err))
        value, stated = plain(frame, stars)
        errors["photutils, plain"].append((value - truth, stated))
    rows = []
    for name, pairs in errors.items():
        error, stated = np.array(pairs).T
        rows.append(
            {
                "": name,
                "bias, mag": f"{error.mean():+.4f} ± {error.std() / np.sqrt(len(error)):.4f}",
                "median, mag": f"{np.median(error):+.4f}",
                "rms, mag": f"{np.sqrt(np.mean(error**2)):.4f}",
                "stated, mag": f"{np.median(stated):.4f}",
                "error / stated, rms": f"{np.sqrt(np.mean((error / stated) ** 2)):.2f}",
            }
        )
    show(f"Zero point of {len(calibrators)} frames with colours, {np.median(calibrators):.0f} calibrators", rows)
    print(f"\nFrames without a zero point: {missing}")


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
