"""Which masters fit a frame: every rule, and the reason where none does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from starloom.calibration.matching import FrameFacts, MasterFacts, MatchOptions, facts_of, match

NIGHT = datetime(2026, 3, 1, 22, tzinfo=UTC)
LIGHT = FrameFacts(
    "light", 400, 300, gain=100.0, offset_adu=50.0, temperature_c=-10.0, exposure_s=120.0, filter="V", start=NIGHT
)


def master(number: int, kind: str, *, days: float = 1.0, n: int = 10, **changes: Any) -> MasterFacts:
    facts = replace(LIGHT, kind=kind, **changes)
    day = NIGHT - timedelta(days=days)
    return MasterFacts(number, facts, day, day, n)


BIAS, DARK, FLAT = master(1, "bias", exposure_s=0.0), master(2, "dark"), master(3, "flat", exposure_s=2.0)


def test_a_full_set_needs_no_bias() -> None:
    found = match(LIGHT, [BIAS, DARK, FLAT])
    assert (found.bias, found.dark, found.flat, found.dark_scale) == (None, 2, 3, 1.0)
    assert found.flags == ()
    assert found.reasons == {"defects": "no defects of this instrument"}
    assert not found.empty


def test_without_masters_the_frame_is_flagged() -> None:
    found = match(LIGHT, [])
    assert found.empty
    assert found.flags == ("uncalibrated",)
    assert set(found.reasons) == {"bias", "dark", "flat", "defects"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"width": 401}, "size"),
        ({"height": 299}, "size"),
        ({"binning": 2}, "binning"),
        ({"gain": 120.0}, "gain"),
        ({"offset_adu": 60.0}, "offset"),
        ({"temperature_c": -7.0}, "temperature"),
        ({"days": 200.0}, "date"),
        ({"days": -200.0}, "date"),
    ],
)
def test_each_rule_rules_a_dark_out_and_says_so(change: dict[str, Any], why: str) -> None:
    found = match(LIGHT, [master(2, "dark", **change)])
    assert found.dark is None
    assert found.reasons["dark"] == f"no dark of this {why}"
    assert "uncalibrated" in found.flags


@pytest.mark.parametrize(
    ("kind", "change", "fits"),
    [
        ("dark", {"temperature_c": -8.0}, True),
        ("dark", {"temperature_c": None}, True),
        ("dark", {"gain": None, "offset_adu": None}, True),
        ("dark", {"exposure_s": 121.0}, True),
        ("dark", {"exposure_s": 125.0}, False),
        ("flat", {"filter": "R"}, False),
        ("flat", {"filter": " v "}, True),
        ("flat", {"filter": None}, False),
        ("flat", {"temperature_c": 25.0, "offset_adu": 10.0, "exposure_s": 1.0}, True),
        ("flat", {"gain": 0.0}, False),
        ("flat", {"days": 60.0}, False),
        ("bias", {"temperature_c": 20.0}, True),
        ("bias", {"days": 300.0}, True),
        ("defects", {"gain": 0.0, "temperature_c": 20.0}, True),
        ("defects", {"binning": 2}, False),
    ],
)
def test_what_matters_depends_on_the_kind(kind: str, change: dict[str, Any], fits: bool) -> None:
    assert (getattr(match(LIGHT, [master(7, kind, **change)]), kind) is not None) == fits


def test_a_dark_is_scaled_only_where_a_bias_exists() -> None:
    longer = master(2, "dark", exposure_s=300.0)
    alone = match(LIGHT, [longer])
    assert alone.dark is None
    assert alone.reasons["dark"] == "no dark of this exposure, and no bias to scale another with"
    both = match(LIGHT, [longer, BIAS])
    assert (both.dark, both.bias, both.dark_scale) == (2, 1, pytest.approx(0.4))
    assert both.flags == ("no-flat",)


@pytest.mark.parametrize("exposure", [20.0, 5000.0])
def test_no_dark_is_scaled_out_of_reason(exposure: float) -> None:
    found = match(LIGHT, [master(2, "dark", exposure_s=exposure), BIAS])
    assert (found.dark, found.bias) == (None, 1)
    assert found.reasons["dark"] == "every dark is too short or too long to be scaled"
    assert found.flags == ("no-dark", "no-flat")


def test_scaling_down_comes_before_scaling_up() -> None:
    found = match(LIGHT, [master(2, "dark", exposure_s=60.0, days=0.1), master(3, "dark", exposure_s=300.0), BIAS])
    assert found.dark == 3


def test_the_nearest_in_time_wins_then_temperature_then_number() -> None:
    masters = [
        master(2, "dark", days=9.0), master(3, "dark", days=-3.0, temperature_c=-9.0),
        master(4, "dark", days=3.0, temperature_c=-9.6), master(5, "dark", days=3.0, temperature_c=-9.6, n=30),
    ]  # fmt: skip
    assert match(LIGHT, masters).dark == 5
    assert match(LIGHT, masters[:3]).dark == 4
    assert match(LIGHT, masters[:2]).dark == 3
    long_run = MasterFacts(6, DARK.facts, NIGHT - timedelta(days=30), NIGHT + timedelta(days=30), 3)
    assert match(LIGHT, [*masters, long_run]).dark == 6


@pytest.mark.parametrize(
    ("calstat", "bias", "dark", "flat", "flags"),
    [
        ("BDF", None, None, None, ()),
        ("F", None, None, None, ("no-dark",)),
        ("D", None, None, 3, ()),
        ("BD", None, None, 3, ()),
        ("B", 1, 2, 3, ()),
        ("C", None, 2, 3, ()),
    ],
)
def test_calstat_is_honoured(
    calstat: str, bias: int | None, dark: int | None, flat: int | None, flags: tuple[str, ...]
) -> None:
    found = match(replace(LIGHT, calstat=calstat), [BIAS, DARK, FLAT])
    assert (found.bias, found.dark, found.flat, found.flags) == (bias, dark, flat, flags)


def test_a_bias_subtracted_frame_needs_a_bias_for_its_dark() -> None:
    found = match(replace(LIGHT, calstat="B"), [DARK])
    assert found.dark is None
    assert "no bias to take out of the dark" in found.reasons["dark"]


def test_a_frame_that_does_not_say_its_exposure_gets_no_dark() -> None:
    found = match(replace(LIGHT, exposure_s=None), [BIAS, DARK])
    assert (found.dark, found.bias) == (None, 1)
    assert found.reasons["dark"] == "the frame does not say its exposure"


def test_options_widen_and_narrow() -> None:
    warm = master(2, "dark", temperature_c=-5.0)
    assert match(LIGHT, [warm], MatchOptions(temperature_c=5.0)).dark == 2
    assert match(LIGHT, [DARK], MatchOptions(dark_days=0.5)).dark is None


def test_facts_come_from_the_normalised_header() -> None:
    said = {
        "gain_setting": 120, "gain_e_per_adu": 0.7, "offset_setting": 30, "binning": 2, "sensor_temp_c": -15.0,
        "exposure_s": 60, "filter": "R", "start_utc": "2026-03-01T22:00:00+00:00", "calstat": "BD",
    }  # fmt: skip
    facts = facts_of(said, (300, 400), "light")
    assert (facts.gain, facts.offset_adu, facts.binning, facts.start) == (120.0, 30.0, 2, NIGHT)
    assert (facts.width, facts.height, facts.calstat) == (400, 300, "BD")
    assert facts_of({"gain_e_per_adu": 0.7}, (3, 4), "light").gain == 0.7
    assert facts_of({}, (3, 4), "light") == FrameFacts("light", 4, 3)
