"""A patch of sky with known truth: real bright stars, and fainter ones drawn to follow them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.refcat import CatalogStars, Refcat, default_refcat

Floats = NDArray[np.float64]

# Star counts rise roughly as 10^(0.36 m) in the range of small telescopes; the field only has to look right.
COUNT_SLOPE = 0.36
# The shipped Tycho-2 is complete to VT 11 in crowded fields and 12 elsewhere; drawn stars take over between.
COMPLETE_TO = 11.5


@dataclass(frozen=True)
class Sky:
    """The true stars of a field, brightest first.

    Parameters
    ----------
    ra_deg, dec_deg
        True positions, degrees ICRS, shape ``(n,)``.
    mag
        True magnitudes in the night's band, shape ``(n,)``.
    in_catalog
        Whether the star stands in the catalogue the solver uses, shape ``(n,)``.
    centre_deg, radius_deg
        Circle on the sky that the stars fill.
    band
        Name of the band.
    """

    ra_deg: Floats
    dec_deg: Floats
    mag: Floats
    in_catalog: NDArray[np.bool_]
    centre_deg: tuple[float, float]
    radius_deg: float
    band: str

    def __len__(self) -> int:
        return len(self.mag)

    def write_csv(self, path: Path) -> None:
        """Write the truth as ``ra_deg,dec_deg,mag,in_catalog``, one star a line."""
        rows = zip(self.ra_deg, self.dec_deg, self.mag, self.in_catalog, strict=True)
        lines = [f"{ra:.8f},{dec:.8f},{mag:.4f},{int(known)}" for ra, dec, mag, known in rows]
        path.write_text("\n".join(["ra_deg,dec_deg,mag,in_catalog", *lines]) + "\n", encoding="utf-8")


def field_sky(
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    *,
    seed: int,
    band: str = "V",
    mag_limit: float = 16.0,
    mag_scatter: float = 0.2,
    position_scatter_arcsec: float = 0.1,
    epoch: float | None = None,
    colour_term: float = 0.0,
    refcat: Refcat | None = None,
) -> Sky:
    """Build the true sky of a field.

    Parameters
    ----------
    ra_deg, dec_deg, radius_deg
        Circle to fill, degrees ICRS.
    seed
        Seed of everything that is drawn.
    band
        Name of the band the magnitudes are in.
    mag_limit
        Faintest drawn star.
    mag_scatter
        Rms difference between a star's true magnitude and the catalogue's (another passband), mag.
    position_scatter_arcsec
        Rms difference per axis between true and catalogue position, arcsec.
    epoch
        Julian year for which the sky is true: stars of known proper motion have moved there. ``None`` leaves them
        at the catalogue's epoch.
    colour_term
        Magnitudes by which the night's band differs from the catalogue's per magnitude of BT - VT, about the
        mean colour; no effect where the catalogue has no colours.
    refcat
        Catalogue of the bright stars; the one that ships by default.
    """
    rng = np.random.default_rng(seed)
    catalog = refcat or default_refcat()
    centre = (ra_deg, dec_deg, radius_deg)
    known = catalog.cone(*centre) if epoch is None else catalog.cone(*centre, epoch=epoch)
    shift = rng.normal(0.0, position_scatter_arcsec / 3600, (2, len(known)))
    ra = known.ra_deg + shift[0] / np.cos(np.radians(known.dec_deg))
    dec = known.dec_deg + shift[1]
    mag = known.mag + rng.normal(0.0, mag_scatter, len(known))
    if colour_term:
        mag += colour_term * _colour(known)

    bright = int((known.mag < COMPLETE_TO).sum())
    growth = 10 ** (COUNT_SLOPE * (mag_limit - COMPLETE_TO)) - 1
    n_faint = int(rng.poisson(max(bright, 1) * growth)) if mag_limit > COMPLETE_TO else 0
    faint_mag = COMPLETE_TO + np.log10(1 + rng.random(n_faint) * growth) / COUNT_SLOPE
    faint_ra, faint_dec = _uniform_in_circle(rng, ra_deg, dec_deg, radius_deg, n_faint)

    mags = np.concatenate([mag, faint_mag])
    order = np.argsort(mags, kind="stable")
    return Sky(
        np.concatenate([ra, faint_ra])[order] % 360.0,
        np.concatenate([dec, faint_dec])[order],
        mags[order],
        np.concatenate([np.ones(len(known), bool), np.zeros(n_faint, bool)])[order],
        (ra_deg, dec_deg),
        radius_deg,
        band,
    )


def offset_position(
    ra_deg: float, dec_deg: float, distance_deg: Floats | float, bearing_rad: Floats | float
) -> tuple[Floats, Floats]:
    """Return the points at a distance and bearing (north through east) from a centre, degrees."""
    d, dec0 = np.radians(distance_deg), np.radians(dec_deg)
    sine = np.sin(dec0) * np.cos(d) + np.cos(dec0) * np.sin(d) * np.cos(bearing_rad)
    dec = np.arcsin(np.clip(sine, -1.0, 1.0))
    east = np.sin(bearing_rad) * np.sin(d) * np.cos(dec0)
    ra = ra_deg + np.degrees(np.arctan2(east, np.cos(d) - np.sin(dec0) * sine))
    return np.asarray(ra % 360.0, dtype=np.float64), np.asarray(np.degrees(dec), dtype=np.float64)


def _colour(known: CatalogStars) -> Floats:
    """BT - VT less its mean, 0 where it is unknown."""
    if not {"BT", "VT"} <= known.mags.keys():
        return np.zeros(len(known))
    colour = known.mags["BT"] - known.mags["VT"]
    seen = np.isfinite(colour)
    return np.where(seen, colour - (colour[seen].mean() if seen.any() else 0.0), 0.0)


def _uniform_in_circle(
    rng: np.random.Generator, ra_deg: float, dec_deg: float, radius_deg: float, n: int
) -> tuple[Floats, Floats]:
    cosine = 1 - rng.random(n) * (1 - np.cos(np.radians(radius_deg)))
    return offset_position(ra_deg, dec_deg, np.degrees(np.arccos(cosine)), rng.uniform(0, 2 * np.pi, n))
