"""The file-name grammar: what it reads, what it writes, what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.frames.name import BadName, FrameName, format_name, parse_name

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "start",
    [
        "20251201T013000",
        "2025-12-01T01:30:00",
        "2025-12-01T01:30:00Z",
        "20251201T013000.000",
        "20251201T013000+0000",
        "2025-12-01T01:30:00.0000000",
    ],
)
@pytest.mark.parametrize("end", [".fits", ".fits.fz"])
def test_every_spelling_of_the_time(start: str, end: str) -> None:
    frame = parse_name(f"ObsReq-550_TelID-T42_{start}{end}")
    assert frame == FrameName("light", "550", "T42", START, end == ".fits.fz")


def test_uuids_fractions_and_calibration_frames() -> None:
    uuid = "0b9f6a1e-2f6d-4c7b-9d6f-0c3d2b1a4e5f"
    frame = parse_name(f"ObsReq-{uuid}_TelID-obs.42-B_20251201T013000.1234567.fits")
    assert frame.mission == uuid
    assert frame.node == "obs.42-B"
    assert frame.start_utc.microsecond == 123456
    dark = parse_name("Cal-dark_TelID-T42_20251201T013000.fits.fz")
    assert (dark.kind, dark.mission) == ("dark", None)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "M31.fits",
        "ObsReq-_TelID-T42_20251201T013000.fits",
        "ObsReq-550_TelID-_20251201T013000.fits",
        "ObsReq-550_TelID-T42_20251301T013000.fits",  # month 13
        "ObsReq-550_TelID-T42_20250229T013000.fits",  # not a leap year
        "ObsReq-550_TelID-T42_20251201T246000.fits",
        "ObsReq-550_TelID-T42_20251201T013000+0100.fits",  # local time is not UTC
        "ObsReq-550_TelID-T42_20251201T013000.fit",
        "ObsReq-550_TelID-T42_20251201T013000.fits.gz",
        "ObsReq-550_TelID-T42_20251201T013000.fits\n",
        "ObsReq-../x_TelID-T42_20251201T013000.fits",
        "ObsReq-a..b_TelID-T42_20251201T013000.fits",
        "ObsReq-.hidden_TelID-T42_20251201T013000.fits",
        "ObsReq--rf_TelID-T42_20251201T013000.fits",
        "/ObsReq-550_TelID-T42_20251201T013000.fits",
        "ObsReq-55\x000_TelID-T42_20251201T013000.fits",
        "ObsReq-55٠_TelID-T42_20251201T013000.fits",  # an Arabic-Indic digit
        "ObsReq-А1_TelID-T42_20251201T013000.fits",  # a Cyrillic A
        "ObsReq-550_TelID-T42_٢٠251201T013000.fits",
        "Cal-light_TelID-T42_20251201T013000.fits",
        "ObsReq-" + "x" * 300 + "_TelID-T42_20251201T013000.fits",
    ],
)
def test_hostile_and_wrong_names_are_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(BadName) as caught:
        parse_name(name)
    assert caught.value.code == "bad-name"
    assert "ObsReq-" in caught.value.hint
    assert not caught.value.retryable


IDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9\-]{0,35})", fullmatch=True)
TIMES = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(IDS, IDS, TIMES, st.booleans(), st.sampled_from(["light", "bias", "dark", "flat"]))
def test_what_is_written_is_read_again(mission: str, node: str, start: datetime, fz: bool, kind: str) -> None:
    frame = FrameName(kind, mission if kind == "light" else None, node, start, fz)  # type: ignore[arg-type]
    assert parse_name(format_name(frame)) == frame


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_never_worse(text: str) -> None:
    try:
        frame = parse_name(text)
    except BadName:
        return
    assert parse_name(format_name(frame)) == frame


def test_times_must_be_utc_to_be_written() -> None:
    east = START.astimezone(timezone(timedelta(hours=2)))
    with pytest.raises(ValueError, match="UTC"):
        format_name(FrameName("light", "550", "T42", east, False))
    with pytest.raises(BadName):
        format_name(FrameName("light", "5_50", "T42", START, False))


def test_the_hint_shows_both_forms() -> None:
    with pytest.raises(BadName) as caught:
        parse_name("m31.fits")
    for word in caught.value.hint.split():
        if word.endswith(".fits,") and "{" not in word:
            parse_name(word.rstrip(","))
    assert "ObsReq-550_TelID-T42" in caught.value.hint
    assert "Cal-dark_TelID-T42" in caught.value.hint
