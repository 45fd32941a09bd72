"""The network's own stars: source lists of solved frames as the catalogue of a field that no catalogue knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from starloom.astrometry import detect_stars, judge, refine_wcs
from starloom.astrometry.own_stars import OwnSources, combine_sources
from starloom.astrometry.seams import Hint
from starloom.astrometry.solve import SeizaSolver
from starloom.astrometry.tangent import deproject, project
from starloom.errors import BadInput
from starloom.photometry.sources import COLUMNS, SourceFlag, sources_table
from starloom.refcat import CatalogStars, default_refcat
from starloom.sky.telescope import Telescope

CENTRE = (213.0, 55.0)


def table(
    ra: np.ndarray, dec: np.ndarray, mag: np.ndarray, *, err: float = 0.05, band: str = "V", **changes: np.ndarray
) -> pa.Table:
    n = len(ra)
    columns: dict[str, Any] = {name: np.zeros(n) for name in COLUMNS if name != "band"}
    columns |= {
        "ra_deg": ra, "dec_deg": dec, "mag": mag, "mag_err": np.full(n, 0.02), "snr": np.full(n, 50.0),
        "ra_err_arcsec": np.full(n, err), "dec_err_arcsec": np.full(n, err), "flags": np.zeros(n, np.int32),
        "saturated": np.zeros(n, bool), "calibrator": np.zeros(n, bool),
    }  # fmt: skip
    return sources_table(columns | changes, band=band, meaning={})


def sky(n: int = 80, seed: int = 0, radius_deg: float = 0.12, at: tuple[float, float] = CENTRE) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    xi, eta = rng.uniform(-radius_deg, radius_deg, (2, n))
    return *deproject(xi, eta, *at), np.sort(rng.uniform(11, 16, n))


def seen(
    truth: tuple[Any, ...], seed: int, *, shift_mag: float = 0.0, wcs_arcsec: float = 0.08, **how: Any
) -> Any:
    """One frame's list: every star with its centroid's error, all of them with the WCS's."""
    rng = np.random.default_rng([seed, 1])
    ra, dec, mag = truth
    xi, eta = project(ra, dec, *CENTRE)
    off = rng.normal(0, 0.05, (2, len(ra))) + rng.normal(0, 0.08, (2, 1))
    ra, dec = deproject(xi + off[0] / 3600, eta + off[1] / 3600, *CENTRE)
    mag = mag + shift_mag + rng.normal(0, 0.02, len(mag))
    return OwnSources(table(ra, dec, mag, **how), 2026.0 + seed / 10, 0.08)


def distance_arcsec(found: CatalogStars, truth: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For every catalogue star the distance to the nearest true one and its number."""
    a = np.stack(project(found.ra_deg, found.dec_deg, *CENTRE))[:, :, None]
    b = np.stack(project(truth[0], truth[1], *CENTRE))[:, None, :]
    distance = np.hypot(*(a - b)) * 3600
    return distance.min(axis=1), distance.argmin(axis=1)


def test_places_get_better_with_every_frame() -> None:
    truth = sky()
    few = combine_sources([seen(truth, s) for s in range(2)])
    many = combine_sources([seen(truth, s) for s in range(12)])
    assert len(many) == len(few) == 80
    rms = [float(np.sqrt(np.mean(distance_arcsec(c, truth)[0] ** 2) / 2)) for c in (few, many)]
    assert rms[1] < 0.7 * rms[0]
    for found, real in zip((few, many), rms, strict=True):
        assert found.position_err_arcsec is not None
        assert 0.4 < np.median(found.position_err_arcsec) / real < 2.5
    assert many.epoch == pytest.approx(2026.55)
    assert (np.diff(many.mag) >= 0).all()
    assert many.band == "V"


def test_what_only_one_frame_saw_is_dropped() -> None:
    truth = sky()
    frames = []
    for s in range(3):
        ghost = sky(5, seed=40 + s)
        frames.append(seen(tuple(np.concatenate(pair) for pair in zip(truth, ghost, strict=True)), s))
    found = combine_sources(frames)
    distance, number = distance_arcsec(found, truth)
    assert len(found) == 80
    assert (distance < 1.0).all()
    assert len(set(number.tolist())) == 80


def test_one_frame_alone_is_better_than_none() -> None:
    truth = sky()
    weak = np.arange(80) % 2 == 0
    found = combine_sources([seen(truth, 0, snr=np.where(weak, 10.0, 40.0))])
    assert len(found) == 40


def test_flagged_and_faint_detections_do_not_count() -> None:
    truth = sky()
    flags = np.zeros(80, np.int32)
    flags[:4] = [SourceFlag.SATURATED, SourceFlag.BLENDED, SourceFlag.MASKED, SourceFlag.EDGE]
    snr = np.full(80, 50.0)
    snr[4] = 3.0
    found = combine_sources([seen(truth, s, flags=flags, snr=snr) for s in range(3)])
    _, number = distance_arcsec(found, truth)
    assert sorted(set(range(80)) - set(number.tolist())) == [0, 1, 2, 3, 4]


def test_other_bands_are_brought_onto_one_scale() -> None:
    truth = sky()
    frames = [seen(truth, 0), seen(truth, 1), seen(truth, 2, shift_mag=1.3, band="R")]
    found = combine_sources(frames)
    _, number = distance_arcsec(found, truth)
    assert found.band == "V"
    assert np.abs(found.mag - truth[2][number]).max() < 0.1


def test_two_stars_that_one_frame_sees_as_one_are_left_out() -> None:
    ra, dec, mag = sky()
    close = (np.append(ra, ra[7]), np.append(dec, dec[7] + 1.2 / 3600), np.append(mag, mag[7]))
    found = combine_sources([seen(close, 0), seen((ra, dec, mag), 1), seen(close, 2)])
    distance, number = distance_arcsec(found, (ra, dec, mag))
    assert 7 not in number.tolist()
    assert (distance < 1.0).all()


@pytest.mark.parametrize("at", [(359.99, 10.0), (120.0, 89.95)])
def test_the_seam_and_the_pole_are_no_border(at: tuple[float, float]) -> None:
    truth = sky(at=at)
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(3):
        off = rng.normal(0, 0.05 / 3600, (2, 80))
        xi, eta = project(truth[0], truth[1], *at)
        frames.append(OwnSources(table(*deproject(xi + off[0], eta + off[1], *at), truth[2]), 2026.0))
    found = combine_sources(frames)
    assert len(found) == 80
    off = (
        np.stack(project(found.ra_deg, found.dec_deg, *at))[:, :, None]
        - np.stack(project(*truth[:2], *at))[:, None]
    )
    assert (np.hypot(*off).min(axis=1) * 3600 < 0.3).all()


def test_no_frames_and_foreign_tables_are_refused_by_name() -> None:
    with pytest.raises(BadInput) as caught:
        combine_sources([])
    assert caught.value.code == "bad-sources"
    with pytest.raises(BadInput, match="dec_deg"):
        combine_sources([OwnSources(pa.table({"ra_deg": [1.0]}), 2026.0)])
    empty = combine_sources([OwnSources(table(*(np.zeros(0) for _ in range(3))), 2026.0)])
    assert len(empty) == 0


class Own:
    """A catalogue of the stars it is given."""

    band, catalog = "V", "own"

    def __init__(self, stars: CatalogStars) -> None:
        import seiza

        self.stars = stars
        columns = (stars.ra_deg.tolist(), stars.dec_deg.tolist(), stars.mag.tolist())
        self._seiza = seiza.StarCatalog.from_stars(list(zip(*columns, strict=True)))

    def cone(self, ra_deg: float, dec_deg: float, radius_deg: float, **_: Any) -> CatalogStars:
        return self.stars

    def seiza(self) -> Any:
        return self._seiza


def test_a_small_field_solves_against_earlier_frames() -> None:
    """A quarter of a degree, of which Tycho-2 knows no more than seven stars."""
    known = default_refcat().cone(*CENTRE, 0.13)
    assert len(known) < 8
    truth = sky(120, radius_deg=0.2)
    earlier = [seen(truth, s) for s in range(4)]
    own = Own(combine_sources(earlier))
    telescope = Telescope("small", 0.9, 1000, 1000, rotation_deg=70.0, distortion_px=2.0)
    wcs = telescope.wcs(*CENTRE)
    x, y = wcs.all_world2pix(truth[0], truth[1], 0)
    pixels = picture(x, y, truth[2])
    stars = detect_stars(pixels)
    hint = Hint(CENTRE[0] + 0.05, CENTRE[1] - 0.03, 0.5, 0.91, 0.05)
    candidate = SeizaSolver().solve(stars, hint, own)
    fit = refine_wcs(candidate, stars, own)
    assert judge(fit, stars).accepted
    gx, gy = np.array([0, 999, 999, 0, 499.5]), np.array([0, 0, 999, 999, 499.5])
    px, py = wcs.all_world2pix(*fit.map.sky(gx, gy), 0)
    assert np.hypot(px - gx, py - gy).max() < 0.4
    assert fit.catalog.catalog == "own"


def picture(x: np.ndarray, y: np.ndarray, mag: np.ndarray) -> np.ndarray:
    """Gaussian stars of FWHM 3 px on a sky of 200 ADU."""
    rng = np.random.default_rng(8)
    image = np.full((1000, 1000), 200.0)
    yy, xx = np.mgrid[-10:11, -10:11]
    for a, b, m in zip(x, y, mag, strict=True):
        i, j = round(float(b)), round(float(a))
        if 10 < i < 989 and 10 < j < 989:
            flux = 10 ** (-0.4 * (m - 22.0)) * 20
            stamp = np.exp(-((xx - (a - j)) ** 2 + (yy - (b - i)) ** 2) / (2 * 1.27**2)) / (2 * np.pi * 1.27**2)
            image[i - 10 : i + 11, j - 10 : j + 11] += flux * stamp
    return np.clip(rng.normal(image, np.sqrt(image)), 0, 65535).astype(np.uint16)
