from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.refcat import CatalogStars, Refcat, Tycho2, default_refcat
from starloom.refcat.provider import TYCHO2_FILE, TYCHO2_SHA256
from starloom.refcat.tiles import write_tiles


def unit(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


@pytest.fixture(scope="module")
def tycho2() -> Refcat:
    return default_refcat()


@pytest.fixture(scope="module")
def whole_sky(tycho2: Refcat) -> CatalogStars:
    return tycho2.cone(0.0, 0.0, 180.0)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    ra = np.concatenate([rng.uniform(0, 360, 5000), [0.0, 359.9999999, 180.0, 12.0]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 5000))), [0.0, 0.0, 90.0, -90.0]])
    mag = rng.uniform(2, 12, len(ra))
    path = tmp_path / "small.bin"
    write_tiles(path, ra, dec, mag, epoch=2016.0, attribution="made up", bands=36)
    return path, ra, dec, mag


def test_the_shipped_file_is_whole(whole_sky: CatalogStars) -> None:
    assert hashlib.sha256(TYCHO2_FILE.read_bytes()).hexdigest() == TYCHO2_SHA256
    assert len(whole_sky) == 1_871_011
    assert (whole_sky.band, whole_sky.catalog, whole_sky.epoch) == ("VT", "Tycho-2", 2000.0)
    assert TYCHO2_SHA256 in (TYCHO2_FILE.parent / "README.md").read_text(encoding="utf-8")


def test_known_star(tycho2: Refcat) -> None:
    # HD 209458, VT 7.70; moved by less than 0.1″ between J2000 and its catalogue position.
    found = tycho2.cone(330.79489, 18.88432, 3 / 3600)
    assert len(found) == 1
    assert found.mag[0] == pytest.approx(7.70, abs=0.03)


@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [
        (83.8, -5.4, 0.5),
        (0.0, 0.0, 1.0),
        (0.001, 20.0, 1.3),
        (359.999, -35.0, 2.0),
        (-0.2, 12.0, 0.7),
        (123.0, 89.7, 1.0),
        (10.0, 90.0, 1.5),
        (300.0, -90.0, 2.0),
        (200.0, -89.0, 1.0),
        (45.0, 88.5, 1.6),
        (290.0, 20.0, 15.0),
    ],
)
def test_cone_equals_brute_force(
    tycho2: Refcat, whole_sky: CatalogStars, ra: float, dec: float, radius: float
) -> None:
    found = tycho2.cone(ra, dec, radius)
    cosine = unit(whole_sky.ra_deg, whole_sky.dec_deg) @ unit(np.array(ra), np.array(dec))
    inside = cosine >= np.cos(np.radians(radius))
    assert len(found) == inside.sum() > 0
    np.testing.assert_array_equal(np.sort(found.ra_deg), np.sort(whole_sky.ra_deg[inside]))
    assert np.all(np.diff(found.mag) >= 0)


def test_random_cones_equal_brute_force(small: tuple[Path, np.ndarray, np.ndarray, np.ndarray]) -> None:
    path, ra, dec, _ = small
    catalog = Tycho2(path, sha256=None)
    vectors = unit(ra, dec)
    rng = np.random.default_rng(5)
    for _ in range(100):
        ra0, dec0, radius = (
            rng.uniform(-360, 720),
            np.degrees(np.arcsin(rng.uniform(-1, 1))),
            rng.uniform(0, 120),
        )
        expected = int((vectors @ unit(np.array(ra0), np.array(dec0)) >= np.cos(np.radians(radius))).sum())
        assert len(catalog.cone(ra0, dec0, radius)) == expected, (ra0, dec0, radius)


def test_star_that_rounds_to_360_degrees_is_found_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "edge.bin"
    write_tiles(path, np.array([359.99999999]), np.array([0.5]), np.array([5.0]), epoch=2000.0, attribution="edge")
    catalog = Tycho2(path, sha256=None)
    assert len(catalog.cone(0.1, 0.5, 0.2)) == 1
    assert len(catalog.cone(359.9, 0.5, 0.2)) == 1


def test_solver_sees_the_same_stars(tycho2: Refcat) -> None:
    found = tycho2.cone(290.0, 20.0, 1.0)
    seen = np.array(tycho2.seiza().cone_search(290.0, 20.0, 1.0, limit=10_000))
    assert tycho2.seiza().star_count() == 1_871_011
    assert len(seen) == len(found)
    np.testing.assert_allclose(np.sort(seen[:, 0]), np.sort(found.ra_deg), rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.sort(seen[:, 2]), found.mag, rtol=0, atol=1e-5)


def test_round_trip_keeps_positions_and_magnitudes(
    small: tuple[Path, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    path, ra, dec, mag = small
    catalog = Tycho2(path, sha256=None)
    found = catalog.cone(77.0, 0.0, 180.0)
    assert (len(catalog), found.epoch) == (len(ra), 2016.0)
    np.testing.assert_allclose(found.mag, np.sort(mag), rtol=0, atol=0.0005001)
    np.testing.assert_allclose(np.sort(found.dec_deg), np.sort(dec), rtol=0, atol=3e-8)


def test_limit_keeps_the_brightest(tycho2: Refcat) -> None:
    everything = tycho2.cone(100.0, 10.0, 2.0)
    some = tycho2.cone(100.0, 10.0, 2.0, limit=7)
    assert len(some) == 7
    np.testing.assert_array_equal(some.mag, everything.mag[:7])
    assert len(tycho2.cone(100.0, 10.0, 0.0)) == 0


def test_write_is_deterministic(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ra, dec, mag = rng.uniform(0, 360, 400), rng.uniform(-90, 90, 400), rng.uniform(3, 9, 400)
    shuffled = rng.permutation(400)
    write_tiles(tmp_path / "a", ra, dec, mag, epoch=2000.0, attribution="x")
    write_tiles(tmp_path / "b", ra[shuffled], dec[shuffled], mag[shuffled], epoch=2000.0, attribution="x")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["absent", "empty", "short", "foreign", "flipped"])
def test_damaged_file_is_refused(small: tuple[Path, np.ndarray, np.ndarray, np.ndarray], damage: str) -> None:
    path = small[0]
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest() if damage == "flipped" else None
    match damage:
        case "absent":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "short":
            path.write_bytes(content[:-1000])
        case "foreign":
            path.write_bytes(b"SIMPLE  =" + content[9:])
        case "flipped":
            path.write_bytes(content[:-900] + bytes([content[-900] ^ 1]) + content[-899:])
    with pytest.raises(BadInput) as caught:
        Tycho2(path, sha256=digest)
    assert caught.value.code == "refcat-missing"
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cone", [(0, 91, 1), (0, 0, -1), (0, 0, 181), (float("nan"), 0, 1), (0, float("nan"), 1)])
def test_impossible_cone_is_refused(tycho2: Refcat, cone: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput) as caught:
        tycho2.cone(*cone)
    assert caught.value.code == "bad-cone"


def test_stars_travel_between_processes(tycho2: Refcat) -> None:
    found = tycho2.cone(10.0, 10.0, 1.0)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.mag, found.mag)
