from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.refcat import shipped
from starloom.refcat.build import main, pack_stars, read_catalogue
from starloom.refcat.motion import usual_motion_masyr

# Lines of CDS I/259, as they are: an ordinary star, a fast one, one without mean position (its line is our own).
ORDINARY = (
    "0001 00008 1| |  2.31750494|  2.23184345|  -16.3|   -9.0| 68| 73| 1.7| 1.8|1958.89|1951.94| 4|1.0|1.0|0.9|1.0|"  # noqa: E501
    "12.146|0.158|12.146|0.223|999| |         |  2.31754222|  2.23186444|1.67|1.54| 88.0|100.8| |-0.2"
)
SECOND = (
    "0001 00013 1| |  1.12558209|  2.26739400|   27.7|   -0.5|  9| 12| 1.2| 1.2|1990.76|1989.25| 8|1.0|0.8|1.0|0.7|"  # noqa: E501
    "10.488|0.038| 8.670|0.015|999|T|         |  1.12551889|  2.26739556|1.81|1.52|  9.3| 12.7| |-0.2"
)
FAST = (
    SECOND.replace("0001 00013", "0001 00014")
    .replace("  1.12558209", " 91.12558209")
    .replace("   27.7", " -798.6")
)
FAST = FAST.replace("   -0.5", "10328.1")
SEEN = (
    "0001 00020 1|X|            |            |       |       |   |   |    |    |       |       |  |   |   |   |   |"  # noqa: E501
    "11.500|0.100|11.000|0.080| 20| |         |  3.50000000| -2.50000000|1.67|1.54| 50.0| 50.0| |-0.2"
)
SUPPLEMENT = [
    "0002 00580 1|T|003.03708871|+01.57351477|       |       | 42.9| 39.5|     |     | |11.688|0.122|11.171|0.121|999|T|       ",  # noqa: E501
    "3105 02070 1|H|279.23410832|+38.78299311|  201.0|  287.5|  0.5|  0.5|  0.6|  0.6|H|      |     | 0.087|0.002|999| | 91262 ",  # noqa: E501
]  # fmt: skip


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "tyc2.dat.00").write_text("".join(line + "\n" for line in (ORDINARY, SECOND)))
    (tmp_path / "tyc2.dat.01").write_text("".join(line + "\n" for line in (FAST, SEEN)))
    (tmp_path / "suppl_1.dat").write_text("".join(line + "\n" for line in SUPPLEMENT))
    return tmp_path


def test_the_catalogue_is_read_as_its_description_says(catalogue: Path) -> None:
    stars = read_catalogue(catalogue)
    np.testing.assert_allclose(stars["ra"][:5], [2.31750494, 1.12558209, 91.12558209, 3.5, 3.03708871], atol=1e-9)
    np.testing.assert_allclose(stars["pm_dec"][:3], [-9.0, -0.5, 10328.1])
    np.testing.assert_allclose(stars["bt"], [12.146, 10.488, 10.488, 11.5, 11.688, np.nan])
    np.testing.assert_allclose(stars["vt_err"], [0.223, 0.015, 0.015, 0.08, 0.121, 0.002])
    # 68 mas and 73 mas in 1958.89 and 1951.94, then 1.7 and 1.8 mas a year until 2020.
    expected = np.hypot(np.hypot(68, 1.7 * 61.11), np.hypot(73, 1.8 * 68.06)) / np.sqrt(2)
    assert stars["err"][0] == pytest.approx(expected, rel=1e-6)
    assert stars["err"][3] == pytest.approx(
        np.hypot(50.0, 8.5 * usual_motion_masyr(np.array([11.0]))[0]), rel=1e-6
    )
    # Vega, brought from 1991.25 to 2000.
    assert stars["ra"][5] == pytest.approx(279.234735, abs=2e-6)
    assert stars["dec"][5] == pytest.approx(38.783692, abs=2e-6)


def test_what_is_packed_comes_back_to_the_stated_rounding(catalogue: Path) -> None:
    stars = read_catalogue(catalogue)
    # Without VT a star cannot be ranked, and is left out; at the pole and at 0 h all must be as elsewhere.
    stars = {name: np.append(column, column[[0, 0, 0]]) for name, column in stars.items()}
    stars["ra"][-3:], stars["dec"][-3:] = [0.0, 359.9999999, 12.0], [0.0, 45.0, -90.0]
    stars["vt"][-1] = np.nan
    rows = shipped.unpack(pack_stars(stars))
    stars = {name: column[:-1] for name, column in stars.items()}
    assert len(rows) == 8
    match = [int(np.argmin(np.hypot((rows.ra_deg - ra + 180) % 360 - 180, rows.dec_deg - dec))) for ra, dec in zip(
        stars["ra"], stars["dec"], strict=True)]  # fmt: skip
    assert sorted(match) == list(range(8))
    assert rows.pm_ra_masyr is not None
    assert rows.pm_dec_masyr is not None
    assert rows.pm_err_masyr is not None
    turned = (rows.ra_deg[match] - stars["ra"] + 180) % 360 - 180
    np.testing.assert_allclose(turned * np.cos(np.radians(stars["dec"])), 0, atol=0.011 / 3600)
    np.testing.assert_allclose(rows.dec_deg[match], stars["dec"], rtol=0, atol=0.011 / 3600)
    np.testing.assert_allclose(rows.pm_ra_masyr[match], stars["pm_ra"], rtol=0, atol=1.0)
    np.testing.assert_allclose(rows.pm_dec_masyr[match], stars["pm_dec"], rtol=0, atol=1.0)
    np.testing.assert_allclose(rows.pm_err_masyr[match], stars["pm_err"], rtol=0.1)
    np.testing.assert_allclose(rows.mags["VT"][match], stars["vt"], rtol=0, atol=0.0051)
    np.testing.assert_allclose(rows.mags["BT"][match], stars["bt"], rtol=0, atol=0.051)
    np.testing.assert_allclose(rows.mag_errs["VT"][match], stars["vt_err"], rtol=0.13)


def test_the_tool_gives_the_same_bytes_again(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for name in ("one", "other"):
        assert main([str(catalogue), str(catalogue / name)]) == 0
        made.append((catalogue / name).read_bytes())
        assert hashlib.sha256(made[-1]).hexdigest() in capsys.readouterr().out
    assert made[0] == made[1]
    assert len(shipped.unpack(shipped.read_packed(catalogue / "one", hashlib.sha256(made[0]).hexdigest()))) == 6


def test_files_of_other_lines_are_refused(catalogue: Path) -> None:
    (catalogue / "tyc2.dat.01").write_text(FAST[:-1] + "\n")
    with pytest.raises(BadInput) as caught:
        read_catalogue(catalogue)
    assert caught.value.code == "bad-catalogue"
    assert "tyc2.dat.01" in str(caught.value)


def test_the_tool_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "bad-catalogue" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
