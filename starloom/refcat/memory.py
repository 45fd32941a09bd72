"""A catalogue that is a list of stars in memory: a frame's own region, the network's own stars, a test's."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starloom.refcat.motion import move, position_error_arcsec, separation_deg
from starloom.refcat.stars import CatalogStars, Floats, check_cone

if TYPE_CHECKING:
    from seiza import StarCatalog


class StarsRefcat:
    """A `Refcat` of the stars it is given.

    Parameters
    ----------
    stars
        Any stars of one catalogue; their order does not matter. With proper motions they move to the epoch that
        is asked for; without, they stay and their errors grow by what stars of their magnitude usually move.
    """

    def __init__(self, stars: CatalogStars) -> None:
        self.stars = stars

    def __len__(self) -> int:
        return len(self.stars)

    @property
    def band(self) -> str:
        """Passband of its magnitudes."""
        return self.stars.band

    @property
    def catalog(self) -> str:
        """Name of the catalogue the stars are from."""
        return self.stars.catalog

    @property
    def epoch(self) -> float:
        """Julian year of the positions it was given."""
        return self.stars.epoch

    @property
    def bands(self) -> tuple[str, ...]:
        """All bands it has magnitudes in."""
        return tuple(self.stars.mags) or (self.stars.band,)

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars within a circle on the sky, brightest first; see `Refcat.cone`."""
        check_cone(ra_deg, dec_deg, radius_deg, epoch)
        moved = at_epoch(self.stars, epoch)
        inside = np.flatnonzero(separation_deg(moved.ra_deg, moved.dec_deg, ra_deg, dec_deg) <= radius_deg)
        order = inside[np.lexsort((moved.dec_deg[inside], moved.ra_deg[inside], moved.mag[inside]))][:limit]
        return take(moved, order)

    def seiza(self) -> StarCatalog:
        """Return the stars as a catalogue of the seiza solver, made once and held in memory."""
        made: StarCatalog = self._seiza
        return made

    @cached_property
    def _seiza(self) -> StarCatalog:
        import seiza

        known = np.flatnonzero(np.isfinite(self.stars.mag))
        columns = (self.stars.ra_deg, self.stars.dec_deg, self.stars.mag)
        made: StarCatalog = seiza.StarCatalog.from_stars(
            list(zip(*(column[known].tolist() for column in columns), strict=True))
        )
        return made


def at_epoch(stars: CatalogStars, epoch: float | None) -> CatalogStars:
    """Return stars moved to a Julian year, with the errors they have there; order and number stay."""
    if epoch is None or epoch == stars.epoch:
        return stars
    years = epoch - stars.epoch
    unknown = np.full(len(stars), np.nan)
    east = unknown if stars.pm_ra_masyr is None else stars.pm_ra_masyr
    north = unknown if stars.pm_dec_masyr is None else stars.pm_dec_masyr
    has_pm = np.isfinite(east) & np.isfinite(north)
    error = stars.position_err_arcsec
    if error is not None:
        pm_error = unknown if stars.pm_err_masyr is None else stars.pm_err_masyr
        error = position_error_arcsec(error * 1000.0, pm_error, has_pm, stars.mag, years=years)
    ra, dec = stars.ra_deg, stars.dec_deg
    if has_pm.any():
        ra, dec = move(ra, dec, np.where(has_pm, east, 0.0), np.where(has_pm, north, 0.0), years)
    now = epoch if has_pm.any() else stars.epoch
    return replace(stars, ra_deg=ra, dec_deg=dec, position_err_arcsec=error, epoch=now)


def take(stars: CatalogStars, which: NDArray[Any]) -> CatalogStars:
    """Return the chosen stars, by index or mask, in the order given."""

    def cut(column: Floats | None) -> Floats | None:
        return None if column is None else column[which]

    return replace(
        stars,
        ra_deg=stars.ra_deg[which],
        dec_deg=stars.dec_deg[which],
        mag=stars.mag[which],
        mags={band: values[which] for band, values in stars.mags.items()},
        mag_errs={band: values[which] for band, values in stars.mag_errs.items()},
        position_err_arcsec=cut(stars.position_err_arcsec),
        pm_ra_masyr=cut(stars.pm_ra_masyr),
        pm_dec_masyr=cut(stars.pm_dec_masyr),
        pm_err_masyr=cut(stars.pm_err_masyr),
    )
