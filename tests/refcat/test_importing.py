from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starloom.errors import BadInput, StarloomError
from starloom.refcat import StoreCatalog
from starloom.refcat.columns import map_columns
from starloom.refcat.importing import ImportOptions, import_catalog


def table(n: int = 3000) -> Table:
    """In the names and units of Gaia's archive."""
    rng = np.random.default_rng(9)
    mag = rng.permutation(np.linspace(4, 19, n))
    return Table(
        {
            "source_id": np.arange(n),
            "ref_epoch": np.full(n, 2016.0) * u.yr,
            "ra": rng.uniform(0, 360, n) * u.deg,
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))) * u.deg,
            "ra_error": np.full(n, 0.03) * u.mas,
            "dec_error": np.full(n, 0.03) * u.mas,
            "pmra": np.where(rng.random(n) < 0.1, np.nan, rng.normal(0, 30, n)) * u.mas / u.yr,
            "pmdec": rng.normal(0, 30, n) * u.mas / u.yr,
            "pmra_error": np.full(n, 0.05) * u.mas / u.yr,
            "pmdec_error": np.full(n, 0.05) * u.mas / u.yr,
            "phot_g_mean_mag": mag * u.mag,
            "phot_bp_mean_mag": (mag + 0.4) * u.mag,
            "phot_rp_mean_mag": np.where(rng.random(n) < 0.2, np.nan, mag - 0.5) * u.mag,
            "phot_g_mean_flux_over_error": np.full(n, 500.0),
        }
    )


def written(path: Path, given: Table) -> Path:
    match path.name.split(".", 1)[1]:
        case "fits":
            given.write(path)
        case "parquet":
            columns = {name: pa.array(np.asarray(given[name])) for name in given.colnames}
            pq.write_table(pa.table(columns), path, row_group_size=700)
        case "ecsv":
            given.write(path, format="ascii.ecsv")
        case "csv":
            given.write(path, format="ascii.csv")
        case "csv.gz":
            given.write(path.with_suffix(""), format="ascii.csv")
            path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    return path


def imported(path: Path, **options: object) -> StoreCatalog:
    folder = path.parent / "store"
    import_catalog(path, folder, ImportOptions(**({"name": "mine"} | options)))  # type: ignore[arg-type]
    return StoreCatalog(folder)


@pytest.mark.parametrize("kind", ["fits", "parquet", "ecsv", "csv", "csv.gz"])
def test_every_format_gives_the_same_catalogue(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starloom.refcat.reading.ROWS_PER_CHUNK", 800)
    given = table()
    found = imported(written(tmp_path / f"gaia.{kind}", given), licence="CC BY-SA 3.0 IGO").cone(0, 0, 180)
    order = np.argsort(np.asarray(given["phot_g_mean_mag"]))
    np.testing.assert_allclose(found.mag, given["phot_g_mean_mag"][order], atol=2e-6)
    np.testing.assert_allclose(found.ra_deg, given["ra"][order], atol=1e-7)
    np.testing.assert_allclose(found.dec_deg, given["dec"][order], atol=1e-7)
    np.testing.assert_allclose(found.mags["RP"], given["phot_rp_mean_mag"][order], atol=2e-6)
    assert found.pm_ra_masyr is not None
    np.testing.assert_allclose(found.pm_ra_masyr, given["pmra"][order], rtol=1e-6)
    np.testing.assert_allclose(found.mag_errs["G"], 2.5 / np.log(10) / 500, rtol=1e-3)
    assert found.position_err_arcsec is not None
    np.testing.assert_allclose(found.position_err_arcsec, 3e-5, rtol=1e-3)
    assert (found.epoch, found.band, found.version) == (2016.0, "G", "Gaia DR3")


def test_what_is_said_comes_before_what_is_found(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("alpha,decl,brightness,mu_a,mu_d,Vmag\n1.0,2.0,10.0,0.1,0.2,11.0\n1.5,2.5,12.0,-0.1,0,13.0\n")
    catalog = imported(
        path, epoch=2010.5, band="G", version="r7", licence="CC0-1.0", position_err_arcsec=0.3,
        columns={"ra": "alpha", "dec": "decl", "mag_G": "brightness", "pmra": "mu_a", "pmdec": "mu_d"},
        units={"ra": "h", "pmra": "arcsec/yr", "pmdec": "arcsec/yr"},
    )  # fmt: skip
    found = catalog.cone(15.0, 2.0, 20.0)
    np.testing.assert_allclose(found.ra_deg, [15.0, 22.5], atol=1e-6)
    assert found.pm_ra_masyr is not None
    np.testing.assert_allclose(found.pm_ra_masyr, [100.0, -100.0], rtol=1e-6)
    assert found.position_err_arcsec is not None
    np.testing.assert_allclose(found.position_err_arcsec, 0.3)
    assert (catalog.about.version, catalog.about.licence, catalog.about.epoch) == ("r7", "CC0-1.0", 2010.5)
    assert catalog.bands == ("G", "V")


PUBLISHED = {
    "VizieR Tycho-2": (
        "RAmdeg DEmdeg pmRA pmDE e_RAmdeg e_DEmdeg e_pmRA e_pmDE BTmag e_BTmag VTmag e_VTmag",
        "Tycho-2", {"mag_VT": "VTmag", "magerr_BT": "e_BTmag", "pmdec": "pmDE", "dec_err": "e_DEmdeg"}, "VT",
    ),
    "VizieR Gaia": (
        "RA_ICRS e_RA_ICRS DE_ICRS e_DE_ICRS Source pmRA e_pmRA pmDE e_pmDE Gmag e_Gmag BPmag RPmag",
        "Gaia DR3", {"mag_G": "Gmag", "magerr_G": "e_Gmag", "pmra_err": "e_pmRA"}, "G",
    ),
    "MAST PS1": (
        "raMean decMean raMeanErr decMeanErr gMeanPSFMag gMeanPSFMagErr rMeanPSFMag rMeanPSFMagErr yMeanPSFMag",
        "Pan-STARRS DR2", {"mag_r": "rMeanPSFMag", "magerr_g": "gMeanPSFMagErr", "mag_y": "yMeanPSFMag"}, "r",
    ),
    "VizieR APASS": (
        "RAJ2000 e_RAJ2000 DEJ2000 e_DEJ2000 Vmag e_Vmag Bmag e_Bmag g'mag e_g'mag r'mag e_r'mag i'mag e_i'mag",
        "APASS", {"mag_r": "r'mag", "magerr_g": "e_g'mag", "mag_B": "Bmag"}, "r",
    ),
    "MAST ATLAS-REFCAT2": (
        "objid RA Dec plx pmra dpmra pmdec dpmdec Gaia dGaia BP dBP RP dRP g dg r dr i di z dz J dJ H K",
        "ATLAS-REFCAT2", {"mag_G": "Gaia", "magerr_G": "dGaia", "mag_g": "g", "pmra_err": "dpmra"}, "G",
    ),
    "VizieR UCAC4": (
        "RAJ2000 e_RAJ2000 DEJ2000 e_DEJ2000 f.mag pmRA e_pmRA pmDE e_pmDE Bmag Vmag gmag rmag imag Jmag Kmag",
        "UCAC4", {"mag_V": "Vmag", "mag_r": "rmag", "mag_K": "Kmag", "dec_err": "e_DEJ2000"}, "r",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", PUBLISHED)
def test_published_names_are_known(which: str) -> None:
    names, survey, expected, band = PUBLISHED[which]
    found = map_columns(Path("x.csv"), names.split(), {})
    assert found.survey is not None
    assert found.survey.name == survey
    assert found.columns.items() >= expected.items()
    assert found.bands[0] == band


def test_position_errors_come_in_the_surveys_unit(tmp_path: Path) -> None:
    path = tmp_path / "ps1.csv"
    path.write_text(
        "raMean,decMean,raMeanErr,decMeanErr,rMeanPSFMag\n10,20,0.02,0.02,15\n10.1,20,0.02,0.02,-999\n"
    )
    catalog = imported(path)
    error = catalog.cone(10, 20, 1).position_err_arcsec
    assert error is not None
    np.testing.assert_allclose(error, 0.02, rtol=1e-3)
    assert (len(catalog), catalog.about.epoch) == (1, 2012.5)


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text(
        "ra,dec,pmra,pmdec,Gmag,Vmag\n"
        "1,1,0,0,10,11\n"
        ",1,0,0,10,11\n"
        "2,nan,0,0,10,11\n"
        "3,1,0,0,-999,11\n"
        "4,1,0,0,99.99,11\n"
        "5,1,99999,0,12,-99\n"
        "6,1,NULL,0,13,--\n"
    )
    folder = tmp_path / "store"
    about, tally = import_catalog(path, folder, ImportOptions("gaps", epoch=2000.0))
    assert (tally.read, tally.without_position, tally.without_magnitude, tally.unreal_motion) == (7, 2, 2, 1)
    assert about.stars == 3
    found = StoreCatalog(folder).cone(3, 1, 10)
    assert found.pm_ra_masyr is not None
    np.testing.assert_array_equal(np.isfinite(found.pm_ra_masyr), [True, False, False])
    np.testing.assert_array_equal(np.isfinite(found.mags["V"]), [True, False, False])


def test_integers_with_a_null_value(tmp_path: Path) -> None:
    path = tmp_path / "ints.fits"
    columns = [
        fits.Column("RA", "D", array=[1.0, 2.0]), fits.Column("DEC", "D", array=[1.0, 2.0]),
        fits.Column("G", "J", array=[11, -1], null=-1), fits.Column("V", "E", array=[11.5, 12.5]),
    ]  # fmt: skip
    fits.BinTableHDU.from_columns(columns).writeto(path)
    assert len(imported(path, epoch=2000.0, band="G")) == 1


BAD = [
    ("absent.csv", None, {}, "refcat-file", "absent.csv"),
    ("what.xyz", "ra,dec\n1,2\n", {}, "refcat-file", ".parquet"),
    ("not.fits", "SIMPLE = no", {}, "refcat-file", "not.fits"),
    ("not.parquet", "PAR1", {}, "refcat-file", "not.parquet"),
    ("empty.csv", "", {}, "refcat-file", "empty.csv"),
    ("comments.csv", "# a\n# b\n", {}, "refcat-file", "comments"),
    ("binary.csv", b"\xff\xfe\x00", {}, "refcat-file", "binary.csv"),
    ("twice.csv", "ra,ra,dec,V\n1,1,2,3\n", {}, "refcat-column", "twice"),
    ("nora.csv", "x,dec,V\n1,2,3\n", {}, "refcat-column", "ra"),
    ("nomag.csv", "ra,dec\n1,2\n", {}, "refcat-column", "magnitudes"),
    ("halfpm.csv", "ra,dec,V,pmra\n1,2,3,4\n", {}, "refcat-column", "pmdec"),
    ("text.csv", "ra,dec,V\n1,2,bright\n", {}, "refcat-column", "V"),
    ("hms.csv", "ra,dec,V\n12 30 01.2,+20 10 00,9\n", {}, "refcat-column", "'ra'"),
    ("dec.csv", "ra,dec,V\n1,2,9\n1,200,9\n", {}, "refcat-value", "row 1"),
    ("role.csv", "ra,dec,V\n1,2,9\n", {"columns": {"rra": "ra"}}, "refcat-column", "rra"),
    ("nocol.csv", "ra,dec,V\n1,2,9\n", {"columns": {"mag_G": "gg"}}, "refcat-column", "'gg'"),
    ("unit.csv", "ra,dec,V\n1,2,9\n", {"units": {"ra": "furlong"}}, "refcat-unit", "furlong"),
    ("unit2.csv", "ra,dec,V\n1,2,9\n", {"units": {"ra": "s"}}, "refcat-unit", "'s'"),
    ("band.csv", "ra,dec,V\n1,2,9\n", {"band": "K"}, "refcat-column", "K"),
    ("nothing.csv", "ra,dec,V\n1,2,99\n", {}, "refcat-empty", "V"),
    ("year.csv", "ra,dec,V\n1,2,9\n", {"epoch": None}, "refcat-epoch", "year.csv"),
    ("bad.ecsv", "# %ECSV 1.0\n# ---\n# datatype: [\nra dec\n1 2\n", {}, "refcat-file", "ECSV"),
]


@pytest.mark.parametrize(("name", "content", "options", "code", "said"), BAD, ids=[case[0] for case in BAD])
def test_bad_input_is_refused_with_file_column_and_remedy(
    tmp_path: Path, name: str, content: str | bytes | None, options: dict[str, object], code: str, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as caught:
        imported(path, **({"epoch": 2000.0} | options))
    assert caught.value.code == code
    assert str(path) in str(caught.value) or code == "refcat-empty"
    assert said in str(caught.value) + caught.value.hint
    assert caught.value.hint
    assert not (tmp_path / "store").exists()


def test_hours_that_pass_for_degrees_are_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        f"{ra:.5f},{dec:.4f},9" for ra, dec in zip(rng.uniform(0, 24, 500), rng.uniform(-90, 90, 500), strict=True)
    ]
    path = tmp_path / "hours.csv"
    path.write_text("\n".join(["ra,dec,V", *rows]))
    with pytest.raises(BadInput) as caught:
        imported(path, epoch=2000.0)
    assert caught.value.code == "refcat-unit"
    assert "--unit ra=h" in caught.value.hint
    assert imported(path, epoch=2000.0, units={"ra": "h"}).cone(0, 0, 180).ra_deg.max() > 350


def test_errors_in_the_wrong_unit_are_noticed(tmp_path: Path) -> None:
    given = table(500)
    given["ra_error"] = np.full(500, 60.0)
    path = written(tmp_path / "gaia.csv", given)
    with pytest.raises(BadInput) as caught:
        imported(path, units={"ra_err": "arcsec"})
    assert caught.value.code == "refcat-unit"


def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk handed to the writer is larger than the reader's, whatever the file."""
    from starloom.refcat import writing

    seen = []
    add = writing._Heaps.add

    def spy(self: writing._Heaps, rows: writing.StarRows) -> None:
        seen.append(len(rows))
        add(self, rows)

    monkeypatch.setattr(writing._Heaps, "add", spy)
    monkeypatch.setattr("starloom.refcat.reading.ROWS_PER_CHUNK", 250)
    assert len(imported(written(tmp_path / "big.fits", table(2100)))) == 2100
    assert max(seen) == 250
    assert len(seen) == 9


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="ra,decV0123456789.-\n\"'; \t#%", max_size=200).map(str.encode))
@example(b"PK\x03\x04")
@example(b"\x1f\x8b\x08")
@example(b"\xfd7zXZ\x00")
@example(b"BZh9")
def test_no_file_brings_the_importer_down(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("f.csv", "f.ecsv", "f.fits", "f.parquet"):
        path = folder / name
        path.write_bytes(content)
        with contextlib.suppress(StarloomError):
            import_catalog(path, folder / "store", ImportOptions("f", epoch=2000.0))
