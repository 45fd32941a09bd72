from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.errors import BadInput
from starloom.lake import keys

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)
SHA = "ab" * 32


def test_every_key_as_documented() -> None:
    name = "ObsReq-550_TelID-T42_20251201T013000.fits.fz"
    key = keys.inbox("T42", "20251201", name)
    assert key == f"inbox/T42/20251201/{name}"
    assert keys.announcement(key) == f"{key}.announce.json"
    assert keys.raw("T42", START, SHA, compressed=True) == f"raw/T42/20251201/{SHA}.fits.fz"
    assert keys.raw("T42", START, SHA, compressed=False) == f"raw/T42/20251201/{SHA}.fits"
    assert keys.quarantine("T42", SHA, name) == f"quarantine/T42/{SHA}/{name}"
    assert keys.solved("T42", START, "f1", 2) == "solved/T42/20251201/f1/2.fits.fz"
    assert keys.sources("T42", START, "f1", "d0") == "sources/T42/20251201/f1/d0.parquet"
    assert keys.quicklook("T42", START, "f1", 2) == "quicklook/T42/20251201/f1/2.png"
    assert keys.stack("550", 3, 7, "V", 0) == "stacks/550/r3/e7/V_p0.fits"
    assert keys.preview("550", 3, 7, "V", 0) == "stacks/550/r3/e7/V_p0.png"
    assert keys.receipt("T42", name) == f"receipts/T42/{name}.json"
    assert keys.package("550", 3, "data.tar") == "packages/550/r3/data.tar"


def test_parse_inbox_reads_what_inbox_wrote() -> None:
    assert keys.parse_inbox(keys.inbox("T42", "20251201", "a b.fits")) == ("T42", "20251201", "a b.fits")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "inbox",
        "inbox/T42/20251201",
        "inbox/T42/20251201/a/b",
        "inbox/T42/2025-12-01/a",
        "inbox/T42/٢٠٢٥١٢٠١/a",
        "raw/T42/20251201/a",
        "inbox//20251201/a",
        "inbox/T42/20251201/",
        "/inbox/T42/20251201/a",
        "inbox/../20251201/a",
        "inbox/T42/20251201/..",
        "inbox/T42/20251201/a\nb",
        "inbox/T42/20251201/a\x00",
        "inbox/T42/20251201/a\\..\\b",
        "inbox/T42/20251201/a\u202eb",
        "inbox/T42/20251201/" + "a" * 256,
        "inbox/T42/20251201/x.versions",
    ],
)
def test_other_inbox_keys_are_refused(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        keys.parse_inbox(key)
    assert caught.value.code == "bad-key"


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "a\x7f", "..hidden", "a\u2028b"])
def test_no_part_can_leave_its_place(part: str) -> None:
    for make in (
        lambda: keys.inbox(part, "20251201", "x"),
        lambda: keys.inbox("T", "20251201", part),
        lambda: keys.raw(part, START, SHA, compressed=True),
        lambda: keys.solved("T", START, part, 1),
        lambda: keys.stack(part, 1, 1, "V", 0),
        lambda: keys.receipt(part, "x"),
        lambda: keys.package("m", 1, part),
    ):
        with pytest.raises(BadInput):
            make()


def test_a_raw_key_needs_a_digest_and_utc() -> None:
    with pytest.raises(BadInput):
        keys.raw("T", START, SHA.upper(), compressed=True)
    with pytest.raises(ValueError, match="UTC"):
        keys.raw("T", START.replace(tzinfo=None), SHA, compressed=True)
    with pytest.raises(ValueError, match="UTC"):
        keys.raw("T", START.astimezone(timezone(timedelta(hours=1))), SHA, compressed=True)


def test_bands_that_look_alike_stay_apart() -> None:
    bands = [
        "T42:Clear",
        "T42-Clear",
        "T42/Clear",
        "T42 Clear",
        "Hα",
        "H",
        "H?",
        "r'",
        "r",
        "..",
        "",
        "a..b",
        "x.versions",
    ]
    places = {keys.stack("550", 1, 1, band, 0) for band in bands}
    assert len(places) == len(bands)


@given(st.text(max_size=300), st.text(max_size=300))
def test_slugs_are_keys_and_do_not_collide(one: str, other: str) -> None:
    for text in (one, other):
        assert keys.check(keys.slug(text)) == keys.slug(text)
        assert "/" not in keys.slug(text)
    assert (keys.slug(one) == keys.slug(other)) == (one == other)


@given(st.text(max_size=60))
def test_whatever_check_passes_is_no_path(text: str) -> None:
    try:
        keys.check(text)
    except BadInput:
        return
    assert all(part not in {"", ".", ".."} for part in text.split("/"))
    assert text.isprintable() or any(ord(c) > 127 for c in text)
