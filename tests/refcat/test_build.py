from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.errors import BadInput
from starloom.refcat import Tycho2
from starloom.refcat.build import main, read_index


@pytest.fixture
def index(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """A three-hundred-star file laid out as astrometry.net lays out its little-endian indexes."""
    rng = np.random.default_rng(4)
    xyz = rng.normal(size=(300, 3))
    xyz /= np.linalg.norm(xyz, axis=1)[:, None]
    mag = rng.uniform(4, 12, 300)
    scale = (2**32 - 1) / 2.0
    steps = np.rint((xyz + 1.0) * scale).astype("<u4")
    box = np.array([-1.0] * 3 + [1.0] * 3 + [scale], "<f8")

    def raw(name: str, values: np.ndarray, width: int) -> fits.BinTableHDU:
        rows = np.frombuffer(values.tobytes(), np.uint8).reshape(-1, width)
        return fits.BinTableHDU.from_columns(
            [fits.Column(name, f"{width}A", array=rows.view(f"S{width}").ravel())]
        )

    path = tmp_path / "index.fits"
    tables = [
        raw("kdtree_data_stars", steps, 12),
        raw("kdtree_range_stars", box, 8),
        fits.BinTableHDU.from_columns([fits.Column("MAG_VT", "E", array=mag)]),
    ]
    # The raw tables are patched in after writing: a character column would strip trailing zero bytes.
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    with fits.open(path) as hdus:
        places = [hdus[1].fileinfo()["datLoc"], hdus[2].fileinfo()["datLoc"]]
    with path.open("r+b") as file:
        for place, values in zip(places, (steps, box), strict=True):
            file.seek(place)
            file.write(values.tobytes())
    ra = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0])) % 360
    return path, ra, np.degrees(np.arcsin(xyz[:, 2])), mag


def test_index_is_read_back(index: tuple[Path, np.ndarray, np.ndarray, np.ndarray]) -> None:
    path, ra, dec, mag = index
    found_ra, found_dec, found_mag = read_index(path)
    np.testing.assert_allclose(found_ra, ra, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found_dec, dec, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found_mag, mag, rtol=1e-6)


def test_tool_builds_a_catalogue(
    index: tuple[Path, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "catalog.bin"
    assert main([str(index[0]), str(out)]) == 0
    assert "300 of 300 stars" in capsys.readouterr().out
    catalog = Tycho2(out, sha256=None)
    assert len(catalog) == 300
    np.testing.assert_allclose(catalog.cone(0, 0, 180).mag, np.sort(index[3]), atol=0.00051)


def test_tool_refuses_another_fits_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(other)
    with pytest.raises(BadInput):
        read_index(other)
    assert main([str(other), str(tmp_path / "out.bin")]) == 1
    assert "bad-index" in capsys.readouterr().err
