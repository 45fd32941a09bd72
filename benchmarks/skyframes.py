"""One simulated frame: how a camera, a sky and an exposure become pixels, a header and the truth about both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from astropy.io import fits
from exposure import Detector, Streak, coloured_light, expose, stars_light
from numpy.typing import NDArray
from optics import Optics

from starloom.refcat import default_refcat
from starloom.sky.field import field_sky, offset_position
from starloom.sky.psf import Psf

Floats = NDArray[np.float64]
Stars = tuple[Floats, Floats, Floats]

# Frames above this number of unsaturated catalogue stars are to be solved, all of them.
ENOUGH_STARS = 20
# With fewer stars of 5 sigma on the whole frame, saying so is as true as blaming the catalogue.
FEW_STARS = 12


@dataclass
class SkyFrame:
    """A frame and the truth about it.

    ``optics`` is None where there is no sky in the frame. ``catalogued`` counts the catalogue stars on it that are
    not saturated. ``right_reasons`` are the refusals that tell the truth about it: none where it is to be solved.
    """

    kind: str
    seed: int
    data: NDArray[Any]
    header: fits.Header
    optics: Optics | None
    catalogued: int = 0
    right_reasons: frozenset[str] = frozenset()
    blind: bool = True
    # Whether its header points elsewhere, so that a refusal is as good as the truth.
    misled: bool = False
    fwhm_px: float = float("nan")
    about: str = ""


def bright_on_frame(optics: Optics, fainter_than: float = 6.0) -> int:
    """How many catalogue stars fall on a frame, a quick count for the choice of fields."""
    stars = default_refcat().cone(optics.ra_deg, optics.dec_deg, optics.radius_deg)
    _, _, on = optics.on_frame(stars.ra_deg, stars.dec_deg)
    return int((on & (stars.mag > fainter_than)).sum())


def true_stars(
    optics: Optics,
    seed: int,
    *,
    mag_limit: float,
    mag_scatter: float = 0.25,
    position_scatter_arcsec: float = 0.0,
    epoch: float | None = None,
    colour_term: float = 0.0,
) -> tuple[Stars, NDArray[np.bool_]]:
    """The stars of a frame and its surroundings: ``(ra, dec, mag), in_catalog``."""
    sky = field_sky(
        optics.ra_deg,
        optics.dec_deg,
        optics.radius_deg * 1.08 + 30 * optics.scale_arcsec / 3600,
        seed=seed,
        mag_limit=mag_limit,
        mag_scatter=mag_scatter,
        position_scatter_arcsec=position_scatter_arcsec,
        epoch=epoch,
        colour_term=colour_term,
    )
    return (sky.ra_deg, sky.dec_deg, sky.mag), sky.in_catalog


def photograph(
    kind: str,
    seed: int,
    optics: Optics,
    stars: Stars,
    in_catalog: NDArray[np.bool_],
    psf: Psf,
    detector: Detector,
    limit_mag: float,
    rng: np.random.Generator,
    header: fits.Header,
    streaks: tuple[Streak, ...] = (),
    right_reasons: frozenset[str] = frozenset(),
    blind: bool = True,
) -> SkyFrame:
    """Take a frame whose 5-sigma point source has the magnitude ``limit_mag``."""
    ra, dec, mag = stars
    x, y, on = optics.on_frame(ra, dec, margin_px=float(psf.half))
    x, y, mag, known = x[on], y[on], mag[on], in_catalog[on]
    flux = detector.limit_flux(psf) * 10 ** (-0.4 * (mag - limit_mag))
    inside = (x >= 0) & (x <= optics.width - 1) & (y >= 0) & (y <= optics.height - 1)
    clear = flux * psf.peak + detector.sky_adu + detector.pedestal < detector.top
    if detector.bayer:
        light = coloured_light(optics.shape, x, y, flux, psf, detector, rng)
        header["BAYERPAT"] = detector.bayer
    else:
        light = stars_light(optics.shape, x, y, flux, psf, detector.noise_adu)
    data = expose(light, detector, rng, streaks)
    catalogued = int((known & inside & clear).sum())
    if not right_reasons and catalogued < ENOUGH_STARS:
        right_reasons = frozenset({"catalogue-too-sparse"})
        if (inside & (mag < limit_mag)).sum() < FEW_STARS:
            right_reasons |= {"too-few-stars"}
    return SkyFrame(
        kind, seed, data, header, optics, catalogued, right_reasons, blind, False, psf.fwhm_px,
        f"limit {limit_mag:.1f} mag, {int(inside.sum())} stars",
    )  # fmt: skip


def plain_header(start: datetime, exposure_s: float = 60.0) -> fits.Header:
    header = fits.Header()
    header["IMAGETYP"] = "LIGHT"
    header["EXPTIME"] = exposure_s
    header["DATE-OBS"] = start.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    header["XBINNING"] = 1
    header["YBINNING"] = 1
    return header


def hint_scale(header: fits.Header, scale_arcsec: float, pixel_um: float = 3.76) -> None:
    """Write a plate scale as capture programs do: by focal length and pixel size."""
    header["XPIXSZ"] = pixel_um
    header["YPIXSZ"] = pixel_um
    header["FOCALLEN"] = round(206.264806 * pixel_um / scale_arcsec, 1)


def hint_of_date(header: fits.Header, ra_deg: float, dec_deg: float, start: datetime) -> None:
    """Write a pointing for the equinox of date, without saying so, as ASCOM mounts do."""
    from astropy import units as u
    from astropy.coordinates import FK5, SkyCoord
    from astropy.time import Time

    date = Time(start.replace(tzinfo=None), scale="utc")
    at = SkyCoord(ra_deg * u.deg, dec_deg * u.deg).transform_to(FK5(equinox=date))
    header["OBJCTRA"] = at.ra.to_string(unit=u.hour, sep=" ", precision=1, pad=True)
    header["OBJCTDEC"] = at.dec.to_string(unit=u.deg, sep=" ", precision=0, alwayssign=True, pad=True)


def off_by(rng: np.random.Generator, ra: float, dec: float, at_most_deg: float) -> tuple[float, float]:
    distance = at_most_deg * np.sqrt(rng.random())
    found = offset_position(ra, dec, float(distance), float(rng.uniform(0, 2 * np.pi)))
    return float(found[0]), float(found[1])


def night_of(rng: np.random.Generator, year: int = 2026) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=float(rng.uniform(0, 365)))


def julian_year(start: datetime) -> float:
    return 2000.0 + (start - datetime(2000, 1, 1, 12, tzinfo=UTC)) / timedelta(days=365.25)
