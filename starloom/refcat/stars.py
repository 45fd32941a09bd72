"""What a catalogue says about the stars of a patch of sky, and what every catalogue promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput

if TYPE_CHECKING:
    from seiza import StarCatalog

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CatalogStars:
    """Stars of one catalogue, brightest first.

    Parameters
    ----------
    ra_deg, dec_deg
        Positions in degrees, ICRS, at ``epoch``; shape ``(n,)``.
    mag
        Magnitudes in ``band``, shape ``(n,)``.
    band
        The catalogue's own passband, e.g. ``"VT"``.
    catalog
        Name of the catalogue.
    epoch
        Julian year of the positions: the one that was asked for where the catalogue has proper motions.
    version
        Release of the catalogue, as far as its file or service says.
    mags, mag_errs
        Magnitudes and their errors by band, each of shape ``(n,)``, NaN where a star has none; ``mags[band]`` is
        ``mag``.
    position_err_arcsec
        Error (1 sigma, per axis) of the positions as places of the stars in the year that was asked for, shape
        ``(n,)``. It holds the error of the proper motion and, for stars without one, the motion that stars of
        their magnitude usually have. None where nobody knows.
    pm_ra_masyr, pm_dec_masyr, pm_err_masyr
        Proper motion (that in right ascension includes cos Dec) and its error per axis, mas a year, shape
        ``(n,)``, NaN where unknown; None where the catalogue has none.
    """

    ra_deg: Floats
    dec_deg: Floats
    mag: Floats
    band: str
    catalog: str
    epoch: float
    version: str = ""
    mags: Mapping[str, Floats] = field(default_factory=dict)
    mag_errs: Mapping[str, Floats] = field(default_factory=dict)
    position_err_arcsec: Floats | None = None
    pm_ra_masyr: Floats | None = None
    pm_dec_masyr: Floats | None = None
    pm_err_masyr: Floats | None = None

    def __len__(self) -> int:
        return len(self.ra_deg)


class Refcat(Protocol):
    """A star catalogue that answers cone searches and can feed the plate solver."""

    @property
    def band(self) -> str:
        """Passband of its magnitudes."""
        ...

    @property
    def catalog(self) -> str:
        """Its name."""
        ...

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars within ``radius_deg`` of a point, brightest first, at most ``limit`` of them.

        ``epoch`` is the Julian year they are moved to by their proper motions; None: the catalogue's own.
        """
        ...

    def seiza(self) -> StarCatalog:
        """Return the same stars as the catalogue object of the seiza solver."""
        ...


def check_cone(ra_deg: float, dec_deg: float, radius_deg: float, epoch: float | None = None) -> None:
    """Refuse a cone that is not on the sphere, or a year no proper motion was meant for.

    Raises
    ------
    BadInput
        ``bad-cone``.
    """
    if not (np.isfinite(ra_deg) and -90.0 <= dec_deg <= 90.0 and 0.0 <= radius_deg <= 180.0):
        raise BadInput(f"no such cone: RA {ra_deg}, Dec {dec_deg}, radius {radius_deg} degrees", code="bad-cone")
    if epoch is not None and not 1800.0 <= epoch <= 2200.0:
        raise BadInput(
            f"epoch {epoch} is not a Julian year of this age",
            code="bad-cone",
            hint="Give the year of the exposure, such as 2026.4; no epoch leaves the catalogue's own.",
        )
