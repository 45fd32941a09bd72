from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.refcat import StoreCatalog
from starloom.refcat.store import About, tiles_near
from starloom.refcat.writing import StarRows, write_store
from tests.refcat.conftest import StoreMaker, about, separation, whole_sky

STEP = 360 / 2**32


def rows(n: int = 20_000, seed: int = 3, pm_masyr: float = 0.0) -> StarRows:
    ra, dec = whole_sky(n)
    rng = np.random.default_rng(seed)
    # No two alike, so that the order of brightness is one order.
    mag = rng.permutation(np.linspace(2, 12, len(ra)))
    b = np.where(rng.random(len(ra)) < 0.1, np.nan, mag + 0.5)
    pm = rng.normal(0, pm_masyr, (2, len(ra))) if pm_masyr else (None, None)
    pm_err = np.full(len(ra), 1.5) if pm_masyr else None
    return StarRows(
        ra, dec, {"V": mag, "B": b}, {"V": np.full(len(ra), 0.02)}, *pm, pm_err, np.full(len(ra), 40.0)
    )


@pytest.mark.parametrize("chunks", [1, 7])
@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [
        (83.8, -5.4, 3.0), (0.0, 0.0, 1.0), (-0.2, 12.0, 4.0), (720.5, 0.0, 5.0), (123.0, 89.7, 5.0),
        (10.0, 90.0, 4.0), (300.0, -90.0, 6.0), (200.0, -89.0, 1.0), (290.0, 20.0, 60.0), (12.0, 12.0, 180.0),
        (5.0, 5.0, 0.0),
    ],
)  # fmt: skip
def test_cone_holds_what_is_in_it(
    make_store: StoreMaker, ra: float, dec: float, radius: float, chunks: int
) -> None:
    given = rows()
    found = make_store(given, chunks=chunks).cone(ra, dec, radius)
    distance = separation(given.ra_deg, given.dec_deg, ra, dec)
    sure, perhaps = distance < radius - STEP, distance < radius + STEP
    assert sure.sum() <= len(found) <= perhaps.sum()
    assert (np.diff(found.mag) >= 0).all()
    if sure.sum() == perhaps.sum():
        np.testing.assert_allclose(found.mag, np.sort(given.mags["V"][sure]), atol=1e-6)
        order = np.argsort(given.mags["V"][sure])
        np.testing.assert_allclose(found.dec_deg, given.dec_deg[sure][order], atol=STEP)
        np.testing.assert_allclose(found.mags["B"], given.mags["B"][sure][order], atol=1e-6)


def test_every_tile_that_a_cone_touches_is_looked_into() -> None:
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    rng = np.random.default_rng(8)
    for nside in (8, 64):
        for _ in range(60):
            ra0, dec0 = float(rng.uniform(0, 360)), float(np.degrees(np.arcsin(rng.uniform(-1, 1))))
            radius = float(rng.uniform(0.01, 3))
            bearing = rng.uniform(0, 2 * np.pi, 500)
            dec = np.clip(dec0 + radius * np.cos(bearing), -90, 90)
            ra = ra0 + radius * np.sin(bearing) / np.cos(np.radians(dec))
            ra, dec = ra[separation(ra, dec, ra0, dec0) <= radius], dec[separation(ra, dec, ra0, dec0) <= radius]
            touched = np.unique(lonlat_to_healpix(ra % 360 * u.deg, dec * u.deg, nside, order="nested"))
            assert np.isin(touched, tiles_near(nside, ra0, dec0, radius)).all()


def test_stars_move_in_and_out_with_their_motion(make_store: StoreMaker) -> None:
    from starloom.refcat.motion import move

    given = rows(pm_masyr=4000.0)
    assert given.pm_ra_masyr is not None
    assert given.pm_dec_masyr is not None
    catalog = make_store(given, error_epoch=1990.0)
    ra, dec = move(given.ra_deg, given.dec_deg, given.pm_ra_masyr, given.pm_dec_masyr, 100.0)
    for ra0, dec0, radius in ((40.0, 30.0, 4.0), (10.0, 89.9, 5.0), (0.0, -10.0, 3.0)):
        found = catalog.cone(ra0, dec0, radius, epoch=2100.0)
        inside = separation(ra, dec, ra0, dec0) < radius
        assert len(found) == inside.sum() > 3
        np.testing.assert_allclose(np.sort(found.dec_deg), np.sort(dec[inside]), atol=1e-6)
        assert found.epoch == 2100.0
        assert found.position_err_arcsec is not None
        np.testing.assert_allclose(found.position_err_arcsec, np.hypot(0.04, 0.0015 * 110), rtol=2e-3)


def test_without_motion_the_epoch_is_the_catalogues_own(make_store: StoreMaker) -> None:
    found = make_store(rows()).cone(10, 10, 20, epoch=2026.0)
    assert found.epoch == 2000.0
    assert found.pm_ra_masyr is None
    assert found.position_err_arcsec is not None
    assert (found.position_err_arcsec > 0.25).all()


def test_limit_keeps_the_brightest(make_store: StoreMaker) -> None:
    catalog = make_store(rows())
    np.testing.assert_array_equal(catalog.cone(9, 9, 40, limit=7).mag, catalog.cone(9, 9, 40).mag[:7])


def test_solver_sees_the_same_stars(make_store: StoreMaker) -> None:
    catalog = make_store(rows())
    seen = np.array(catalog.seiza().cone_search(290.0, 20.0, 9.0, limit=10_000))
    found = catalog.cone(290.0, 20.0, 9.0)
    assert catalog.seiza().star_count() == len(catalog) == 20_004
    np.testing.assert_allclose(np.sort(seen[:, 0]), np.sort(found.ra_deg), atol=1e-9)


def test_solver_gets_the_brightest_of_too_many(make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starloom.refcat.writing.MAX_SOLVER_STARS", 5000)
    catalog = make_store(rows())
    assert 5000 <= catalog.seiza().star_count() < 5100
    faintest = max(star[2] for star in catalog.seiza().cone_search(0, 0, 180, limit=6000))
    assert faintest == pytest.approx(np.sort(catalog.cone(0, 0, 180).mag)[5000], abs=0.02)


def test_what_a_store_says_about_itself(make_store: StoreMaker) -> None:
    said = make_store(rows(pm_masyr=100.0)).about
    assert (said.stars, said.bands, said.licence) == (20_004, ("V", "B"), "CC0-1.0")
    assert said.sky_deg2 == pytest.approx(41_253, rel=0.25)
    assert said.faintest_mag == pytest.approx(11.8, abs=0.03)
    assert 300 < said.max_pm_masyr < 600


def test_dense_regions_get_small_tiles(make_store: StoreMaker) -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(10, 12, 100_000), rng.uniform(-1, 1, 100_000)
    catalog = make_store(StarRows(ra, dec, {"G": rng.uniform(8, 20, 100_000)}))
    assert catalog.about.nside == 256
    inside = separation(ra, dec, 11.0, 0.0) < 0.1
    assert len(catalog.cone(11.0, 0.0, 0.1)) == pytest.approx(inside.sum(), abs=1)
    rows_read = catalog._rows_near(11.0, 0.0, 0.1)
    assert len(rows_read) < 0.3 * len(catalog)


def test_a_store_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_store(folder, about(band="V", bands=("V", "B")), [rows(50)])

    def breaks() -> object:
        yield rows(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(folder, about(band="V", bands=("V", "B")), breaks())  # type: ignore[arg-type]
    assert len(StoreCatalog(folder)) == 54
    write_store(folder, about(band="V", bands=("V", "B")), [rows(10)], replace_existing=False)
    assert len(StoreCatalog(folder)) == 54
    write_store(folder, about(band="V", bands=("V", "B")), [rows(10)])
    assert len(StoreCatalog(folder)) == 14
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_same_stars_make_the_same_store(tmp_path: Path) -> None:
    given = rows(500)
    shuffled = given.take(np.random.default_rng(0).permutation(len(given)))
    for name, part in (("a", given), ("b", shuffled)):
        write_store(tmp_path / name, about(bands=("V", "B")), [part])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_no_stars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        write_store(tmp_path / "none", about(), [])
    assert caught.value.code == "refcat-empty"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "damage", ["absent", "no-json", "bad-json", "other-format", "short", "no-column", "counts", "no-solver"]
)
def test_damaged_store_is_refused(make_store: StoreMaker, damage: str) -> None:
    folder = make_store(rows(200)).folder
    said = folder / "catalog.json"
    match damage:
        case "absent":
            shutil.rmtree(folder)
        case "no-json":
            said.unlink()
        case "bad-json":
            said.write_text('{"format": 1, "name"')
        case "other-format":
            said.write_text(said.read_text().replace('"format": 1', '"format": 99'))
        case "short":
            (folder / "dec.npy").write_bytes((folder / "dec.npy").read_bytes()[:-200])
        case "no-column":
            (folder / "mag_B.npy").unlink()
        case "counts":
            said.write_text(json.dumps(json.loads(said.read_text()) | {"stars": 203}))
        case "no-solver":
            (folder / "seiza.bin").unlink()
    with pytest.raises(BadInput) as caught:
        StoreCatalog(folder).seiza()
    assert caught.value.code == "refcat-missing"
    assert str(folder) in str(caught.value)


def test_about_survives_its_file(tmp_path: Path) -> None:
    given = about("α", bands=("V", "B"), stars=3, nside=8)
    given.write(tmp_path)
    again = About.read(tmp_path)
    assert (again.name, again.bands, again.stars) == ("α", ("V", "B"), 3)


def test_stars_travel_between_processes(make_store: StoreMaker) -> None:
    found = make_store(rows()).cone(10.0, 10.0, 9.0)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.mag, found.mag)
