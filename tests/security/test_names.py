"""A stranger's words: as the name of a file, and in a header. None becomes a path, a query or a command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from minio.error import S3Error
from pydantic import SecretStr
from sqlalchemy import inspect

from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.calibration import step as calibration
from starloom.frames import parse_name
from starloom.frames import step as ingest
from starloom.hub import Hub
from starloom.lake import keys
from tests.conftest import fresh_database
from tests.security.mutations import CARD, NASTY_TEXTS, Seed, small_seeds, text_card
from tests.steps.conftest import DAY, Station

TIDY = "ObsReq-550_TelID-T42_20261008T220000.fits"
#: Each with what must become of it: the store refuses the key, the hub leaves it in the inbox, or quarantines it.
NAMES = {
    "$(touch starloom-canary).fits": "quarantined",
    ";touch starloom-canary;.fits": "quarantined",
    "`touch starloom-canary`.fits": "quarantined",
    "-rf": "quarantined",
    "--output=starloom-canary": "quarantined",
    "' OR '1'='1": "quarantined",
    "'); DROP TABLE frame;--.fits": "quarantined",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd": "quarantined",
    TIDY.replace("T42", "T\u0442\u0034\u0032"): "quarantined",  # a Cyrillic letter
    TIDY.replace("Obs", "\uff2fbs"): "quarantined",  # a wide O
    TIDY.replace("550", "..%2f..%2fx"): "left",
    TIDY.replace("550", "5/../../x"): "refused",
    TIDY.replace("550", "550\n551"): "left",
    TIDY.replace("550", "\x1b[2J"): "left",
    TIDY.replace("550", "\u202e055"): "left",  # turns the text around
    TIDY.replace("550", "5\\..\\x"): "refused",
    TIDY.replace("550", "5" * 120): "quarantined",
    TIDY.replace("550", "5" * 300): "refused",
    TIDY + "\x00.sh": "refused",
    "..fits": "left",
    ".uploads": "left",
    "con.fits": "quarantined",
    "{0.__class__}.fits": "quarantined",
}


@pytest.fixture
def station(seaweed: Any, postgres_url: str) -> Iterator[Station]:
    """A hub on the real object store and the real PostgreSQL, which holds a text to its column's length."""
    url = fresh_database(postgres_url)
    hub = Hub.open(
        seaweed.settings(lake_url=f"s3://t{uuid4().hex[:19]}", lake_raw_lock_days=0, archive_url=SecretStr(url))
    )
    hub.archive.migrate()
    hub.lake.prepare()
    yield Station(hub)
    hub.lake.close()
    hub.archive.dispose()


@pytest.fixture
def frame(tmp_path: Path) -> Seed:
    return next(seed for seed in small_seeds(tmp_path) if seed.name == "plain-u2.fits")


def test_names_that_are_no_names(
    station: Station, frame: Seed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client, bucket = station.hub.lake._client, station.hub.lake.bucket("inbox/x")  # type: ignore[attr-defined]
    fates: dict[str, str] = {}
    for name in NAMES:
        key = f"inbox/T42/{DAY}/{name}"
        try:
            client._execute("PUT", bucket, key, body=frame.bytes(), headers={})
        except (S3Error, ValueError, OSError):
            fates[name] = "refused"
    before = sorted(path.name for path in tmp_path.iterdir())
    with caplog.at_level(logging.INFO, logger="starloom"):
        found = [station.frame(frame_id) for frame_id in station.discover()]
        for each in found:
            ingest.run(station.hub, each.id)
    for each in (station.frame(each.id) for each in found):
        told = station.receipt(each.name)
        assert (each.disposition, told["code"], bool(told["hint"])) == ("quarantined", "bad-name", True), each.name
        assert each.raw_key is not None
        assert keys.check(each.raw_key).startswith("quarantine/T42/")
        assert each.raw_key.isascii()
        fates[each.name] = "quarantined"
    listed = client.list_objects(bucket, prefix="inbox/", recursive=True)
    for item in listed:
        fates[item.object_name.split("/", 3)[3]] = "left"
    assert fates == NAMES
    assert caplog.text.count("remove the object by hand") == sum(fate == "left" for fate in fates.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not Path("starloom-canary").exists()


def test_words_in_headers_stay_words(station: Station, frame: Seed, tmp_path: Path) -> None:
    """On PostgreSQL, with every text in every place that the hub reads, filed as what it is: text."""
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42")
    before = sorted(path.name for path in tmp_path.iterdir())
    places = ("OBJECT", "FILTER", "TELESCOP", "INSTRUME", "OBSERVER", "IMAGETYP", "SWCREATE", "HISTORY")
    texts = [*NASTY_TEXTS, "y" * 60 + "&"]
    for number, text in enumerate(texts):
        cards = [card for card in frame.hdus[0][0] if card[:8].strip() not in places]
        # Continued, a text is as long as a header may be.
        more = ["CONTINUE  '" + "y" * 60 + "&'".ljust(CARD)] * 20 if text.endswith("&") else []
        made = [line for place in places for line in (text_card(place, text), *more)]
        data = bytearray(frame.hdus[0][1])
        data[0:2] = number.to_bytes(2, "big")  # pixels of its own, or it would be a duplicate
        path = tmp_path / TIDY.replace("T2200", f"T22{number:02d}")
        path.write_bytes(frame.with_hdu(0, [*cards, *made], bytes(data)).bytes())
        station.send(path)
        path.unlink()
    ids = station.discover()
    for frame_id in ids:
        ingest.run(station.hub, frame_id)
        calibration.run(station.hub, frame_id)
    done = [station.frame(frame_id) for frame_id in ids]
    assert len(done) == len(texts)
    for each in done:
        assert (each.disposition, each.ingest, each.last_error) == ("active", "ok", None), each.name
        assert (each.calibrate, each.obs_req, each.node_id) == ("ok", "550", "T42")
        said = [each.filter or "", each.band or "", *(each.header or {}).get("object", {}).values()]
        for word in said:
            assert len(str(word)) <= 200
            assert str(word).isascii()
            assert str(word).isprintable()
        for key in (each.raw_key, keys.stack("550", 1, 1, each.band or "", 0)):
            assert keys.check(str(key)).count("/") == str(key).count("/")
            assert set(str(key)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/")
    assert "frame" in inspect(station.hub.archive.engine).get_table_names()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with station.hub.archive.session() as session:
        assert len(rows.list_frames(session, limit=100)) == len(texts)


def test_a_good_name_is_one() -> None:
    """The control: what the cases above were made of is taken."""
    assert parse_name(TIDY).mission == "550"
