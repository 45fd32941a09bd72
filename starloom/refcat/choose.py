"""Which catalogue serves a frame, and how deep: enough stars for the frame, not a hundred thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput, StarloomError
from starloom.photometry.bands import band_info
from starloom.refcat.memory import StarsRefcat
from starloom.refcat.online import OnlineCatalog
from starloom.refcat.services import SERVICES, Service
from starloom.refcat.shipped import tycho2
from starloom.refcat.stars import CatalogStars, Refcat
from starloom.refcat.store import StoreCatalog

log = logging.getLogger(__name__)

#: Stars on the frame that a solution and its distortion are well served with. 20 are needed, 60 fit an order of 3.
ENOUGH_ON_FRAME = 60
#: With fewer calibrators of a band another catalogue is asked.
ENOUGH_CALIBRATORS = 10
#: Bounds of what is taken from a catalogue for a frame's surroundings.
FEWEST, MOST = 200, 5000
# A list of detections reaches fainter than what is surely a star, a catalogue brighter than what is not saturated.
CATALOGUE_TO_DETECTED = 2.0


class RefcatConfig(Protocol):
    """What `Refcats.from_settings` reads; `starloom.settings.Settings` has it."""

    refcat_dir: Path
    refcat_cache: Path
    refcat_online: bool
    refcat_services: list[str]
    refcat_urls: dict[str, str]
    refcat_timeout_s: float


@dataclass(frozen=True)
class Choice:
    """What a frame is solved with.

    Parameters
    ----------
    refcat
        The catalogue; one of the frame's region alone where the whole cannot be handed to a solver.
    limit
        How many of the brightest stars of the frame's surroundings to take.
    faintest_mag
        The faintest of them, in ``band``; NaN where there are none.
    band, catalog, version
        What was really taken.
    on_frame
        Stars expected on the frame.
    why
        One clause, for logs and artifacts.
    """

    refcat: Refcat
    limit: int
    faintest_mag: float
    band: str
    catalog: str
    version: str
    on_frame: float
    why: str


class Refcats:
    """The catalogues a hub has, shallowest first; the one that ships is always among them.

    Parameters
    ----------
    catalogs
        Further catalogues: local ones, Gaia's bright stars, online ones.
    shipped
        The catalogue of last resort; the one that ships with the package by default.
    """

    def __init__(self, catalogs: Sequence[Refcat] = (), *, shipped: Refcat | None = None) -> None:
        self.shipped = shipped or tycho2()
        self.catalogs: tuple[Refcat, ...] = (self.shipped, *catalogs)

    @classmethod
    def from_settings(cls, settings: RefcatConfig) -> Refcats:
        """Open what the settings name: imported catalogues, the extra ``gaia`` where installed, online services.

        Raises
        ------
        BadInput
            ``bad-setting``: an online service nobody knows.
        """
        shipped = tycho2(settings.refcat_cache)
        local: list[Refcat] = list(local_catalogs(settings.refcat_dir))
        local.extend(_gaia(settings.refcat_cache))
        local.sort(key=_depth)
        online: list[Refcat] = []
        if settings.refcat_online:
            fallback = max((shipped, *(one for one in local if _covers_sky(one))), key=_depth)
            online = [
                OnlineCatalog(
                    _service(key, settings.refcat_urls.get(key)),
                    settings.refcat_cache / "online",
                    fallback,
                    timeout_s=settings.refcat_timeout_s,
                )
                for key in settings.refcat_services
            ]
        return cls([*local, *online], shipped=shipped)

    def named(self, name: str, version: str = "") -> Refcat:
        """Return the catalogue of a name, of that release if there are several; the shipped one for none."""
        same = [one for one in self.catalogs if one.catalog == name]
        return next((one for one in same if getattr(one, "version", "") == version), [*same, self.shipped][0])

    def for_solving(
        self,
        ra_deg: float,
        dec_deg: float,
        width_deg: float,
        height_deg: float | None = None,
        *,
        detected: int | None = None,
        epoch: float | None = None,
    ) -> Choice:
        """Choose the catalogue and depth that solve a frame.

        The first that has `ENOUGH_ON_FRAME` stars on the frame serves, in the order from shallow to deep: the
        shallow ones are complete at the bright end, local, and cheap. If none has, the one with the most does.

        Parameters
        ----------
        ra_deg, dec_deg
            Centre of the frame as far as known, degrees.
        width_deg, height_deg
            Its size, degrees; square unless both are given.
        detected
            Number of stars detected on it, None where nobody has looked.
        epoch
            Julian year of the exposure.
        """
        height = height_deg or width_deg
        radius = 0.5 * float(np.hypot(width_deg, height))
        share = width_deg * height / _cap_deg2(radius)
        best: tuple[float, Refcat, CatalogStars] | None = None
        for catalog in self.catalogs:
            stars = catalog.cone(ra_deg, dec_deg, radius, limit=20 * MOST, epoch=epoch)
            on_frame = len(stars) * share
            if best is None or on_frame > best[0]:
                best = (on_frame, catalog, stars)
            if on_frame >= ENOUGH_ON_FRAME:
                break
        assert best is not None
        on_frame, catalog, stars = best
        wanted = 8 * ENOUGH_ON_FRAME if detected is None else CATALOGUE_TO_DETECTED * detected
        limit = int(np.clip(wanted / share, FEWEST, MOST))
        taken = stars.mag[:limit]
        if isinstance(catalog, OnlineCatalog):
            # A hint may be half a degree off; the solver looks around in what it is given.
            # Not moved here: the region's own catalogue moves them when it is asked.
            catalog = StarsRefcat(catalog.cone(ra_deg, dec_deg, 1.5 * radius + 0.5, limit=20 * MOST))
        why = f"{on_frame:.0f} stars on the frame" + (
            "" if on_frame >= ENOUGH_ON_FRAME else ", the most there are"
        )
        return Choice(
            catalog, limit, float(taken[-1]) if len(taken) else float("nan"), stars.band, stars.catalog,
            stars.version, on_frame, why,
        )  # fmt: skip

    def for_photometry(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        band: str | None,
        *,
        limit: int | None = None,
        epoch: float | None = None,
        usable: Callable[[CatalogStars], NDArray[np.intp]] | None = None,
    ) -> CatalogStars:
        """Return the stars to tie a frame's magnitudes to.

        A catalogue that has the frame's band comes before one that has a band near it, as
        `starloom.photometry.bands` ranks them, and among equals the shallower. One with fewer than
        `ENOUGH_CALIBRATORS` in its best band serves only if none has more.

        Parameters
        ----------
        ra_deg, dec_deg, radius_deg
            Circle around the frame, degrees.
        band
            Standard band of the frame (`starloom.photometry.bands`), None or a node's own name where unknown.
        limit
            At most this many of the brightest.
        epoch
            Julian year of the exposure.
        usable
            Tells which of a catalogue's stars the frame can be tied to, by number: a bright catalogue may have
            hundreds on the frame, all of them saturated. All by default.
        """
        info = band_info(band)
        wanted = info.nearest if info is not None else ()
        ranked = sorted(self.catalogs, key=lambda catalog: _rank(_bands(catalog), band, wanted))
        best: tuple[int, CatalogStars] | None = None
        for catalog in ranked:
            stars = catalog.cone(ra_deg, dec_deg, radius_deg, limit=limit, epoch=epoch)
            calibrators = _calibrators(stars, band, wanted, slice(None) if usable is None else usable(stars))
            if calibrators >= ENOUGH_CALIBRATORS:
                return stars
            if best is None or calibrators > best[0]:
                best = (calibrators, stars)
        assert best is not None
        return best[1]


def photometry_catalog(
    refcats: Refcats,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    band: str | None,
    *,
    limit: int | None = None,
    epoch: float | None = None,
) -> CatalogStars:
    """Return the stars to tie a frame's magnitudes to; see `Refcats.for_photometry`."""
    return refcats.for_photometry(ra_deg, dec_deg, radius_deg, band, limit=limit, epoch=epoch)


def local_catalogs(folder: Path) -> list[StoreCatalog]:
    """Return the imported catalogues of a folder, by name; a damaged one is left out with a warning."""
    found = []
    for path in sorted(folder.glob("*/catalog.json")):
        if path.parent.name.startswith("."):
            continue
        try:
            found.append(StoreCatalog(path.parent))
        except BadInput as error:
            log.warning("%s; left out", error)
    return found


def _gaia(cache: Path) -> list[StoreCatalog]:
    from starloom.refcat.gaia import gaia_bright, is_installed

    if not is_installed():
        return []
    try:
        return [gaia_bright(cache)]
    except StarloomError as error:
        log.warning("%s; left out", error)
        return []


def _service(key: str, url: str | None) -> Service:
    if key not in SERVICES:
        raise BadInput(
            f"STARLOOM_REFCAT_SERVICES names {key!r}, which is no online catalogue",
            code="bad-setting",
            hint=f"Known are {', '.join(SERVICES)}.",
        )
    return replace(SERVICES[key], url=url) if url else SERVICES[key]


def _depth(catalog: Refcat) -> float:
    """Stars per square degree."""
    assert isinstance(catalog, StoreCatalog)
    return catalog.about.stars / max(catalog.about.sky_deg2, 1e-9)


def _covers_sky(catalog: Refcat) -> bool:
    return isinstance(catalog, StoreCatalog) and catalog.about.sky_deg2 > 40_000.0


def _bands(catalog: Refcat) -> Sequence[str]:
    return getattr(catalog, "bands", None) or (catalog.band,)


def _rank(bands: Sequence[str], band: str | None, nearest: Sequence[str]) -> int:
    if band in bands:
        return -1
    return min((nearest.index(name) for name in bands if name in nearest), default=len(nearest))


def _calibrators(
    stars: CatalogStars, band: str | None, nearest: Sequence[str], usable: NDArray[np.intp] | slice
) -> int:
    """How many usable stars have a magnitude in the band the catalogue serves the frame's with."""
    mags: Mapping[str, object] = stars.mags or {stars.band: stars.mag}
    name = next((one for one in (band, *nearest) if one is not None and one in mags), stars.band)
    return int(np.isfinite(np.asarray(mags[name], np.float64)[usable]).sum())


def _cap_deg2(radius_deg: float) -> float:
    return float(2 * np.pi * (1 - np.cos(np.radians(radius_deg))) * np.degrees(1.0) ** 2)
