"""The real case: TrES-1 and the five darks of its night, noise and hot pixels before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.calibration.apply import MasterSet, calibrate
from starloom.calibration.calibrated_file import MaskBit
from starloom.calibration.combining import FrameStack
from starloom.calibration.defects import learn_defects
from starloom.calibration.masters import MasterFrame, build_dark
from starloom.calibration.matching import MasterFacts, facts_of, match
from starloom.calibration.neighbours import ring_residual
from starloom.calibration.noise import sky_sigma, spread
from starloom.calibration.sensor import sensor_pixels
from starloom.frames import normalise, read_frame
from starloom.sky.samples import tres1_darks, tres1_frames
from tests.calibration.conftest import planes


def stack_of(folder: Path, paths: list[Path]) -> Iterator[FrameStack]:
    with FrameStack(folder) as stack:
        for path in paths:
            stack.add(sensor_pixels(*read_frame(path)))
        yield stack


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> MasterFrame:
    (made,) = (build_dark(s, 60.0) for s in stack_of(tmp_path_factory.mktemp("darks"), tres1_darks()))
    return made


def test_the_darks_fit_the_lights() -> None:
    def facts(path: Path, kind: str) -> tuple:
        data, header = read_frame(path)
        said = normalise(header)
        values = {name: said.value(name) for name in ("gain_e_per_adu", "sensor_temp_c", "exposure_s", "binning")}
        return facts_of(values | {"start_utc": said.value("start_utc")}, data.shape, kind)

    master = facts(tres1_darks()[0], "dark")
    assert master.start is not None
    for path in tres1_frames():
        found = match(facts(path, "light"), [MasterFacts(1, master, master.start, master.start, 5)])
        assert (found.dark, found.dark_scale, found.flags) == (1, 1.0, ("no-flat",))


def test_the_master_is_a_quiet_dark(dark: MasterFrame) -> None:
    assert dark.used == [0, 1, 2, 3, 4]
    assert dark.stats["level_adu"] == pytest.approx(156, abs=3)
    assert dark.stats["noise_adu"] == pytest.approx(11.4, abs=0.5)
    assert 0.001 < (dark.mask > 0).mean() < 0.006
    # Its error is that of five frames, as it says itself.
    expected = dark.stats["noise_adu"] / np.sqrt(5)
    assert np.sqrt(np.median(dark.variance)) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("frame", [0, 5, 13])
def test_hot_pixels_are_gone_and_the_sky_is_as_quiet_as_before(dark: MasterFrame, frame: int) -> None:
    data, header = read_frame(tres1_frames()[frame])
    done = calibrate(
        data, header, MasterSet(dark=planes(dark)), gain_e_per_adu=0.78, read_noise_adu=dark.stats["noise_adu"]
    )
    assert done is not None
    sigma = sky_sigma(data)
    before, after = ring_residual(data.astype("f4")), ring_residual(done.planes.data)
    hot = (dark.mask & MaskBit.HOT) > 0
    strong = hot & (ring_residual(dark.data) > 5 * sigma)
    assert strong.sum() > 400
    assert np.median(before[strong]) > 5 * sigma
    assert abs(np.median(after[strong])) < 0.4 * sigma
    assert spread(after[strong]) < 1.3 * spread(after[~hot])
    warm = ~hot & (ring_residual(dark.data) > 3 * dark.stats["noise_adu"])
    assert warm.sum() > 2000  # too weak to be masked, and subtracted
    assert np.median(before[warm]) > 40
    assert abs(np.median(after[warm])) < 5
    assert sky_sigma(done.planes.data) < 1.01 * sigma
    assert ((done.planes.mask[strong] & MaskBit.HOT) > 0).all()  # type: ignore[index]
    assert done.masked_fraction < 0.006
    assert done.planes.header["CALSTAT"] == "D"


def test_the_lights_alone_teach_the_same_hot_pixels(dark: MasterFrame, tmp_path: Path) -> None:
    """What a node that sends no darks gets: the frames drift by 187 px through the night."""
    (found,) = (learn_defects(stack) for stack in stack_of(tmp_path, tres1_frames()))
    assert found.moved
    sigma = sky_sigma(read_frame(tres1_frames()[5])[0])
    strong = ring_residual(dark.data) > 5 * sigma
    assert ((found.mask[strong] & MaskBit.HOT) > 0).mean() >= 0.95
    # Edge columns and rows are dimmer, and marked as a whole; elsewhere little else is.
    inner = found.mask[3:-3, 3:-3]
    assert (inner > 0).mean() < 0.006
    known = (dark.mask > 0) | (ring_residual(dark.data) > 2 * dark.stats["noise_adu"])
    lone = (inner & MaskBit.HOT) > 0
    assert known[3:-3, 3:-3][lone].mean() > 0.8


def test_darks_are_what_fits_says(dark: MasterFrame) -> None:
    # The same mean as of the pixels themselves, where nothing was clipped.
    mean = np.mean([read_frame(path)[0].astype("f8") for path in tres1_darks()], axis=0)
    assert np.mean(np.abs(mean - dark.data) < 0.01) > 0.97
    assert isinstance(fits.getheader(tres1_darks()[0], 1)["CCD-TEMP"], float)
