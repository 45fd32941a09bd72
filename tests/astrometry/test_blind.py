"""Blind solving, and other people's programs at their worst: each costs a frame its attempt and nothing else."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.astrometry import Parts, SolveOutcome, StarList, Unsolved, detect_stars, solve_pixels
from starloom.astrometry.astrometry_net import AstrometryNet
from starloom.astrometry.blind import ANY_SCALE, blind_solvers, scale_ranges, worth_it
from starloom.astrometry.seams import BlindSolver, Candidate, Hint, ScaleRange
from starloom.astrometry.tetra import SWEEP_TOLERANCE, TetraSolver, build_database, sweep
from starloom.astrometry.wheel import AstrometryWheel
from starloom.frames import read_frame
from starloom.refcat import CatalogStars, default_refcat
from starloom.sky import tres1_frames

TRES1 = (286.0408, 36.6326)
ELSEWHERE = (100.0, -20.0)
NEAR = ScaleRange(2.0, 2.8)

needs_engine = pytest.mark.skipif(
    bool(AstrometryNet().absent(detect_stars(np.random.default_rng(0).normal(9, 1, (64, 64))), ANY_SCALE)),
    reason="astrometry.net and its index files are not installed",
)


@pytest.fixture(scope="module")
def frame() -> tuple[np.ndarray, fits.Header, StarList]:
    data, header = read_frame(tres1_frames()[3])
    return data, header, detect_stars(data)


def solve_with(frame: tuple[np.ndarray, fits.Header, StarList], *solvers: BlindSolver) -> SolveOutcome:
    """Solve the real frame with a hint that leads astray, so that only the blind solvers given can help."""
    data, header, stars = frame
    parts = Parts(detector=lambda *_, **__: stars, blind=solvers)
    return solve_pixels(data, header, target=ELSEWHERE, scale_arcsec=2.375, parts=parts)


def program(folder: Path, body: str) -> AstrometryNet:
    """An engine that is a script: a fake that behaves as badly as its body."""
    path = folder / "astrometry-engine"
    path.write_text(f"#!{sys.executable} -IS\nimport os, sys, time\n{body}\n", encoding="utf-8")
    path.chmod(0o700)
    (folder / "index-0.fits").touch()
    return AstrometryNet(program=str(path), folders=(folder,))


def answer_with(cards: dict[str, object]) -> str:
    """Code that writes a FITS header as the engine does."""
    text = "".join(card.image for card in fits.Header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, **cards}).cards)
    block = (text + "END".ljust(80)).ljust(-(-(len(text) + 80) // 2880) * 2880)
    return f"open('found.wcs', 'w').write({block!r})"


WRONG = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 200.0, "CRVAL2": 10.0, "CRPIX1": 546.0, "CRPIX2": 368.0,
    "CD1_1": -6.6e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 6.6e-4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os._exit(0)", ""),
        ("time.sleep(600)", "hung and was killed"),
        ("os.abort()", "was killed by SIGABRT"),
        ("sys.exit('cannot open index')", "ended with code 1: cannot open index"),
        ("os.write(1, os.urandom(4000)); open('found.wcs', 'wb').write(os.urandom(9000))", "what is no WCS"),
        ("open('found.wcs', 'w').write('SIMPLE')", "what is no WCS"),
        (answer_with({**WRONG, "CD2_2": 0.0}), "what is no WCS"),
        (answer_with({**WRONG, "CRVAL1": "here"}), "what is no WCS"),
    ],
    ids=["silent", "hangs", "crashes", "fails", "rubbish", "cut short", "singular", "text"],
)
def test_a_bad_program_costs_the_frame_its_attempt(
    tmp_path: Path, frame: tuple[np.ndarray, fits.Header, StarList], body: str, told: str
) -> None:
    engine = program(tmp_path, body)
    with pytest.raises(Unsolved, match=told or "found nothing") as caught:
        engine.solve(frame[2], NEAR, cpu_s=2.0, wall_s=1.5 if "sleep" in body else 60.0)
    assert caught.value.code == "no-match"


@pytest.mark.parametrize("body", ["os.abort()", answer_with(WRONG)], ids=["crashes", "lies"])
def test_the_outcome_tells_and_the_run_goes_on(
    tmp_path: Path, frame: tuple[np.ndarray, fits.Header, StarList], body: str
) -> None:
    outcome = solve_with(frame, program(tmp_path, body))
    assert not outcome.solved
    assert outcome.wcs_cards == {}
    assert outcome.reason in ("wrong-hint", "no-match", "not-verified")
    assert "blind: astrometry.net" in outcome.tried
    assert ("was killed by SIGABRT" in outcome.message) == ("abort" in body)


def test_a_liar_does_not_keep_the_next_from_being_heard(
    tmp_path: Path, frame: tuple[np.ndarray, fits.Header, StarList]
) -> None:
    data, header, _ = frame
    truth = solve_pixels(data, header, target=TRES1, scale_arcsec=2.375, blind=False)
    assert truth.solved

    class Honest:
        name = "honest"

        def absent(self, stars: StarList, scales: ScaleRange) -> str:
            return ""

        def solve(self, stars: StarList, scales: ScaleRange, *, cpu_s: float, wall_s: float) -> Candidate:
            return Candidate(truth.wcs_cards, truth.matches, self.name)

    outcome = solve_with(frame, program(tmp_path, answer_with(WRONG)), Honest())
    assert outcome.solved
    assert (outcome.solver, outcome.hint) == ("honest", "whole sky")
    assert outcome.flags == ("wrong-hint",)
    assert "elsewhere" in outcome.message
    assert (outcome.ra_deg, outcome.dec_deg) == pytest.approx((truth.ra_deg, truth.dec_deg), abs=1e-4)


def test_temporary_folders_are_removed(
    tmp_path: Path, frame: tuple[np.ndarray, fits.Header, StarList], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(Unsolved):
        program(tmp_path, "os.abort()").solve(frame[2], NEAR, cpu_s=2.0, wall_s=60.0)
    assert list(scratch.iterdir()) == []


def test_what_is_not_installed_is_skipped_and_said(frame: tuple[np.ndarray, fits.Header, StarList]) -> None:
    outcome = solve_with(frame, AstrometryNet(program="no-such-engine"))
    assert not outcome.solved
    assert "blind: astrometry.net is not installed" in outcome.tried
    assert AstrometryNet(program=sys.executable, folders=()).absent(frame[2], NEAR) == (
        "astrometry.net has no index files"
    )


@needs_engine
def test_the_engine_finds_a_real_frame_blind(frame: tuple[np.ndarray, fits.Header, StarList]) -> None:
    outcome = solve_with(frame, AstrometryNet())
    assert outcome.solved, outcome.message
    assert outcome.solver == "astrometry.net"
    assert outcome.flags == ("wrong-hint",)
    assert np.hypot(outcome.ra_deg - TRES1[0], outcome.dec_deg - TRES1[1]) < 0.5
    assert outcome.scale_arcsec == pytest.approx(2.375, rel=0.003)


def test_the_wheel_finds_a_real_frame_blind(frame: tuple[np.ndarray, fits.Header, StarList]) -> None:
    wheel = AstrometryWheel()
    if why := wheel.absent(frame[2], NEAR):
        pytest.skip(why)
    outcome = solve_with(frame, wheel)
    assert outcome.solved, outcome.message
    assert outcome.solver == "astrometry (wheel)"


def test_the_wheel_failing_costs_the_attempt(
    tmp_path: Path, frame: tuple[np.ndarray, fits.Header, StarList], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import sys\nsys.exit('index damaged')\n", encoding="utf-8")
    monkeypatch.setattr("starloom.astrometry.wheel.CHILD", child)
    with pytest.raises(Unsolved, match="ended with code 1: index damaged"):
        AstrometryWheel(folders=(tmp_path,)).solve(frame[2], NEAR, cpu_s=2.0, wall_s=60.0)


def test_the_sweep_leaves_no_width_out() -> None:
    widths = sweep(2000, ANY_SCALE)
    for true in np.geomspace(1.5, 20.0, 300):
        assert any(abs(true / width - 1) <= SWEEP_TOLERANCE for width in widths), true
    assert sweep(2000, ScaleRange(0.5, 1.0)) == []
    narrow = sweep(2000, ScaleRange(4.0, 6.25))
    assert len(narrow) <= 3
    assert all(2.2 < width < 3.5 for width in narrow)


def test_tetra_solves_wide_fields(tmp_path: Path) -> None:
    pytest.importorskip("tetra3rs")
    database = tmp_path / "below" / "patterns.bin"
    # The brightest stars of a strip of sky: seconds to build instead of a quarter of a minute.
    assert build_database(Bright(), database, faintest_mag=6.8) > 1000
    solver = TetraSolver(database)
    for mirrored in (1.0, -1.0):
        stars, (ra, dec) = wide_frame(mirrored)
        found = solver.solve(stars, ScaleRange(20.0, 40.0), cpu_s=10.0, wall_s=60.0)
        from starloom.astrometry.wcs import astropy_wcs

        centre = astropy_wcs(found.cards).all_pix2world((stars.shape[1] - 1) / 2, (stars.shape[0] - 1) / 2, 0)
        assert np.allclose(centre, (ra, dec), rtol=0, atol=0.01)
    shuffled = replace(stars, y=np.random.default_rng(1).permutation(stars.y))
    with pytest.raises(Unsolved, match="found nothing"):
        solver.solve(shuffled, ScaleRange(20.0, 40.0), cpu_s=10.0, wall_s=60.0)
    database.write_bytes(b"rubbish")
    with pytest.raises(Unsolved, match="cannot be read"):
        solver.solve(stars, ScaleRange(20.0, 40.0), cpu_s=10.0, wall_s=60.0)


class Bright:
    """The catalogue's bright stars around one place."""

    band, catalog = "VT", "Tycho-2"

    def cone(self, ra_deg: float, dec_deg: float, radius_deg: float, **_: object) -> CatalogStars:
        stars = default_refcat().cone(80.0, 10.0, 30.0)
        keep = stars.mag < 7
        return CatalogStars(stars.ra_deg[keep], stars.dec_deg[keep], stars.mag[keep], "VT", "Tycho-2", 2000.0)

    def seiza(self) -> object:
        raise NotImplementedError


def wide_frame(mirrored: float) -> tuple[StarList, tuple[float, float]]:
    from starloom.astrometry.tangent import project

    ra, dec, step, shape = 83.0, 4.0, 30.0 / 3600, (1000, 1500)
    sky = default_refcat().cone(ra, dec, 9.0, limit=150)
    xi, eta = project(sky.ra_deg, sky.dec_deg, ra, dec)
    x, y = -mirrored * xi / step + 749.5, eta / step + 499.5
    on = (x > 0) & (x < 1499) & (y > 0) & (y < 999)
    x, y, flux = x[on], y[on], 10 ** (-0.4 * (sky.mag[on] - 15))
    base = detect_stars(np.random.default_rng(0).normal(9, 1, (64, 64)))
    one = np.ones(len(x))
    columns = {name: one for name, value in vars(base).items() if isinstance(value, np.ndarray)}
    made = columns | {"x": x, "y": y, "flux": flux, "saturated": np.zeros(len(x), bool)}
    return replace(base, shape=shape, **made), (ra, dec)


def test_scales_to_search_between() -> None:
    hints = [Hint(10.0, 10.0, 1.0, scale, 0.1) for scale in (2.0, 2.1, 5.0, None)]
    found = scale_ranges([*hints, Hint(10.0, 10.0, 1.0, 0.5, 0.1, guessed_scale=True)])
    assert [r.low_arcsec for r in found[:2]] == pytest.approx([1.6, 4.0])
    assert found[2] is ANY_SCALE
    anything = scale_ranges([])
    assert anything[0] is ANY_SCALE
    for true in np.geomspace(0.4, 51.0, 100):
        assert any(octave.low_arcsec <= true <= octave.high_arcsec for octave in anything[1:]), true
    assert worth_it((1000, 1000), NEAR)
    assert not worth_it((1000, 1000), ScaleRange(0.2, 0.3))


def test_who_is_asked() -> None:
    names = [solver.name for solver in blind_solvers()]
    assert names[:2] == ["tetra3rs", "astrometry.net"]
    assert ("astrometry (wheel)" in names) == (shutil.which("astrometry-engine") is None)
