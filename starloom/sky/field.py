"""A patch of sky with known truth: real bright stars, and fainter ones drawn to follow them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.refcat import CatalogStars, Refcat, default_refcat
from starloom.refcat.motion import move, usual_motion_masyr

Floats = NDArray[np.float64]

# Star counts rise roughly as 10^(0.36 m) in the range of small telescopes; the field only has to look right.
COUNT_SLOPE = 0.36
# Tycho-2 holds 90 % of the stars at V 11.5; drawn stars take over from there.
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
    position_scatter_arcsec: float | None = 0.1,
    epoch: float | None = None,
    draw_motion: bool = True,
    colour_term: float = 0.0,
    colour_zero: float | None = None,
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
        Rms difference per axis between true and catalogue position, arcsec; None draws each star's from the error
        that the catalogue states for it in that year.
    epoch
        Julian year for which the sky is true: stars of known proper motion have moved there. ``None`` leaves them
        at the catalogue's epoch.
    draw_motion
        Whether the stars whose proper motion the catalogue does not know move too, by one drawn from what stars of
        their magnitude have (`drawn_motion_masyr`). No catalogue knows it: a solver must live with it.
    colour_term
        Magnitudes by which the night's band differs from the catalogue's per magnitude of BT - VT; no effect where
        the catalogue has no colours.
    colour_zero
        BT - VT at which the two bands agree; None: the field's mean.
    refcat
        Catalogue of the bright stars; the one that ships by default.
    """
    rng = np.random.default_rng(seed)
    catalog = refcat or default_refcat()
    centre = (ra_deg, dec_deg, radius_deg)
    known = catalog.cone(*centre) if epoch is None else catalog.cone(*centre, epoch=epoch)
    years = 0.0 if epoch is None else epoch - _own_epoch(catalog, known)
    scatter = _scatter_mas(known, position_scatter_arcsec, years)
    east, north = rng.normal(0.0, 1.0, (2, len(known))) * scatter
    if draw_motion and years:
        moved = drawn_motion_masyr(rng, known.mag) * years
        east, north = np.stack([east, north]) + moved * _unknown_motion(known)
    # Positions are shifted as stars move: on the sphere, at the poles too.
    ra, dec = move(known.ra_deg, known.dec_deg, east, north, 1.0)
    mag = known.mag + rng.normal(0.0, mag_scatter, len(known))
    if colour_term:
        mag += colour_term * _colour(known, colour_zero)

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


def drawn_motion_masyr(rng: np.random.Generator, mag: Floats) -> Floats:
    """Draw proper motions of stars of given magnitudes: mas a year, east and north, shape ``(2, n)``.

    Student's t with three degrees of freedom has the long tails of Tycho-2 (68, 95 and 99.7 % of one axis within
    11.5, 43 and 154 mas a year); its central 68 % are brought to `usual_motion_masyr`.
    """
    central_68_of_t3 = 1.197
    return rng.standard_t(3, (2, len(mag))) / central_68_of_t3 * usual_motion_masyr(mag)


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


def _scatter_mas(known: CatalogStars, scatter_arcsec: float | None, years: float) -> Floats | float:
    if scatter_arcsec is not None:
        return scatter_arcsec * 1000.0
    if known.position_err_arcsec is None:
        return 0.0
    # The motion that a stated error allows for is drawn by itself.
    motion = np.where(_unknown_motion(known), usual_motion_masyr(known.mag) * years, 0.0)
    scatter: Floats = np.sqrt(np.maximum((known.position_err_arcsec * 1000.0) ** 2 - motion**2, 0.0))
    return scatter


def _unknown_motion(known: CatalogStars) -> NDArray[np.bool_]:
    if known.pm_ra_masyr is None or known.pm_dec_masyr is None:
        return np.ones(len(known), bool)
    return ~(np.isfinite(known.pm_ra_masyr) & np.isfinite(known.pm_dec_masyr))


def _own_epoch(catalog: Refcat, known: CatalogStars) -> float:
    """Return the year of a catalogue's positions: its own word, else that of stars nobody moved."""
    said = getattr(catalog, "epoch", None)
    return float(said) if said is not None else known.epoch


def _colour(known: CatalogStars, zero: float | None) -> Floats:
    """BT - VT less ``zero``, or less its mean; 0 where it is unknown."""
    if not {"BT", "VT"} <= known.mags.keys():
        return np.zeros(len(known))
    colour = known.mags["BT"] - known.mags["VT"]
    seen = np.isfinite(colour)
    if zero is None:
        zero = float(colour[seen].mean()) if seen.any() else 0.0
    return np.where(seen, colour - zero, 0.0)


def _uniform_in_circle(
    rng: np.random.Generator, ra_deg: float, dec_deg: float, radius_deg: float, n: int
) -> tuple[Floats, Floats]:
    cosine = 1 - rng.random(n) * (1 - np.cos(np.radians(radius_deg)))
    return offset_position(ra_deg, dec_deg, np.degrees(np.arccos(cosine)), rng.uniform(0, 2 * np.pi, n))
