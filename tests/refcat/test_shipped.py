from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.refcat import CatalogStars, Refcat, StoreCatalog, default_refcat, shipped, tycho2
from starloom.refcat.motion import separation_deg


@pytest.fixture(scope="module")
def catalog() -> StoreCatalog:
    return tycho2()


@pytest.fixture(scope="module")
def everything(catalog: StoreCatalog) -> CatalogStars:
    return catalog.cone(0.0, 0.0, 180.0)


def test_no_configuration_is_needed() -> None:
    found: Refcat = default_refcat()
    assert found is default_refcat()
    assert (found.band, found.catalog) == ("VT", "Tycho-2")
    assert len(found.cone(83.8, -5.4, 1.0)) > 100


def test_the_shipped_file_is_what_it_was(everything: CatalogStars) -> None:
    readme = (shipped.DATA / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(shipped.TYCHO2_FILE.read_bytes()).hexdigest() == shipped.TYCHO2_SHA256
    assert shipped.TYCHO2_SHA256 in readme
    # Every clone carries it: with the sample frames they stay within 40 MB.
    assert sum(path.stat().st_size for path in shipped.DATA.iterdir()) < 21e6
    assert len(everything) == 2_557_476
    assert everything.epoch == 2000.0
    assert set(everything.mags) == {"VT", "BT"}


def test_who_is_known_and_how_well(everything: CatalogStars) -> None:
    assert everything.pm_ra_masyr is not None
    assert everything.position_err_arcsec is not None
    assert np.isfinite(everything.mag).all()
    assert np.isfinite(everything.mags["BT"]).mean() > 0.998
    assert np.isfinite(everything.pm_ra_masyr).mean() > 0.95
    assert np.isfinite(everything.position_err_arcsec).all()
    # Høg et al. 2000, table 1: 60 mas for all stars, 7 mas and 0.013 mag for VT < 9; 0.10 mag for all.
    assert np.median(everything.position_err_arcsec) == pytest.approx(0.060, abs=0.015)
    bright = everything.mag < 9.0
    assert np.median(everything.mag_errs["VT"][bright]) == pytest.approx(0.013, abs=0.004)
    assert np.median(everything.mag_errs["VT"]) == pytest.approx(0.10, abs=0.02)


def test_the_catalogues_stars_are_not_in_it_twice(everything: CatalogStars) -> None:
    """A star that two parts of the catalogue had would show as a pair of one magnitude, an arcsecond apart."""
    from scipy.spatial import cKDTree

    near = separation_deg(everything.ra_deg, everything.dec_deg, 290.0, 20.0) < 8.0
    ra, dec = np.radians(everything.ra_deg[near]), np.radians(everything.dec_deg[near])
    xyz = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    pairs = cKDTree(xyz).query_pairs(np.radians(1.5 / 3600), output_type="ndarray")
    mag = everything.mag[near]
    alike = np.abs(mag[pairs[:, 0]] - mag[pairs[:, 1]]) < 0.02
    assert alike.sum() < 5
    assert near.sum() > 15_000


# ICRS at J2000 and proper motion (mas a year) from Hipparcos, van Leeuwen 2007; BT and VT from Tycho-2 (I/259).
KNOWN = [
    ("Barnard's star", 269.452072, 4.693391, -798.58, 10328.12, 11.67, 9.75, 0.5),
    ("Vega", 279.234735, 38.783689, 200.94, 286.23, None, 0.087, 0.05),
    ("Arcturus", 213.915300, 19.182410, -1093.39, -2000.06, None, 0.161, 0.05),
    ("HD 209458", 330.794887, 18.884319, 28.90, -18.37, 8.374, 7.703, 0.1),
    ("51 Pegasi", 344.366585, 20.768833, 207.25, 60.34, None, 5.53, 0.1),
]


@pytest.mark.parametrize(("name", "ra", "dec", "pm_ra", "pm_dec", "bt", "vt", "within"), KNOWN)
def test_known_stars(
    catalog: StoreCatalog, name: str, ra: float, dec: float, pm_ra: float, pm_dec: float, bt: float | None,
    vt: float, within: float,
) -> None:  # fmt: skip
    found = catalog.cone(ra, dec, 3 / 3600, limit=1)
    assert len(found) == 1, name
    assert found.pm_ra_masyr is not None
    assert found.pm_dec_masyr is not None
    assert separation_deg(found.ra_deg, found.dec_deg, ra, dec)[0] * 3600 < within
    assert found.pm_ra_masyr[0] == pytest.approx(pm_ra, abs=15 if abs(pm_ra) < 500 else 60)
    assert found.pm_dec_masyr[0] == pytest.approx(pm_dec, abs=15 if abs(pm_dec) < 500 else 60)
    assert found.mag[0] == pytest.approx(vt, abs=0.15)
    if bt is not None:
        assert found.mags["BT"][0] == pytest.approx(bt, abs=0.2)


def test_barnards_star_is_where_it_was_seen_in_2016(catalog: StoreCatalog) -> None:
    # Gaia DR3 4472832130942575872, epoch 2016.0.
    found = catalog.cone(269.4485025, 4.7394200, 3.0 / 3600, epoch=2016.0, limit=1)
    assert len(found) == 1
    # Tycho-2 itself has it 0.4 arcsec off in 2000, and 51 mas a year too slow.
    assert separation_deg(found.ra_deg, found.dec_deg, 269.4485025, 4.7394200)[0] * 3600 < 2.0
    assert len(catalog.cone(269.4485025, 4.7394200, 20 / 3600)) == 0


def test_errors_grow_with_the_years(catalog: StoreCatalog) -> None:
    then, now = catalog.cone(200, 40, 6), catalog.cone(200, 40, 6, epoch=2026.0)
    assert then.position_err_arcsec is not None
    assert now.position_err_arcsec is not None
    assert np.median(now.position_err_arcsec) == pytest.approx(0.12, abs=0.03)
    assert np.median(now.position_err_arcsec) > 1.5 * np.median(then.position_err_arcsec)
    assert now.pm_ra_masyr is not None
    unmoved = ~np.isfinite(now.pm_ra_masyr)
    assert np.median(now.position_err_arcsec[unmoved]) > 0.28


def test_the_store_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(shipped, "unpack", lambda packed: made.append(len(packed["colour"])) or _few())
    first = tycho2.__wrapped__(tmp_path)
    second = tycho2.__wrapped__(tmp_path)
    assert made == [2_557_476]
    assert first.folder == second.folder
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_a_read_only_home_costs_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shipped, "unpack", lambda packed: _few())
    (tmp_path / "file").write_text("in the way of a folder")
    with caplog.at_level(logging.WARNING):
        found = tycho2.__wrapped__(tmp_path / "file" / "cache")
    assert len(found) == 3
    assert "kept in" in caplog.text


@pytest.mark.parametrize("damage", ["absent", "flipped"])
def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    copy = tmp_path / "tycho2.npz.xz"
    if damage == "flipped":
        content = bytearray(shipped.TYCHO2_FILE.read_bytes())
        content[len(content) // 2] ^= 1
        copy.write_bytes(content)
    monkeypatch.setattr(shipped, "TYCHO2_FILE", copy)
    with pytest.raises(BadInput) as caught:
        tycho2.__wrapped__(tmp_path / "cache")
    assert caught.value.code == "refcat-missing"
    assert str(copy) in str(caught.value)


def _few() -> object:
    from starloom.refcat.writing import StarRows

    mag = np.array([5.0, 6.0, 7.0])
    return StarRows(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]), {"VT": mag, "BT": mag})
