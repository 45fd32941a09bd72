"""A calibrated frame against the light that fell on the sensor: pixels, variance, mask, saturation, header."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.calibration.apply import MasterSet, calibrate, has_work
from starloom.calibration.calibrated_file import MaskBit, Planes
from starloom.calibration.masters import build_bias, build_dark, build_flat
from starloom.calibration.noise import sky_sigma, spread
from starloom.errors import BadInput
from starloom.sky.camera import Camera
from tests.calibration.conftest import planes

SKY_E = 1500.0
EXPOSURE_S = 120.0


def masters_of(
    camera: Camera, stacked: Any, *, header: fits.Header | None = None, n: int = 12
) -> dict[str, Planes]:
    """Bias, dark of 120 s and flat of a camera, as a night's series gives them."""
    step = 2 if camera.bayer else 1
    bias = build_bias(stacked(camera.series(n, 0.0, 0.0, seed=1), header))
    dark = build_dark(stacked(camera.series(n, 0.0, EXPOSURE_S, seed=2), header), EXPOSURE_S, step=step)
    flat = build_flat(
        stacked(camera.series(n, 25_000, 1.0, seed=3), header), subtract=bias.data,
        read_noise_adu=bias.stats["read_noise_adu"], mosaic=bool(camera.bayer),
    )  # fmt: skip
    return {"bias": planes(bias), "dark": planes(dark), "flat": planes(flat)}


def light(camera: Camera, seed: int = 5, sky_e: float = SKY_E, exposure_s: float = EXPOSURE_S) -> np.ndarray:
    return camera.expose(sky_e, exposure_s, np.random.default_rng(seed))


@pytest.mark.parametrize("bayer", ["", "RGGB"])
def test_an_even_sky_comes_out_even_and_the_variance_knows_its_noise(stacked: Any, bayer: str) -> None:
    camera = Camera(bayer=bayer, vignetting=0.4)
    made = masters_of(camera, stacked)
    header = fits.Header({"BAYERPAT": bayer} if bayer else {})
    done = calibrate(
        light(camera), header, MasterSet(None, made["dark"], made["flat"]),
        gain_e_per_adu=camera.gain_e_per_adu, read_noise_adu=camera.read_noise_adu,
    )  # fmt: skip
    assert done is not None
    assert done.noise_ratio == pytest.approx(1, abs=0.08)  # nobody told it of the dark current's photons
    pixels, variance, mask = done.planes.data, done.planes.variance, done.planes.mask
    assert variance is not None
    assert mask is not None
    truth = SKY_E * camera.colours / camera.gain_e_per_adu
    good = mask == 0
    assert np.isfinite(pixels).all()
    pull = (pixels - truth) / np.sqrt(variance)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = np.zeros_like(good)
        part[y::2, x::2] = good[y::2, x::2]
        # A flat is normalised to its mean, so the sky's level is right to the flat's own noise.
        assert np.mean((pixels / truth)[part]) == pytest.approx(1, abs=1e-3)
        assert spread(pull[part]) == pytest.approx(1, abs=0.06)
    corner, middle = np.s_[:40, :40], np.s_[130:170, 180:220]
    # In so small a mosaic the mesh of a colour's sky has six cells.
    assert spread(pull[corner][good[corner]]) == pytest.approx(1, abs=0.15 if bayer else 0.1)
    assert spread(pull[middle][good[middle]]) == pytest.approx(1, abs=0.15 if bayer else 0.1)
    assert variance[corner].mean() > 1.4 * variance[middle].mean()
    # Negative control: the raw frame's corner is 40 % darker.
    raw = light(camera) - camera.bias_level
    assert raw[corner].mean() < 0.75 * raw[middle].mean()


def test_without_a_gain_the_variance_is_measured(stacked: Any) -> None:
    camera = Camera(vignetting=0.5, shape=(512, 512))
    made = masters_of(camera, stacked, n=8)
    frame, masters = light(camera), MasterSet(None, made["dark"], made["flat"])
    known = calibrate(frame, fits.Header(), masters, gain_e_per_adu=1.5, read_noise_adu=4.0)
    unknown = calibrate(frame, fits.Header(), masters)
    assert known is not None
    assert unknown is not None
    assert unknown.noise_ratio is None
    ratio = unknown.planes.variance / known.planes.variance  # type: ignore[operator]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert 0.75 < np.percentile(ratio, 1) < np.percentile(ratio, 99) < 1.25


def test_a_header_of_the_wrong_gain_does_not_make_the_variance_wrong(stacked: Any) -> None:
    camera = Camera()
    made = masters_of(camera, stacked, n=8)
    done = calibrate(light(camera), fits.Header(), MasterSet(None, made["dark"]), gain_e_per_adu=0.3)
    assert done is not None
    assert done.noise_ratio is not None
    assert done.noise_ratio < 0.4
    good = done.planes.mask == 0
    assert good.mean() > 0.99
    assert np.median(done.planes.variance) == pytest.approx(sky_sigma(done.planes.data) ** 2, rel=0.02)


def test_a_scaled_dark_is_right_and_an_unscaled_one_is_not(stacked: Any) -> None:
    camera = Camera(dark_e_s=3.0, hot_share=0.01, hot_e_s=(1.0, 1.3))
    made = masters_of(camera, stacked)
    frame = light(camera, exposure_s=30.0, sky_e=300.0)
    scaled = calibrate(frame, fits.Header(), MasterSet(made["bias"], made["dark"], dark_scale=30 / EXPOSURE_S))
    plain = calibrate(frame, fits.Header(), MasterSet(None, made["dark"]))
    assert scaled is not None
    assert plain is not None
    truth = 300.0 * camera.flat / camera.gain_e_per_adu
    good = scaled.planes.mask == 0
    assert np.median((scaled.planes.data - truth)[good]) == pytest.approx(0, abs=0.5)
    assert np.median((plain.planes.data - truth)[good]) < -100
    warm = camera.hot & good
    assert warm.sum() > 500
    assert np.median((scaled.planes.data - truth)[warm]) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("letters", ["B", "b"])
def test_a_bias_subtracted_frame_gets_the_dark_current_alone(stacked: Any, letters: str) -> None:
    camera = Camera(dark_e_s=3.0)
    made = masters_of(camera, stacked)
    frame = light(camera) - np.rint(camera.bias_level).astype("f4")
    done = calibrate(frame, fits.Header({"CALSTAT": letters}), MasterSet(made["bias"], made["dark"]))
    assert done is not None
    truth = SKY_E * camera.flat / camera.gain_e_per_adu
    assert np.median((done.planes.data - truth)[done.planes.mask == 0]) == pytest.approx(0, abs=0.6)
    assert done.planes.header["CALSTAT"] == "BD"


def test_overscan_bias_flat(stacked: Any) -> None:
    camera = Camera(overscan=32, drift_adu=50.0, hot_share=0, dark_e_s=0.0)
    ny, nx = camera.shape
    header = fits.Header({"BIASSEC": f"[{nx + 1}:{nx + 32},1:{ny}]", "TRIMSEC": f"[1:{nx},1:{ny}]"})
    made = masters_of(camera, stacked, header=header)
    done = calibrate(light(camera), header, MasterSet(made["bias"], None, made["flat"]), gain_e_per_adu=1.5)
    assert done is not None
    assert done.planes.data.shape == camera.shape
    assert np.mean(done.planes.data[done.planes.mask == 0]) == pytest.approx(SKY_E / 1.5, rel=2e-3)
    assert "BIASSEC" not in done.planes.header
    only = calibrate(light(camera), header, MasterSet())
    assert only is not None
    assert np.median(only.planes.data) == pytest.approx(SKY_E / 1.5 * np.median(camera.flat), rel=0.01)
    assert "CALSTAT" not in only.planes.header


@pytest.mark.parametrize("pedestal", [-300.0, 100.0])
def test_a_pedestal_is_the_same_on_lights_and_masters(stacked: Any, pedestal: float) -> None:
    camera = Camera()
    header = fits.Header({"PEDESTAL": pedestal})
    made = masters_of(camera, stacked, header=header, n=6)
    done = calibrate(light(camera), header, MasterSet(None, made["dark"]))
    assert done is not None
    truth = SKY_E * camera.flat / camera.gain_e_per_adu
    assert np.median((done.planes.data - truth)[done.planes.mask == 0]) == pytest.approx(0, abs=0.6)
    assert done.planes.header["PEDESTAL"] == 0


def test_a_mask_alone_leaves_pixels_and_pedestal_alone() -> None:
    camera = Camera()
    frame = light(camera)
    bad = np.where(camera.hot, np.uint8(MaskBit.HOT), np.uint8(0))
    header = fits.Header({"PEDESTAL": -100, "SATURATE": 60000, "EXPTIME": 5.0})
    done = calibrate(frame, header, MasterSet(defects=Planes(bad, fits.Header(), bad)))
    assert done is not None
    assert done.planes.data.dtype == np.uint16
    assert np.array_equal(done.planes.data, frame)
    assert np.array_equal(done.planes.mask, bad)
    assert done.planes.variance is None
    assert done.masked_fraction == pytest.approx(camera.hot.mean())
    assert (done.planes.header["PEDESTAL"], done.planes.header["EXPTIME"]) == (-100, 5.0)
    assert "CALSTAT" not in done.planes.header


def test_nothing_to_do_is_nothing() -> None:
    frame = light(Camera())
    assert calibrate(frame, fits.Header(), MasterSet()) is None
    assert calibrate(frame, fits.Header({"PEDESTAL": -100}), MasterSet()) is None
    assert not has_work(fits.Header({"TRIMSEC": "[1:9999,1:9999]"}), frame.shape, MasterSet())


def test_every_bit_of_the_mask_has_its_cause(stacked: Any) -> None:
    camera = Camera(hot_share=0, top=30_000.0)
    camera.flat[20, 30] = 0.01
    camera.dark_current[40, 50] = 100.0
    made = masters_of(camera, stacked, n=6)
    frame = light(camera).astype("f4")
    frame[60:70, 70:80] = 30_000
    frame[90, 100] = np.nan
    dead = np.zeros(camera.shape, np.uint8)
    dead[110, 120] = MaskBit.DEAD
    done = calibrate(
        frame, fits.Header(), MasterSet(None, made["dark"], made["flat"], Planes(dead, fits.Header(), dead))
    )
    assert done is not None
    mask = done.planes.mask
    assert mask is not None
    assert mask[20, 30] & MaskBit.LOW_RESPONSE
    assert mask[40, 50] == MaskBit.HOT
    assert (mask[60:70, 70:80] == MaskBit.SATURATED).all()
    assert mask[90, 100] == MaskBit.NOT_FINITE
    assert mask[110, 120] == MaskBit.DEAD
    assert (mask > 0).sum() == 104
    assert done.masked_fraction == pytest.approx(104 / mask.size)
    # The level is where the clipped pixels lie now, less the strongest responses' gain on them.
    assert done.saturation_adu is not None
    clipped = done.planes.data[60:70, 70:80]
    assert 0.8 * clipped.min() < done.saturation_adu <= clipped.min() * 1.01
    assert done.planes.header["SATURATE"] == pytest.approx(done.saturation_adu, abs=0.01)


def test_cards_that_no_longer_hold_are_gone(stacked: Any) -> None:
    made = masters_of(Camera(), stacked, n=4)
    header = fits.Header({"DATAMAX": 5.0, "SATLEVEL": 7e4, "OFFSET": 50, "CALSTAT": "", "FILTER": "V", "GAIN": 9})
    done = calibrate(light(Camera()), header, MasterSet(None, made["dark"], made["flat"]))
    assert done is not None
    after = done.planes.header
    assert not {"DATAMAX", "SATLEVEL", "OFFSET"} & set(after)
    assert (after["CALSTAT"], after["FILTER"], after["GAIN"], after["BITPIX"]) == ("DF", "V", 9, -32)


def test_a_warm_pixel_has_more_variance_than_its_neighbours(stacked: Any) -> None:
    camera = Camera(hot_share=0.01, hot_e_s=(0.5, 0.55))
    made = masters_of(camera, stacked)
    done = calibrate(
        light(camera, sky_e=50.0, exposure_s=EXPOSURE_S), fits.Header(), MasterSet(made["bias"], made["dark"]),
        gain_e_per_adu=camera.gain_e_per_adu, read_noise_adu=camera.read_noise_adu,
    )  # fmt: skip
    assert done is not None
    good = done.planes.mask == 0
    warm, cool = camera.hot & good, ~camera.hot & good
    pull = (done.planes.data - 50.0 * camera.flat / 1.5) / np.sqrt(done.planes.variance)
    assert np.std(np.clip(pull[warm], -6, 6)) == pytest.approx(1, abs=0.1)
    assert np.median(done.planes.variance[warm]) > 1.3 * np.median(done.planes.variance[cool])  # type: ignore[index]


def test_a_master_of_another_size_is_refused() -> None:
    flat = Planes(np.ones((10, 10), "f4"), fits.Header())
    with pytest.raises(BadInput) as refused:
        calibrate(light(Camera()), fits.Header(), MasterSet(flat=flat))
    assert refused.value.code == "master-size"
    assert refused.value.hint


def test_masters_are_not_touched(stacked: Any) -> None:
    camera = Camera()
    made = masters_of(camera, stacked, n=4)
    for master in made.values():
        for plane in (master.data, master.mask, master.variance):
            assert plane is not None
            plane.setflags(write=False)
    defects = replace(made["bias"], data=made["bias"].mask)
    masters = MasterSet(made["bias"], made["dark"], made["flat"], defects, dark_scale=0.5)
    frame = light(camera)
    before = frame.copy()
    first, second = (calibrate(frame, fits.Header(), masters, gain_e_per_adu=1.5) for _ in range(2))
    assert first is not None
    assert second is not None
    assert np.array_equal(frame, before)
    assert np.array_equal(first.planes.data, second.planes.data)
    assert np.array_equal(first.planes.variance, second.planes.variance)  # type: ignore[arg-type]
