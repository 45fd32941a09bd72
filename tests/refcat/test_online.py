from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from starloom.errors import StarloomError
from starloom.refcat import CatalogStars, StarsRefcat
from starloom.refcat.online import FIRST_PAUSE_S, OnlineCatalog, circle_around, circles, touches
from starloom.refcat.services import APASS_DR9, GAIA_DR3, PANSTARRS_DR2, SERVICES, Service
from starloom.refcat.store import tiles_near
from starloom.refcat.tap import adql, fetch
from tests.refcat.conftest import separation
from tests.refcat.tap_server import Tap, tap_server

pytest.importorskip("pyvo")

HERE = (359.95, 31.0)


def gaia_table(n: int = 4000, seed: int = 1) -> Table:
    """Stars within 3 degrees of HERE, in the columns of Gaia's archive."""
    rng = np.random.default_rng(seed)
    dec = HERE[1] + rng.uniform(-3, 3, n)
    mag = rng.permutation(np.linspace(5, 18, n))
    return Table(
        {
            "ra": (HERE[0] + rng.uniform(-4, 4, n)) % 360,
            "dec": dec,
            "ra_error": np.full(n, 0.03),
            "dec_error": np.full(n, 0.04),
            "pmra": np.where(rng.random(n) < 0.05, np.nan, rng.normal(0, 20, n)),
            "pmdec": rng.normal(0, 20, n),
            "pmra_error": np.full(n, 0.02),
            "pmdec_error": np.full(n, 0.02),
            "phot_g_mean_mag": mag,
            "phot_bp_mean_mag": mag + 0.4,
            "phot_rp_mean_mag": np.where(rng.random(n) < 0.1, np.nan, mag - 0.5),
            "phot_g_mean_flux_over_error": np.full(n, 1000.0),
            "phot_bp_mean_flux_over_error": np.full(n, 100.0),
            "phot_rp_mean_flux_over_error": np.full(n, 100.0),
        }
    )


@pytest.fixture
def tap() -> Iterator[Tap]:
    with tap_server(gaia_table()) as running:
        yield running


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def few_stars() -> StarsRefcat:
    mag = np.array([5.0, 6.0])
    return StarsRefcat(
        CatalogStars(np.array([359.9, 0.1]), np.array([31.0, 31.1]), mag, "VT", "Tycho-2", 2000.0, "own")
    )


def catalog(
    tap: Tap, folder: Path, clock: Clock | None = None, timeout_s: float = 20.0, **changes: object
) -> OnlineCatalog:
    service = replace(GAIA_DR3, url=tap.url, **changes)  # type: ignore[arg-type]
    return OnlineCatalog(service, folder, few_stars(), timeout_s=timeout_s, clock=clock or Clock())


def test_cone_holds_what_the_service_has(tap: Tap, tmp_path: Path) -> None:
    found = catalog(tap, tmp_path).cone(*HERE, 0.9)
    table = tap.table[np.asarray(tap.table["phot_g_mean_mag"]) < 17.0]
    inside = separation(np.asarray(table["ra"]), np.asarray(table["dec"]), *HERE) < 0.9
    assert len(found) == inside.sum() > 100
    np.testing.assert_allclose(found.mag, np.sort(table["phot_g_mean_mag"][inside]))
    np.testing.assert_allclose(found.mags["BP"], found.mag + 0.4)
    np.testing.assert_allclose(found.mag_errs["G"], 2.5 / np.log(10) / 1000, rtol=1e-6)
    assert found.position_err_arcsec is not None
    np.testing.assert_allclose(found.position_err_arcsec, np.hypot(0.03, 0.04) / np.sqrt(2) / 1000)
    assert (found.catalog, found.version, found.band, found.epoch) == ("Gaia", "DR3", "G", 2016.0)


def test_stars_move_to_the_epoch(tap: Tap, tmp_path: Path) -> None:
    found = catalog(tap, tmp_path).cone(*HERE, 0.9, epoch=2036.0, limit=50)
    assert len(found) == 50
    assert found.epoch == 2036.0
    row = tap.table[int(np.argmin(np.abs(tap.table["phot_g_mean_mag"] - found.mag[3])))]
    assert found.dec_deg[3] == pytest.approx(row["dec"] + 20 * row["pmdec"] / 3.6e6, abs=1e-8)
    assert found.pm_ra_masyr is not None
    assert found.position_err_arcsec is not None
    still = ~np.isfinite(found.pm_ra_masyr)
    assert found.position_err_arcsec[still].min() > 100 * found.position_err_arcsec[~still].max()


def test_a_cell_is_fetched_once_for_ever(tap: Tap, tmp_path: Path) -> None:
    first = catalog(tap, tmp_path).cone(*HERE, 0.4)
    asked = len(tap.queries)
    assert 1 <= asked <= 4
    one = catalog(tap, tmp_path)
    again = one.cone(*HERE, 0.4)
    assert len(one.cone(*HERE, 0.3)) < len(again) == len(first)
    assert len(tap.queries) == asked
    tap.mode = "503"
    np.testing.assert_array_equal(catalog(tap, tmp_path).cone(*HERE, 0.4).ra_deg, first.ra_deg)


def test_a_full_cell_is_cut_at_the_faint_end(tap: Tap, tmp_path: Path) -> None:
    import json

    import pyarrow.parquet as pq

    found = catalog(tap, tmp_path, max_rows=60).cone(*HERE, 0.5)
    cell = next(tmp_path.rglob("*.parquet"))
    said = json.loads(pq.read_schema(cell).metadata[b"starloom"])
    assert said["complete_to"] < 17.0
    assert "CC BY-SA" in said["licence"]
    assert 0 < len(found) < 240
    assert found.mag.max() < 17.0


@pytest.mark.parametrize(
    "mode", ["503", "html", "truncated", "cut-off", "refusing", "empty", "missing-column", "silent", "dribble"]
)
def test_a_bad_service_costs_one_query_and_the_local_catalogue_answers(
    tap: Tap, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    tap.mode = mode
    clock = Clock()
    online = catalog(tap, tmp_path, clock, timeout_s=0.3 if mode in ("silent", "dribble") else 20.0)
    with caplog.at_level(logging.WARNING):
        found = online.cone(*HERE, 0.5)
    assert (found.catalog, found.version, len(found)) == ("Tycho-2", "own", 2)
    assert "Tycho-2 answers instead" in caplog.text
    # Other frames, other processes: nobody asks again before its time.
    for _ in range(5):
        assert catalog(tap, tmp_path, clock).cone(10.0, -40.0, 0.5).catalog == "Tycho-2"
    assert len(tap.queries) == 1
    assert online.outage is not None
    assert online.outage.failures == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_service_that_is_back_is_asked_again(tap: Tap, tmp_path: Path) -> None:
    clock = Clock()
    online = catalog(tap, tmp_path, clock)
    tap.mode = "503"
    online.cone(*HERE, 0.3)
    clock.now += FIRST_PAUSE_S + 1
    online.cone(*HERE, 0.3)
    assert len(tap.queries) == 2
    clock.now += FIRST_PAUSE_S + 1
    online.cone(*HERE, 0.3)
    assert len(tap.queries) == 2, "the second pause is twice as long"
    clock.now += FIRST_PAUSE_S
    tap.mode = "well"
    assert online.cone(*HERE, 0.3).catalog == "Gaia"
    assert online.outage is None


def test_nothing_listens_there(tmp_path: Path) -> None:
    online = OnlineCatalog(replace(GAIA_DR3, url="http://127.0.0.1:9/tap"), tmp_path, few_stars(), timeout_s=5)
    assert online.cone(*HERE, 0.3).catalog == "Tycho-2"
    assert online.outage is not None


def test_damaged_cells_are_fetched_again(tap: Tap, tmp_path: Path) -> None:
    first = catalog(tap, tmp_path).cone(*HERE, 0.3)
    asked = len(tap.queries)
    for cell in tmp_path.rglob("*.parquet"):
        cell.write_bytes(cell.read_bytes()[:-40])
    assert len(catalog(tap, tmp_path).cone(*HERE, 0.3)) == len(first)
    assert len(tap.queries) == 2 * asked


def test_a_cache_that_cannot_be_written_costs_the_service_only(tap: Tap, tmp_path: Path) -> None:
    (tmp_path / "gaia").write_text("in the way of a folder")
    assert catalog(tap, tmp_path).cone(*HERE, 0.3).catalog == "Tycho-2"


def test_beyond_the_survey_nobody_is_asked(tap: Tap, tmp_path: Path) -> None:
    assert catalog(tap, tmp_path, dec_min_deg=-30.0).cone(10.0, -50.0, 0.3).catalog == "Tycho-2"
    assert catalog(tap, tmp_path).cone(10.0, 20.0, 60.0).catalog == "Tycho-2"
    assert not tap.queries


def _one_of_many(url: str, folder: Path, place: tuple[float, float]) -> int:
    online = OnlineCatalog(replace(GAIA_DR3, url=url), folder, few_stars(), timeout_s=30)
    return len(online.cone(*place, 0.2))


def test_several_processes_fetch_a_cell_once(tap: Tap, tmp_path: Path) -> None:
    ra, dec, _ = circle_around(GAIA_DR3.nside, 4000)
    tap.table["ra"] = (tap.table["ra"] - HERE[0] + ra) % 360
    tap.table["dec"] = tap.table["dec"] - HERE[1] + dec
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        counts = pool.starmap(_one_of_many, [(tap.url, tmp_path, (ra, dec))] * 3)
    assert len(set(counts)) == 1
    assert counts[0] > 0
    assert len(tap.queries) == 1


def test_cells_that_a_circle_touches_and_no_others() -> None:
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    rng = np.random.default_rng(4)
    for ra0, dec0, radius in ((10.0, 41.0, 0.5), (359.99, 0.0, 1.4), (77.0, 89.2, 1.0), (200.0, -66.0, 0.05)):
        dec = np.clip(dec0 + radius * rng.uniform(-1, 1, 20_000), -90, 90)
        ra = (ra0 + radius * rng.uniform(-1, 1, 20_000) / np.cos(np.radians(dec))) % 360
        if dec0 > 85:
            ra = rng.uniform(0, 360, 20_000)
        near = separation(ra, dec, ra0, dec0) < radius
        held = set(np.unique(lonlat_to_healpix(ra[near] * u.deg, dec[near] * u.deg, 32, order="nested")).tolist())
        said = {
            cell for cell in tiles_near(32, ra0, dec0, radius + 4).tolist() if touches(32, cell, ra0, dec0, radius)
        }
        assert held <= said
        assert len(said) <= len(held) + 2


@pytest.mark.parametrize("cell", [0, 4000, 12 * 256**2 - 1, 256**2 - 1, 255])
def test_circles_cover_their_cell(cell: int) -> None:
    from astropy import units as u
    from astropy_healpix import healpix_to_lonlat

    rng = np.random.default_rng(2)
    lon, lat = healpix_to_lonlat(np.full(500, cell), 256, rng.random(500), rng.random(500), order="nested")
    covered = np.zeros(500, bool)
    for ra, dec, radius in circles(256, cell, PANSTARRS_DR2.max_radius_deg):
        assert radius <= PANSTARRS_DR2.max_radius_deg
        covered |= separation(lon.to_value(u.deg), lat.to_value(u.deg), ra, dec) <= radius
    assert covered.all()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_service_is_asked_for_what_it_says_it_has(service: Service) -> None:
    columns = {expression.strip('"') for expression in service.columns.values()}
    rng = np.random.default_rng(3)
    table = Table({name: rng.uniform(1, 2, 200) for name in columns})
    table[service.columns["ra"]] = rng.uniform(10.0, 10.2, 200)
    table[service.columns["dec"]] = rng.uniform(20.0, 20.2, 200)
    mag = service.columns[f"mag_{service.band}"].strip('"')
    table[mag] = np.where(np.arange(200) < 50, -999.0, 12.0)
    with tap_server(table) as tap:
        found, more = fetch(replace(service, url=tap.url), 10.1, 20.1, 0.24, timeout_s=20)
    assert len(found) == 150
    assert not more
    assert set(found.mags) == set(service.bands)
    assert service.table in tap.queries[0]


def test_bands_that_differ_by_case_are_asked_for_under_two_names() -> None:
    service = replace(APASS_DR9, columns={**APASS_DR9.columns, "mag_R": "Rmag"}, bands=("V", "r", "R"))
    query = adql(service, 1.0, 2.0, 0.1)
    labels = [text.split(" AS ")[1].lower() for text in query.split(" FROM ")[0].split(", ")]
    assert len(labels) == len(set(labels))


def test_without_pyvo_the_remedy_is_said(tap: Tap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyvo", None)
    with pytest.raises(StarloomError) as caught:
        catalog(tap, tmp_path).cone(*HERE, 0.3)
    assert caught.value.code == "extra-missing"
    assert "starloom[online]" in caught.value.hint
