"""Simulated frames of coloured stars, for the zero point: the truth, the frame, and what catalogues know of it.

Not what the library assumes: the instrument's band differs from the standard one by a colour term and by a scatter
from star to star, the catalogue has errors that grow towards its limit and nothing beyond it, the seeing changes
over the field, stars are as close to each other as the sky has them, and the field may be vignetted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from starloom.refcat.provider import CatalogStars
from starloom.sky.field import offset_position
from starloom.sky.psf import draw_stars, make_psf
from starloom.sky.telescope import Telescope

Floats = NDArray[np.float64]

CENTRE = (120.0, 35.0)
SIZE = 900
SCALE_ARCSEC = 3.0
#: Stars to this much fainter than the catalogue's limit are in the sky, most of them unseen.
DEEPER_MAG = 2.7
COUNT_SLOPE = 0.36
#: Seeing in the corners over that in the middle, less one; it grows with the square of the distance.
CORNER_WIDER = 0.10
LIMIT = 12.0
#: Colours of the Sun, for which zero points are stated.
SUN = {"BT-VT": 0.73, "B-V": 0.65}
#: V - VT per BT - VT (ESA 1997), B - V per BT - VT.
TYCHO_V, TYCHO_BV = -0.090, 0.850


@dataclass(frozen=True)
class ColouredFrame:
    """One frame: pixels, what its camera says of itself, its catalogue, and the truth."""

    image: NDArray[np.float32]
    catalog: CatalogStars
    cards: dict[str, float | int | str]
    saturation_adu: float
    gain_e_per_adu: float
    zero_point_mag: float
    x: Floats
    y: Floats
    flux: Floats
    about: dict[str, float | bool | str]


def simulate(seed: int) -> ColouredFrame:
    """Draw a field, an instrument, a catalogue and a seeing, and expose."""
    rng = np.random.default_rng(seed)
    fwhm, beta = float(rng.uniform(1.5, 6.0)), float(rng.uniform(2.5, 4.0))
    listed = float(np.exp(rng.uniform(np.log(20), np.log(250))))
    vignetting, flattened = (float(rng.uniform(0.1, 0.35)) if rng.random() < 0.5 else 0.0), rng.random() < 0.5
    tycho = bool(rng.random() < 0.5)
    telescope = Telescope("B1", SCALE_ARCSEC, SIZE, SIZE)
    radius = telescope.radius_deg * 1.05

    # The sky: VT or V, whichever the catalogue has, and a colour.
    count = int(rng.poisson(listed * np.pi * radius**2 / (SIZE * SCALE_ARCSEC / 3600) ** 2 * _fainter(DEEPER_MAG)))
    mag = np.maximum(LIMIT + DEEPER_MAG + np.log10(rng.random(count)) / COUNT_SLOPE, 5.0)
    sun = SUN["BT-VT" if tycho else "B-V"]
    colour = np.clip(rng.normal(sun + rng.uniform(-0.25, 0.25), 0.35, count), -0.15, 1.7)
    ra, dec = offset_position(*CENTRE, radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count))
    standard = mag + TYCHO_V * colour if tycho else mag
    colour_term, passband = float(rng.normal(0.0, 0.08)), float(rng.uniform(0.005, 0.03))
    natural = standard + colour_term * (colour - sun) + rng.normal(0.0, passband, count)

    # The frame: the faintest star of the catalogue has a signal-to-noise between 15 and 150.
    gain, sky, read_noise = float(rng.uniform(0.3, 2.0)), float(rng.uniform(100, 1500)), 5.0
    noise = float(np.hypot(np.sqrt(sky * gain), read_noise) / gain)
    snr = float(np.exp(rng.uniform(np.log(15), np.log(150))))
    limit_flux = snr * noise * np.sqrt(np.pi) * 1.25 * max(fwhm, 1.5)
    zero_point = LIMIT + 2.5 * np.log10(limit_flux)
    flux = 10 ** (-0.4 * (natural - zero_point))
    x, y = telescope.wcs(*CENTRE).all_world2pix(ra, dec, 0)
    on = (x > -60) & (y > -60) & (x < SIZE + 60) & (y < SIZE + 60)
    x, y, on_flux = x[on], y[on], flux[on]
    light = np.zeros((SIZE, SIZE), np.float32)
    off_axis = np.hypot(x - SIZE / 2, y - SIZE / 2) / (SIZE / np.sqrt(2))
    edges = np.append(np.linspace(0, 1, 7)[:-1], np.inf)
    for inner, outer in pairwise(edges):
        ring = (off_axis >= inner) & (off_axis < outer)
        psf = make_psf(fwhm * (1 + CORNER_WIDER * (inner + 1 / 12) ** 2), beta)
        # A tenth of the noise: wings are drawn to their end for all stars that can be measured.
        draw_stars(light, x[ring], y[ring], on_flux[ring], psf, noise_adu=noise / 10)
    v, u = np.meshgrid(*(np.linspace(-1, 1, SIZE),) * 2, indexing="ij")
    passed = 1 - vignetting * (u**2 + v**2) / 2
    electrons = rng.poisson((light + sky) * passed * gain) + rng.normal(0.0, read_noise, (SIZE, SIZE))
    top = float(rng.choice([4095.0, 16383.0, 65535.0]))
    image = np.minimum(electrons / gain, top)
    if flattened:
        image /= passed
    truth = float(zero_point + (0.0 if flattened else 2.5 * np.mean(np.log10(passed))))
    catalog = _catalog(rng, ra, dec, mag, colour, tycho)
    about = {"fwhm": fwhm, "beta": beta, "listed": listed, "vignetting": vignetting, "flattened": flattened,
             "catalog": catalog.catalog, "stars_per_100px": len(x) / (SIZE / 100) ** 2, "top": top, "snr": snr,
             "colour_term": colour_term}  # fmt: skip
    return ColouredFrame(
        image.astype(np.float32), catalog, telescope.wcs_cards(*CENTRE), top, gain, truth, x, y, on_flux, about
    )


def _fainter(mag: float) -> float:
    """How many times more stars there are to a limit deeper by ``mag``."""
    return float(10 ** (COUNT_SLOPE * mag))


def _catalog(
    rng: np.random.Generator, ra: Floats, dec: Floats, mag: Floats, colour: Floats, tycho: bool
) -> CatalogStars:
    blue, red = ("BT", "VT") if tycho else ("B", "V")
    # As large as Tycho-2's two magnitudes above its limit, or as APASS's.
    scale = 1.0 if tycho else 0.4
    err_red = scale * (0.012 + 0.08 * 10 ** (0.4 * (mag - LIMIT)))
    err_blue = scale * (0.015 + 0.10 * 10 ** (0.4 * (mag + colour - 0.7 - LIMIT)))
    seen_red, seen_blue = mag + rng.normal(0, err_red), mag + colour + rng.normal(0, err_blue)
    known = np.flatnonzero(seen_red < LIMIT)
    known = known[np.argsort(seen_red[known])]
    return CatalogStars(
        ra[known], dec[known], seen_red[known], red, "like Tycho-2" if tycho else "like APASS", 2026.8,
        mags={blue: seen_blue[known], red: seen_red[known]},
        mag_errs={blue: err_blue[known], red: err_red[known]},
    )  # fmt: skip
