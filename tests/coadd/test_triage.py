from __future__ import annotations

import pytest

from starloom.coadd.inputs import InputFrame
from starloom.coadd.plan import PlanFrame
from starloom.coadd.triage import triage


def planned(name, *, fwhm=3.0, scale=1.0, sigma=1.0, rms=None, exposure=60.0, node="T1"):
    item = InputFrame(
        id=name, path=name, band="V", node=node, exposure_s=exposure, sky_sigma_adu=sigma / scale, fwhm_arcsec=fwhm
    )
    return PlanFrame(
        input=item, shape=(100, 100), wcs_cards={}, scale=scale, sigma=sigma, weight=1 / sigma**2, fwhm_px=fwhm,
        registration_rms_px=rms,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("harmful", "reason"),
    [
        ({"fwhm": 8.0, "sigma": 3.0}, "poor-seeing"),
        ({"scale": 8.0, "sigma": 8.0}, "low-transparency"),
        ({"rms": 1.2}, "misregistered"),
        ({"rms": 0.8, "fwhm": 1.4}, "misregistered"),
    ],
)
def test_frames_that_would_harm_are_left_out_with_the_reason(harmful, reason):
    frames = triage([*(planned(f"{n}", rms=0.05) for n in range(4)), planned("x", **harmful)])
    assert [f.reason for f in frames] == [None] * 4 + [reason]
    assert frames[-1].weight == 0


@pytest.mark.parametrize(
    "worse",
    [
        {"fwhm": 8.0},  # blurred but deep
        {"fwhm": 7.0, "sigma": 3.0},
        {"sigma": 20.0},
        {"scale": 5.0},
        {"scale": 8.0, "exposure": 5.0},  # short, not dimmed
        {"scale": 8.0, "node": "T2"},  # a smaller telescope
        {"rms": 0.6},
    ],
)
def test_a_weight_takes_care_of_frames_that_are_merely_worse(worse):
    frames = triage([*(planned(f"{n}") for n in range(4)), planned("x", **worse)])
    assert {f.reason for f in frames} == {None}


def test_a_reason_given_before_stays():
    before = planned("x").model_copy(update={"weight": 0.0, "reason": "too-few-stars"})
    assert triage([before]) == [before]
