"""The network's own stars of a field, by earlier frames, for frames that are too small for the catalogue.

Nothing is fetched before somebody asks: nine frames in ten are solved without.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.time import Time

from starloom.archive.models import Frame, Photometry, Solution
from starloom.archive.positions import source_lists_near
from starloom.astrometry.own_stars import NAME, WCS_ERROR_ARCSEC, OwnSources, combine_sources
from starloom.refcat import CatalogStars, StarsRefcat

if TYPE_CHECKING:
    from seiza import StarCatalog

    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Source lists that are fetched for one frame: each is some 0.3 MB, and a dozen deep ones hold what is to be seen.
LISTS = 12
#: How far a pointing may be off, degrees.
POINTING_DEG = 0.6
#: Error of a WCS that may be believed, arcsec: stated ones are held between these.
MIN_WCS_ERROR_ARCSEC, MAX_WCS_ERROR_ARCSEC = 0.02, 1.0
#: A longer source list is of no frame.
MAX_LIST_BYTES = 64 << 20
_COLUMNS = ["ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec", "mag", "mag_err", "snr", "flags", "band"]


class OwnSky:
    """A `Refcat` of what the network's earlier frames have seen around a few places.

    Parameters
    ----------
    hub
        Where the source lists are.
    frame_id
        The frame to be solved, whose own list is left out.
    places
        Where it may point, degrees ICRS.
    radius_deg
        How far from there its stars may lie: half its diagonal and the error of its pointing.
    """

    catalog: str = NAME

    def __init__(self, hub: Hub, frame_id: str, places: Sequence[tuple[float, float]], radius_deg: float) -> None:
        self._hub, self._frame_id, self._places, self._radius = hub, frame_id, tuple(places), radius_deg

    def __len__(self) -> int:
        return len(self._stars)

    @property
    def band(self) -> str:
        """Passband of its magnitudes: the one that most of the frames have."""
        return self._stars.band

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars within a circle on the sky, brightest first; see `starloom.refcat.Refcat.cone`."""
        return self._stars.cone(ra_deg, dec_deg, radius_deg, limit=limit, epoch=epoch)

    def seiza(self) -> StarCatalog:
        """Return the same stars as the catalogue object of the seiza solver."""
        return self._stars.seiza()

    @cached_property
    def _stars(self) -> StarsRefcat:
        chosen = self._choose()
        lists = [found for row in chosen if (found := self._fetch(*row)) is not None]
        nothing = np.zeros(0)
        if not lists:
            return StarsRefcat(CatalogStars(nothing, nothing, nothing, "", NAME, 2000.0))
        stars = combine_sources(lists)
        log.info("%d own stars of %d frames around it", len(stars), len(lists))
        return StarsRefcat(stars)

    def _choose(self) -> list[tuple[Frame, Solution, Photometry]]:
        chosen: dict[str, tuple[Frame, Solution, Photometry]] = {}
        with self._hub.archive.session() as session:
            for ra, dec in self._places:
                for row in source_lists_near(session, ra, dec, self._radius, besides=self._frame_id, limit=LISTS):
                    chosen.setdefault(row[0].id, row)
        return list(chosen.values())[:LISTS]

    def _fetch(self, frame: Frame, solution: Solution, photometry: Photometry) -> OwnSources | None:
        assert photometry.sources_key is not None
        assert frame.start_utc is not None
        data = self._hub.lake.get_bytes(photometry.sources_key, max_bytes=MAX_LIST_BYTES)
        try:
            table = pq.read_table(io.BytesIO(data), columns=_COLUMNS)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            # One list that is damaged, or of a version without these columns, is one list fewer.
            log.warning("source list %s of frame %s: %s", photometry.sources_key, frame.id, error)
            return None
        epoch = solution.epoch or float(Time(frame.start_utc).jyear)
        return OwnSources(table, epoch, _wcs_error_arcsec(solution))


def _wcs_error_arcsec(solution: Solution) -> float:
    """Return the error of a WCS per axis, from what it states of its corners."""
    if solution.corner_error_px is None:
        return WCS_ERROR_ARCSEC
    stated = solution.corner_error_px * solution.scale_arcsec / np.sqrt(2)
    return float(np.clip(stated, MIN_WCS_ERROR_ARCSEC, MAX_WCS_ERROR_ARCSEC))
