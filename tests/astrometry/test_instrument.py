"""Instruments: learning a camera's distortion from its frames, and what that is worth to the next one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.astrometry.distortion import design
from starloom.astrometry.instrument import BadInstrument, InstrumentModel, Sample, learn

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def night(exposure_type: Any, camera: Any, frames: int, *, stars: int = 40, first: int = 0, year: float = 2026.0):
    """Samples of frames all over the sky, half of them taken on the other side of the pier."""
    rng = np.random.default_rng([first, 5])
    found = []
    for i in range(frames):
        at = float(rng.uniform(0, 360)), float(rng.uniform(-80, 80))
        drift = camera.__class__(
            **{**camera.__dict__, "scale_arcsec": camera.scale_arcsec * (1 + 1e-3 * rng.normal())}
        )
        turn = 20.0 + 180.0 * (i % 2) + float(rng.normal(0, 0.3))
        exposure = exposure_type(drift, at, turn, stars=stars, seed=first + i, stated_arcsec=0.05)
        found.append(exposure.refined(epoch=year + i / 365.25).sample)
    return found


def displacement(model: InstrumentModel, camera: Any) -> tuple[np.ndarray, np.ndarray]:
    """A model's distortion and the camera's, pixels on a grid, each less the similarity that fits it best."""
    u, v = (a.ravel() for a in np.meshgrid(np.linspace(-0.75, 0.75, 9), np.linspace(-0.55, 0.55, 9)))
    rows = np.concatenate(design(u, v, model.order))
    own = rows[:, 4:] @ model.mean
    r2 = u * u + v * v
    a, b = camera.tilt
    radial = camera.cubic * r2 + camera.quintic * r2 * r2
    true = np.concatenate([u * radial + a * u * u + b * u * v, v * radial + a * u * v + b * v * v])
    plain = rows[:, :4]
    return tuple(d - plain @ np.linalg.lstsq(plain, d, rcond=None)[0] for d in (own, true))


def test_a_camera_is_learnt_whatever_its_frames_look_at(camera_type: Any, exposure_type: Any) -> None:
    camera = camera_type(cubic=3.0, tilt=(0.5, -0.4))
    model = learn(night(exposure_type, camera, 16))
    assert model is not None
    own, true = displacement(model, camera)
    assert np.sqrt(np.mean((own - true) ** 2)) < 0.01
    assert np.sqrt(np.mean(true**2)) > 0.25
    assert (model.frames, model.dropped, model.power) == (16, 0, 3)
    assert model.scale_arcsec == pytest.approx(2.0, rel=1e-3)
    assert 3e-4 < model.scale_scatter < 2e-3
    assert model.scatter_px < 0.06


def test_frames_of_eight_stars_teach_too(camera_type: Any, exposure_type: Any) -> None:
    camera = camera_type(cubic=3.0, tilt=(0.5, -0.4))
    model = learn(night(exposure_type, camera, 40, stars=8))
    assert model is not None
    own, true = displacement(model, camera)
    assert np.sqrt(np.mean((own - true) ** 2)) < 0.05


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_sparse_field_needs_only_position_rotation_and_scale(
    camera_type: Any, exposure_type: Any, mirrored: bool
) -> None:
    camera = camera_type(cubic=4.0, tilt=(0.6, -0.5))
    model = learn(night(exposure_type, camera, 20))
    alone, learnt, said = [], [], []
    for seed in range(100, 112):
        how = {"mirrored": mirrored, "stated_arcsec": 0.05}
        # Another field, the other side of the pier, and a mirror (a flat one changes the sky's parity, not d).
        exposure = exposure_type(camera, (200.0, -60.0), 201.0, stars=10, seed=seed, **how)
        alone.append(exposure.errors(exposure.refined()))
        fit = exposure.refined(instrument=model)
        assert fit.model_used
        assert fit.model == "instrument"
        learnt.append(exposure.errors(fit))
        said.append(fit.error_px(np.array([0.0, 1499.0, 1499.0, 0.0]), np.array([0.0, 0.0, 1099.0, 1099.0])))
    assert np.sqrt(np.mean(np.square(learnt))) < 0.06
    assert np.sqrt(np.mean(np.square(learnt))) < 0.4 * np.sqrt(np.mean(np.square(alone)))
    assert 0.5 < np.sqrt(np.mean(np.square(learnt)[:, :, 1:]) / np.mean(np.square(said))) < 1.5


def test_only_what_came_after_new_optics_counts(camera_type: Any, exposure_type: Any) -> None:
    old, new = camera_type(cubic=3.0), camera_type(cubic=-1.5, tilt=(-0.4, 0.3))
    samples = night(exposure_type, old, 9) + night(exposure_type, new, 7, first=50, year=2026.2)
    for given_order in (samples, samples[::-1]):
        model = learn(given_order)
        assert model is not None
        assert model.frames == 7
        assert model.since == pytest.approx(2026.2)
        own, true = displacement(model, new)
        assert np.sqrt(np.mean((own - true) ** 2)) < 0.02


def test_a_reducer_is_a_change_of_scale(camera_type: Any, exposure_type: Any) -> None:
    samples = night(exposure_type, camera_type(), 6)
    samples += night(exposure_type, camera_type(scale_arcsec=2.6), 5, first=50, year=2026.2)
    model = learn(samples)
    assert model is not None
    assert model.frames == 5
    assert model.scale_arcsec == pytest.approx(2.6, rel=2e-3)


def test_a_frame_that_fits_none_is_put_aside(camera_type: Any, exposure_type: Any) -> None:
    camera = camera_type(cubic=3.0)
    samples = night(exposure_type, camera, 12)
    odd = night(exposure_type, camera_type(cubic=-3.0, tilt=(2.0, 1.0)), 1, first=90)[0]
    model = learn([*samples[:5], odd | {"epoch": samples[5]["epoch"] - 1e-4}, *samples[5:]])
    assert model is not None
    assert (model.frames, model.dropped) == (12, 1)
    own, true = displacement(model, camera)
    assert np.sqrt(np.mean((own - true) ** 2)) < 0.02


def test_scatter_from_frame_to_frame_is_learnt(camera_type: Any, exposure_type: Any) -> None:
    rng = np.random.default_rng(3)
    samples = []
    for i in range(24):
        # A flexible focuser: the tilt changes from frame to frame.
        camera = camera_type(tilt=tuple(float(t) for t in rng.normal(0, 0.5, 2)))
        samples += night(exposure_type, camera, 1, first=i, year=2026.0 + i / 100)
    loose = learn(samples)
    firm = learn(night(exposure_type, camera_type(), 24))
    assert loose is not None
    assert firm is not None
    assert loose.scatter_px > 0.1 > 2 * firm.scatter_px
    assert loose.frames >= 22


def test_optics_without_distortion_have_no_higher_power(camera_type: Any, exposure_type: Any) -> None:
    model = learn(night(exposure_type, camera_type(cubic=0.0, tilt=(0.0, 0.0)), 12))
    assert model is not None
    assert model.power == 1
    assert np.abs(model.mean[2:]).max() == 0.0


def test_a_wide_lens_keeps_its_fifth_power(camera_type: Any, exposure_type: Any) -> None:
    camera = camera_type(scale_arcsec=30.0, cubic=15.0, quintic=-4.0)
    model = learn(night(exposure_type, camera, 6, stars=250))
    assert model is not None
    assert (model.order, model.power) == (5, 5)
    exposure = exposure_type(camera, stars=20, seed=300, catalog_arcsec=0.5)
    fit = exposure.refined(instrument=model)
    assert np.abs(exposure.errors(fit)).max() < 0.25


def test_a_model_of_other_optics_is_not_believed(camera_type: Any, exposure_type: Any) -> None:
    model = learn(night(exposure_type, camera_type(cubic=5.0), 8))
    exposure = exposure_type(camera_type(cubic=-3.0), stars=40, seed=70)
    fit = exposure.refined(instrument=model)
    assert not fit.model_used
    assert np.abs(exposure.errors(fit)).max() < 0.2


def test_a_model_of_another_frame_size_is_not_used(camera_type: Any, exposure_type: Any) -> None:
    model = learn(night(exposure_type, camera_type(width=1000, height=800), 6))
    fit = exposure_type(camera_type()).refined(instrument=model)
    assert not fit.model_used


def test_too_few_frames_teach_nothing(camera_type: Any, exposure_type: Any) -> None:
    assert learn([]) is None
    assert learn(night(exposure_type, camera_type(), 2)) is None


def test_the_mount_is_learnt(camera_type: Any, exposure_type: Any) -> None:
    rng = np.random.default_rng(4)
    samples = night(exposure_type, camera_type(), 12)
    for sample in samples:
        sample["offset_deg"] = [0.2 + 0.01 * rng.normal(), -0.1 + 0.01 * rng.normal()]
    samples[3]["offset_deg"] = [7.0, 7.0]  # the header of another target
    samples[4]["offset_deg"] = None
    model = learn(samples)
    assert model is not None
    assert model.offset_deg == pytest.approx((0.2, -0.1), abs=0.01)
    assert model.offset_scatter_deg == pytest.approx(0.01, rel=0.7)
    assert learn(night(exposure_type, camera_type(), 4)).offset_deg is None  # type: ignore[union-attr]


def test_samples_and_models_survive_json(camera_type: Any, exposure_type: Any) -> None:
    samples = night(exposure_type, camera_type(), 5)
    model = learn(samples)
    assert model is not None
    again = InstrumentModel.from_json(json.loads(json.dumps(model.to_json())))
    assert again.to_json() == model.to_json()
    assert np.allclose(again.covariance, model.covariance, rtol=1e-8, atol=1e-14)
    read = Sample.from_json(json.loads(json.dumps(samples[0])))
    assert read.to_json() == samples[0]
    assert len(json.dumps(samples[0])) < 4000
    assert learn([Sample.from_json(s) for s in samples]).to_json() == model.to_json()  # type: ignore[union-attr]


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_garbage_is_refused_by_name(value: Any) -> None:
    for read in (InstrumentModel.from_json, Sample.from_json):
        with pytest.raises(BadInstrument) as caught:
            read(value)
        assert caught.value.code == "bad-instrument-model"
        assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"order": 4},
        {"mean": [1.0]},
        {"mean": "x"},
        {"covariance": [0.0] * 136},
        {"covariance": [float("nan")] * 136},
        {"scale_arcsec": -1.0},
        {"nx": None},
        {"frames": True},
        {"offset_deg": [1.0]},
        {"since": "yesterday"},
    ],
)
def test_a_damaged_model_is_refused_by_name(camera_type: Any, exposure_type: Any, change: dict[str, Any]) -> None:
    model = learn(night(exposure_type, camera_type(), 3))
    assert model is not None
    with pytest.raises(BadInstrument):
        InstrumentModel.from_json(model.to_json() | change)
    for name in model.to_json():
        if name not in ("since", "offset_deg", "offset_scatter_deg"):
            with pytest.raises(BadInstrument):
                InstrumentModel.from_json({k: v for k, v in model.to_json().items() if k != name})
