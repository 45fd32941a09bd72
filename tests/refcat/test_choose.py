from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from starloom.errors import BadInput
from starloom.refcat import CatalogStars, Refcats, StarsRefcat, photometry_catalog, tycho2
from starloom.refcat.choose import ENOUGH_ON_FRAME, FEWEST, MOST, local_catalogs
from starloom.refcat.online import OnlineCatalog
from starloom.refcat.store import About
from starloom.refcat.writing import StarRows, write_store
from starloom.settings import Settings

HERE = (200.0, 40.0)


def patch_of_sky(per_deg2: float, name: str, bands: tuple[str, ...], seed: int = 1) -> StarsRefcat:
    """Stars within some 3 degrees of HERE."""
    rng = np.random.default_rng(seed)
    n = int(per_deg2 * 36)
    dec = HERE[1] + rng.uniform(-3, 3, n)
    ra = HERE[0] + rng.uniform(-3, 3, n) / np.cos(np.radians(dec))
    mag = rng.uniform(8, 18, n)
    return StarsRefcat(CatalogStars(ra, dec, mag, bands[0], name, 2016.0, "1", dict.fromkeys(bands, mag)))


def test_a_wide_frame_is_served_by_what_ships() -> None:
    deep = patch_of_sky(1000, "deep", ("G",))
    choice = Refcats([deep], shipped=patch_of_sky(50, "shallow", ("VT",))).for_solving(*HERE, 2.0, 1.5)
    assert choice.catalog == "shallow"
    assert choice.on_frame == pytest.approx(150, rel=0.2)


def test_a_narrow_frame_is_served_by_the_first_that_is_deep_enough() -> None:
    middle, deep = patch_of_sky(1000, "middle", ("G",)), patch_of_sky(20_000, "deep", ("r",))
    refcats = Refcats([middle, deep], shipped=patch_of_sky(50, "shallow", ("VT",)))
    assert refcats.for_solving(*HERE, 0.4).catalog == "middle"
    choice = refcats.for_solving(*HERE, 0.1)
    assert (choice.catalog, choice.band) == ("deep", "r")
    assert FEWEST <= choice.limit <= MOST


def test_where_none_is_deep_enough_the_deepest_serves() -> None:
    refcats = Refcats([patch_of_sky(300, "middle", ("G",))], shipped=patch_of_sky(50, "shallow", ("VT",)))
    choice = refcats.for_solving(*HERE, 0.2)
    assert choice.catalog == "middle"
    assert choice.on_frame < ENOUGH_ON_FRAME
    assert "the most there are" in choice.why


def test_the_depth_follows_what_was_detected() -> None:
    refcats = Refcats(shipped=patch_of_sky(5000, "dense", ("G",)))
    few, many = (refcats.for_solving(*HERE, 1.0, detected=n) for n in (150, 1500))
    assert few.limit < many.limit <= MOST
    # As many again as were detected, over the circle around the frame.
    assert few.limit == pytest.approx(2 * 150 * np.pi / 2, rel=0.05)
    assert few.faintest_mag < many.faintest_mag
    inside = refcats.shipped.cone(*HERE, 0.5 * np.sqrt(2), limit=few.limit)
    assert inside.mag.max() == pytest.approx(few.faintest_mag)


def test_no_catalogue_has_a_star() -> None:
    choice = Refcats(shipped=patch_of_sky(50, "far", ("VT",))).for_solving(20.0, -40.0, 1.0)
    assert np.isnan(choice.faintest_mag)
    assert choice.on_frame == 0


def test_photometry_prefers_the_frames_band() -> None:
    shipped, gaia = patch_of_sky(60, "Tycho-2", ("VT", "BT")), patch_of_sky(500, "Gaia", ("G", "BP", "RP"))
    ps1 = patch_of_sky(900, "PS1", ("r", "g", "i"))
    refcats = Refcats([gaia, ps1], shipped=shipped)

    def used(band: str | None) -> str:
        return photometry_catalog(refcats, *HERE, 0.5, band).catalog

    assert used("r") == "PS1"
    assert used("V") == "Tycho-2"
    assert used("Clear") == "Gaia"
    assert used("B") == "Tycho-2"
    # Unknown filters get what ships.
    assert used(None) == used("T42:Filter 2") == "Tycho-2"


def test_photometry_passes_over_a_catalogue_without_calibrators_there() -> None:
    far = patch_of_sky(500, "own band, elsewhere", ("r",))
    near = patch_of_sky(60, "Tycho-2", ("VT", "BT"))
    moved = StarsRefcat(
        CatalogStars(
            far.stars.ra_deg + 90, far.stars.dec_deg, far.stars.mag, "r", far.catalog, 2016.0, "1", far.stars.mags
        )
    )
    assert Refcats([moved], shipped=near).for_photometry(*HERE, 0.5, "r").catalog == "Tycho-2"
    assert len(Refcats([moved], shipped=near).for_photometry(*HERE, 0.5, "r", limit=5)) == 5


def test_a_band_full_of_holes_is_no_band() -> None:
    holes = patch_of_sky(500, "holes", ("G", "r"))
    mags = {"G": holes.stars.mag, "r": np.full(len(holes), np.nan)}
    stars = CatalogStars(holes.stars.ra_deg, holes.stars.dec_deg, holes.stars.mag, "G", "holes", 2016.0, "1", mags)
    refcats = Refcats([StarsRefcat(stars)], shipped=patch_of_sky(60, "Tycho-2", ("VT",)))
    assert refcats.for_photometry(*HERE, 0.5, "r").catalog == "Tycho-2"


def test_a_catalogue_whose_stars_are_all_saturated_gives_way_to_a_deeper_one() -> None:
    shipped, deep = patch_of_sky(60, "Tycho-2", ("VT",)), patch_of_sky(900, "deep", ("r",))
    refcats = Refcats([deep], shipped=shipped)
    assert refcats.for_photometry(*HERE, 0.5, "V").catalog == "Tycho-2"

    def unsaturated(stars: CatalogStars) -> np.ndarray:
        return np.flatnonzero(stars.mag > 16.5)

    assert len(unsaturated(shipped.cone(*HERE, 0.5))) < 10
    assert refcats.for_photometry(*HERE, 0.5, "V", usable=unsaturated).catalog == "deep"


def test_settings_open_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(home=tmp_path)
    for name, n in (("mine", 50), ("dense", 5000), ("broken", 5)):
        rng = np.random.default_rng(n)
        rows = StarRows(rng.uniform(199, 201, n), rng.uniform(39, 41, n), {"r": rng.uniform(8, 15, n)})
        about = About(name, "1", "CC0-1.0", "test", 2016.0, 2016.0, "r", ("r",))
        write_store(settings.refcat_dir / name, about, [rows])
    (settings.refcat_dir / "broken" / "ra.npy").unlink()
    found = Refcats.from_settings(settings)
    names = [catalog.catalog for catalog in found.catalogs if catalog.catalog != "Gaia"]
    assert names == ["Tycho-2", "mine", "dense"]
    assert "broken" in caplog.text
    assert found.shipped is tycho2(settings.refcat_cache)
    assert len(local_catalogs(tmp_path / "nowhere")) == 0
    assert not any(isinstance(catalog, OnlineCatalog) for catalog in found.catalogs)


def test_online_is_for_production_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Settings(home=tmp_path).refcat_online
    assert Settings(home=tmp_path, environment="production").refcat_online
    assert not Settings(home=tmp_path, environment="production", refcat_online=False).refcat_online
    monkeypatch.setenv("STARLOOM_REFCAT_ONLINE", "true")
    monkeypatch.setenv("STARLOOM_REFCAT_SERVICES", '["panstarrs", "gaia"]')
    monkeypatch.setenv("STARLOOM_REFCAT_URLS", '{"gaia": "http://127.0.0.1:1/tap"}')
    monkeypatch.setenv("STARLOOM_REFCAT_TIMEOUT_S", "7")
    settings = Settings(home=tmp_path)
    online = [
        catalog for catalog in Refcats.from_settings(settings).catalogs if isinstance(catalog, OnlineCatalog)
    ]
    assert [catalog.service.key for catalog in online] == ["panstarrs", "gaia"]
    assert online[1].service.url == "http://127.0.0.1:1/tap"
    assert online[0].timeout_s == 7
    assert online[0].fallback.catalog == "Tycho-2"


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        Refcats.from_settings(Settings(home=tmp_path, refcat_online=True, refcat_services=["simbad"]))
    assert caught.value.code == "bad-setting"
    with pytest.raises(ValidationError):
        Settings(home=tmp_path, refcat_timeout_s=0)


def test_an_online_catalogue_gives_the_solver_the_frames_region(tmp_path: Path) -> None:
    from starloom.refcat.services import GAIA_DR3

    asked = []

    def fetch(service: object, ra: float, dec: float, radius: float, *, timeout_s: float) -> tuple[StarRows, bool]:
        asked.append((ra, dec, radius))
        rng = np.random.default_rng(len(asked))
        n = 8000
        ra_, dec_ = ra + rng.uniform(-1.5, 1.5, n), np.clip(dec + rng.uniform(-1.5, 1.5, n), -90, 90)
        mag = rng.uniform(8, 16, n)
        errors = {band: np.full(n, 0.01) for band in ["G", "BP", "RP"]}
        return StarRows(ra_, dec_, dict.fromkeys(errors, mag), errors), False

    shipped = patch_of_sky(20, "Tycho-2", ("VT",))
    online = OnlineCatalog(GAIA_DR3, tmp_path, shipped, fetch=fetch)
    choice = Refcats([online], shipped=shipped).for_solving(*HERE, 0.4, epoch=2026.0)
    assert choice.catalog == "Gaia"
    assert isinstance(choice.refcat, StarsRefcat)
    assert choice.refcat.seiza().star_count() == len(choice.refcat) > ENOUGH_ON_FRAME
    stars = choice.refcat.cone(*HERE, 0.3, epoch=2026.0)
    assert stars.position_err_arcsec is not None
    # No proper motions in this one: ten years of the usual, once and not twice.
    assert 0.05 < np.median(stars.position_err_arcsec) < 0.16
