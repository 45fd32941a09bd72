"""What a node decides by itself: the name of a frame, and what a receipt means."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.errors import BadInput, StarloomError
from starloom.lake import Lake, connect, keys
from starloom.node.submit import name_for, receipt, submit, wait_for_receipt
from starloom.settings import Settings

NAME = "ObsReq-550_TelID-T42_20251201T013000.fits.fz"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = connect(Settings(home=tmp_path / "home"))
    lake.prepare()
    return lake


def tell(lake: Lake, body: Any, name: str = NAME) -> None:
    lake.put_bytes(body if isinstance(body, bytes) else json.dumps(body).encode(), keys.receipt("T42", name))


def frame(path: Path, *, seed: int = 1, **cards: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).integers(100, 200, (64, 64)).astype("i2")
    fits.PrimaryHDU(image, fits.Header(list(cards.items()))).writeto(path)
    return path


def test_a_files_own_name_says_everything(tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        named = name_for(tmp_path / f"{NAME}{suffix}", None, None)
        assert (named.mission, named.node, named.start_utc) == (
            "550",
            "T42",
            datetime(2025, 12, 1, 1, 30, tzinfo=UTC),
        )
    with pytest.raises(BadInput, match="option says 551") as refused:
        name_for(tmp_path / NAME, "551", None)
    assert refused.value.code == "mission-mismatch"


def test_a_name_is_built_from_options_and_header(tmp_path: Path) -> None:
    path = frame(tmp_path / "M31 [L].fits", **{"DATE-OBS": "2025-12-01T01:30:00.25"})
    named = name_for(path, "550", "T42")
    assert named.start_utc == datetime(2025, 12, 1, 1, 30, 0, 250_000, tzinfo=UTC)
    for options in ((None, "T42"), ("550", None)):
        with pytest.raises(BadInput, match="not given"):
            name_for(path, *options)
    with pytest.raises(BadInput) as refused:
        submit_named(path, "55/0")
    assert refused.value.code == "bad-name"


def submit_named(path: Path, mission: str) -> None:
    from starloom.frames import format_name

    format_name(name_for(path, mission, "T42"))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1, 2]", b"{"])
def test_a_receipt_that_is_none_is_said_so(lake: Lake, body: bytes) -> None:
    tell(lake, body)
    with pytest.raises(StarloomError) as broken:
        receipt(lake, "T42", NAME)
    assert broken.value.code == "bad-receipt"


def test_waiting_ends_with_a_settled_receipt_of_this_frame(lake: Lake) -> None:
    assert wait_for_receipt(lake, "T42", NAME, 0.0) is None
    tell(lake, {"frame_id": "old", "settled": True})
    assert wait_for_receipt(lake, "T42", NAME, 0.0, earlier_frame_id="old") is None
    later = threading.Timer(0.2, tell, (lake, {"frame_id": "new", "settled": True, "state": "ready"}))
    later.start()
    found = wait_for_receipt(lake, "T42", NAME, 10.0, earlier_frame_id="old")
    later.join()
    assert found is not None
    assert found["state"] == "ready"


def test_a_frame_is_announced_before_it_is_sent_and_once(lake: Lake, tmp_path: Path) -> None:
    path = frame(tmp_path / NAME.removesuffix(".fz"))
    sent = submit(lake, path)
    assert (sent.state, sent.name) == ("sent", NAME)
    assert sent.key is not None
    said = json.loads(lake.get_bytes(keys.announcement(sent.key), max_bytes=1000))
    stored = lake.stat(sent.key)
    assert stored is not None
    assert (said["name"], said["mission"], said["size"]) == (NAME, "550", stored.size)
    assert stored.metadata == {"pixel-digest": sent.pixel_digest}
    assert submit(lake, path).state == "already-known"


@pytest.mark.parametrize("state", ["quarantined", "withdrawn"])
def test_a_name_that_nobody_holds_any_more_is_free(lake: Lake, tmp_path: Path, state: str) -> None:
    path = frame(tmp_path / NAME.removesuffix(".fz"))
    tell(lake, {"frame_id": "x", "state": state, "pixel_digest": "a" * 64, "settled": True})
    sent = submit(lake, path)
    assert (sent.state, sent.earlier_frame_id) == ("sent", "x")


def test_a_conflicting_copy_is_told_from_the_frame_that_holds_the_name(lake: Lake, tmp_path: Path) -> None:
    first = frame(tmp_path / "a" / NAME.removesuffix(".fz"))
    digest = submit(lake, first).pixel_digest
    original = {"frame_id": "x", "state": "ready", "pixel_digest": digest}
    tell(lake, {"frame_id": "y", "state": "quarantined", "pixel_digest": "b" * 64, "original": original})
    assert submit(lake, first).state == "already-known"
    with pytest.raises(StarloomError) as refused:
        submit(lake, frame(tmp_path / "b" / NAME.removesuffix(".fz"), seed=2))
    assert refused.value.code == "name-conflict"
