"""What only a real S3 server does: versions, the object lock, uploads in parts, refusals and silence."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from minio.commonconfig import GOVERNANCE
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from starloom.errors import BadInput, Conflict, StarloomError, Unavailable
from starloom.lake import LakeDenied, ObjectMissing, connect, uploads, wire
from starloom.lake.answers import explain
from starloom.lake.s3 import S3Lake
from starloom.settings import Settings

MIB = 2**20


@pytest.fixture
def digest() -> str:
    return uuid.uuid4().hex * 2


@pytest.fixture
def parts_lake(seaweed_settings: Settings) -> Any:
    """A lake that sends anything above 1 MiB in parts of 5 MiB, and counts them."""
    lake = _lake(seaweed_settings, multipart_threshold=MIB, part_size=5 * MIB)
    yield lake
    lake.close()


def _lake(settings: Settings, **options: Any) -> S3Lake:
    values: dict[str, Any] = {
        "endpoint": settings.lake_endpoint,
        "access_key": settings.lake_access_key,
        "secret_key": settings.lake_secret_key.get_secret_value(),
        "raw_lock_days": settings.lake_raw_lock_days,
    }
    return S3Lake("starloom", **(values | options))


def test_products_keep_their_versions(s3: S3Lake, node: str) -> None:
    key = f"solved/{node}/20250101/f/1.fits.fz"
    first, second = s3.put_bytes(b"one", key), s3.put_bytes(b"second", key)
    assert first.version
    assert second.version
    assert first.version != second.version
    assert s3.get_bytes(key, max_bytes=10, version=first.version) == b"one"
    assert s3.read_range(key, 1, 3, version=first.version) == b"ne"
    assert s3.read_range(key, 1, 3) == b"ec"
    with s3.open(key, version=first.version) as stream:
        assert stream.read() == b"one"
    old = s3.stat(key, first.version)
    assert old is not None
    assert (old.size, old.version) == (3, first.version)
    s3.delete(key)
    assert s3.stat(key) is None
    assert s3.get_bytes(key, max_bytes=10, version=second.version) == b"second"
    assert s3.stat(key, "0" * 32) is None
    with pytest.raises(ObjectMissing):
        s3.get_bytes(key, max_bytes=10, version="0" * 32)


def test_an_open_file_keeps_its_version(s3: S3Lake, node: str) -> None:
    key = f"solved/{node}/20250101/f/1.fits.fz"
    s3.put_bytes(b"a" * 3 * MIB, key)
    with s3.open(key) as stream:
        assert stream.read(10) == b"a" * 10
        s3.put_bytes(b"b" * 3 * MIB, key)
        stream.seek(2 * MIB)
        assert stream.read(10) == b"a" * 10


def test_the_inbox_keeps_no_versions(s3: S3Lake, node: str) -> None:
    stored = s3.put_bytes(b"x", f"inbox/{node}/20250101/a")
    assert stored.version is None
    with s3.open(stored.key) as stream:
        assert stream.read() == b"x"


@pytest.mark.parametrize("way", ["put", "copy", "parts"])
def test_a_raw_version_cannot_be_deleted(
    s3: S3Lake, parts_lake: S3Lake, node: str, digest: str, way: str, big_file: Path
) -> None:
    key = f"raw/{node}/20250101/{digest}.fits"
    if way == "put":
        stored = s3.put_bytes(b"pixels", key)
    elif way == "copy":
        s3.put_bytes(b"pixels", f"inbox/{node}/20250101/a")
        stored = s3.copy(f"inbox/{node}/20250101/a", key, if_absent=True)
    else:
        stored = parts_lake.put_file(big_file, key)
    client, bucket = s3._client, "starloom-raw"
    held = client.get_object_retention(bucket, key, version_id=stored.version)
    assert held.mode == GOVERNANCE
    assert (held.retain_until_date - stored.modified).days in {s3.raw_lock_days, s3.raw_lock_days - 1}
    with pytest.raises(S3Error, match="AccessDenied"):
        client.remove_object(bucket, key, version_id=stored.version)
    refused = list(client.remove_objects(bucket, [DeleteObject(key, stored.version)]))
    assert [error.code for error in refused] == ["AccessDenied"]
    # Deleted or overwritten by name, the pinned version still reads.
    s3.delete(key)
    s3.put_bytes(b"other", key)
    assert s3.read_range(key, 0, 3, version=stored.version) == (
        b"pix" if way != "parts" else big_file.read_bytes()[:3]
    )


def test_a_copy_that_died_before_its_lock_is_locked_by_the_next(s3: S3Lake, node: str, digest: str) -> None:
    source, key = f"inbox/{node}/20250101/a", f"raw/{node}/20250101/{digest}.fits"
    s3.put_bytes(b"pixels", source)
    version = wire.copy(s3._client, ("starloom-inbox", source), ("starloom-raw", key), {})
    with pytest.raises(Conflict):
        s3.copy(source, key, if_absent=True)
    with pytest.raises(S3Error, match="AccessDenied"):
        s3._client.remove_object("starloom-raw", key, version_id=version)


def test_of_many_copies_at_once_one_wins(s3: S3Lake, node: str, digest: str) -> None:
    source, key = f"inbox/{node}/20250101/a", f"quarantine/{node}/{digest}/a"
    s3.put_bytes(b"pixels", source)
    outcomes: list[str] = []

    def work() -> None:
        try:
            s3.copy(source, key, if_absent=True)
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]
    assert len(list(s3._client.list_objects("starloom-raw", prefix=key, include_version=True))) == 1


def test_a_big_file_in_parts(parts_lake: S3Lake, node: str, big_file: Path, tmp_path: Path) -> None:
    key = f"inbox/{node}/20250101/ä b.fits.fz"
    stored = parts_lake.put_file(big_file, key, metadata={"pixel-digest": "d"})
    assert stored.size == big_file.stat().st_size
    found = parts_lake.stat(key)
    assert found is not None
    assert (found.etag, found.size, found.metadata) == (stored.etag, stored.size, {"pixel-digest": "d"})
    parts_lake.download(key, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big_file.read_bytes()
    with pytest.raises(Conflict):
        parts_lake.put_file(big_file, key, if_absent=True)
    copied = parts_lake.copy(key, f"quarantine/{node}/{'0' * 64}/b", if_absent=True, if_match=stored.etag)
    assert copied.size == stored.size
    assert wire.list_uploads(parts_lake._client, "starloom-inbox", f"inbox/{node}") == []


def _cut_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> list[int]:
    """Let so many parts through, then fail as a broken line does; return the numbers of the parts sent."""
    sent: list[int] = []
    real = wire.put_part

    def put_part(client: Any, bucket: str, key: str, upload_id: str, number: int, data: bytes) -> str:
        if len(sent) >= parts:
            raise Unavailable("the line broke", code="lake-unavailable")
        sent.append(number)
        return real(client, bucket, key, upload_id, number, data)

    monkeypatch.setattr(uploads.wire, "put_part", put_part)
    return sent


def test_an_interrupted_upload_goes_on(
    parts_lake: S3Lake, node: str, big_file: Path, monkeypatch: pytest.MonkeyPatch, seaweed_settings: Settings
) -> None:
    key = f"inbox/{node}/20250101/big.fits.fz"
    with monkeypatch.context() as patch:
        assert _cut_after(patch, 2) == []
        with pytest.raises(Unavailable):
            parts_lake.put_file(big_file, key, metadata={"pixel-digest": "d"})
    assert parts_lake.stat(key) is None
    another = _lake(seaweed_settings, multipart_threshold=MIB, part_size=5 * MIB)  # as after a restart
    sent = _cut_after(monkeypatch, 99)
    stored = another.put_file(big_file, key, metadata={"pixel-digest": "d"})
    another.close()
    assert sent == [3]
    assert stored.size == big_file.stat().st_size
    with parts_lake.local_copy(key) as path:
        assert path.read_bytes() == big_file.read_bytes()
    assert wire.list_uploads(parts_lake._client, "starloom-inbox", f"inbox/{node}") == []


def test_parts_of_another_file_are_never_mixed_in(
    parts_lake: S3Lake, node: str, big_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"inbox/{node}/20250101/big.fits.fz"
    with monkeypatch.context() as patch:
        _cut_after(patch, 2)
        with pytest.raises(Unavailable):
            parts_lake.put_file(big_file, key)
    data = bytearray(big_file.read_bytes())
    data[5 * MIB + 1] ^= 1  # the first part is the same, the second is not
    big_file.write_bytes(data)
    sent = _cut_after(monkeypatch, 99)
    parts_lake.put_file(big_file, key)
    assert sent == [1, 2, 3]
    with parts_lake.local_copy(key) as path:
        assert path.read_bytes() == bytes(data)


def test_a_file_that_changes_while_it_is_sent(
    parts_lake: S3Lake, node: str, big_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"inbox/{node}/20250101/big.fits.fz"
    real = wire.put_part

    def put_part(*args: Any) -> str:
        with big_file.open("ab") as stream:
            stream.write(b"more")
        return real(*args)

    monkeypatch.setattr(uploads.wire, "put_part", put_part)
    with pytest.raises(BadInput) as caught:
        parts_lake.put_file(big_file, key)
    assert caught.value.code == "file-changed"
    assert parts_lake.stat(key) is None
    assert wire.list_uploads(parts_lake._client, "starloom-inbox", f"inbox/{node}") == []


def test_stale_uploads_are_aborted(s3: S3Lake, node: str) -> None:
    key = f"inbox/{node}/20250101/ä +%.fits"
    upload_id = wire.begin_upload(s3._client, "starloom-inbox", key, {})
    wire.put_part(s3._client, "starloom-inbox", key, upload_id, 1, b"x")
    assert s3.abort_stale_uploads(3600) == 0
    assert [item[:2] for item in wire.list_uploads(s3._client, "starloom-inbox", f"inbox/{node}/")] == [
        (key, upload_id)
    ]
    assert s3.abort_stale_uploads(-5) >= 1  # other tests leave theirs too
    assert wire.list_uploads(s3._client, "starloom-inbox", f"inbox/{node}/") == []


def test_part_sizes_fit_ten_thousand_parts() -> None:
    assert uploads.part_size_for(1, 8 * MIB) == 8 * MIB
    size = 200 * 2**30
    part = uploads.part_size_for(size, 8 * MIB)
    assert -(-size // part) <= uploads.MAX_PARTS
    assert part % MIB == 0


def test_a_wrong_secret_is_denied(seaweed_settings: Settings, tmp_path: Path, node: str) -> None:
    (tmp_path / "f").write_bytes(b"x")
    for changes in ({"secret_key": "wrong"}, {"access_key": "nobody"}):
        lake = _lake(seaweed_settings, **changes)
        for attempt in (
            lake.ping,
            lake.prepare,
            lambda lake=lake: lake.put_bytes(b"x", f"inbox/{node}/20250101/a"),
            lambda lake=lake: lake.put_file(tmp_path / "f", f"inbox/{node}/20250101/a"),
            lambda lake=lake: lake.get_bytes("receipts/x/y.json", max_bytes=1),
            lambda lake=lake: lake.read_range("receipts/x/y.json", 0, 1),
            lambda lake=lake: lake.open("receipts/x/y.json"),
            lambda lake=lake: lake.stat("receipts/x/y.json"),
            lambda lake=lake: list(lake.list("inbox/")),
            lambda lake=lake: lake.delete("receipts/x/y.json"),
            lambda lake=lake: lake.abort_stale_uploads(0),
        ):
            with pytest.raises(LakeDenied) as caught:
                attempt()
            assert caught.value.code == "lake-denied"
            assert not caught.value.retryable
            assert caught.value.hint
        lake.close()


def test_a_clock_that_is_wrong_is_named_as_the_server_names_it() -> None:
    error = explain("RequestTimeTooSkewed", "The difference … is too large.", "receipts/T1/x.json")
    assert (error.code, error.retryable) == ("lake-denied", False)
    assert "RequestTimeTooSkewed" in error.message
    assert "clock" in error.hint


def test_nobody_answers(seaweed_settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lake = _lake(seaweed_settings, endpoint=f"http://127.0.0.1:{port}")
    for attempt in (
        lake.ping,
        lambda: lake.put_bytes(b"x", "receipts/x/y.json"),
        lambda: lake.get_bytes("receipts/x/y.json", max_bytes=1),
        lambda: lake.read_range("receipts/x/y.json", 0, 1),
        lambda: lake.open("receipts/x/y.json"),
        lambda: lake.download("receipts/x/y.json", tmp_path / "x"),
        lambda: list(lake.list("")),
    ):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert caught.value.code == "lake-unavailable"
        assert caught.value.retryable
        assert "STARLOOM_LAKE_ENDPOINT" in caught.value.hint
    lake.close()


_ANSWERS = {
    "html": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    "cut": b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 5000\r\nConnection: close\r\n\r\nhello',
    "bad gateway": b"HTTP/1.1 502 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "full": b"HTTP/1.1 507 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


@pytest.fixture
def impostor(request: pytest.FixtureRequest) -> Iterator[str]:
    """An endpoint that gives the same raw answer to whatever is asked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)

        def answer() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(65536)
                    caller.sendall(_ANSWERS[request.param])

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("impostor", "code"),
    [
        ("html", "lake-unavailable"),
        ("cut", "lake-unavailable"),
        ("bad gateway", "lake-unavailable"),
        ("full", "disk-full"),
    ],
    indirect=["impostor"],
)
def test_broken_servers_and_those_that_are_none(impostor: str, code: str) -> None:
    lake = S3Lake("p", endpoint=impostor, access_key="a", secret_key="b")
    attempts: list[Callable[[], object]] = [
        lambda: lake.put_bytes(b"x", "stacks/a"),
        lambda: lake.copy("stacks/a", "stacks/b"),
        lambda: list(lake.list("stacks/")),
        lambda: lake.abort_stale_uploads(1),
        lake.prepare,
    ]
    for attempt in attempts:
        with pytest.raises(StarloomError) as caught:
            attempt()
        assert caught.value.code == code
        assert caught.value.retryable
    lake.close()


@pytest.mark.parametrize("impostor", ["cut"], indirect=True)
def test_a_body_that_breaks_off(impostor: str, tmp_path: Path) -> None:
    lake = S3Lake("p", endpoint=impostor, access_key="a", secret_key="b")
    (tmp_path / "old").write_bytes(b"old")
    for attempt in (
        lambda: lake.get_bytes("stacks/a", max_bytes=10_000),
        lambda: lake.read_range("stacks/a", 0, 5000),
        lambda: lake.download("stacks/a", tmp_path / "old"),
    ):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert caught.value.code == "lake-unavailable"
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old", b"old")]
    lake.close()


def test_lake_without_buckets_says_so(seaweed_settings: Settings) -> None:
    lake = connect(seaweed_settings.model_copy(update={"lake_url": "s3://nothing-here"}))
    with pytest.raises(StarloomError) as caught:
        lake.ping()
    assert caught.value.code == "lake-not-prepared"
    with pytest.raises(StarloomError) as caught:
        lake.get_bytes("stacks/a", max_bytes=1)
    assert caught.value.code == "lake-not-prepared"
    lake.close()


def test_a_lake_without_lock(seaweed_settings: Settings, digest: str) -> None:
    lake = connect(seaweed_settings.model_copy(update={"lake_url": "s3://unlocked", "lake_raw_lock_days": 0}))
    lake.prepare()
    lake.put_bytes(b"x", "inbox/T/20250101/a")
    stored = lake.copy("inbox/T/20250101/a", f"raw/T/20250101/{digest}.fits", if_absent=True)
    assert stored.version
    assert isinstance(lake, S3Lake)
    lake._client.remove_object("unlocked-raw", stored.key, version_id=stored.version)
    assert lake.stat(stored.key) is None
    lake.close()


def test_the_public_endpoint_is_what_is_signed(seaweed_settings: Settings) -> None:
    lake = connect(seaweed_settings.model_copy(update={"lake_public_endpoint": "https://lake.example.org:8443"}))
    assert lake.presign_get("stacks/a", 60).startswith("https://lake.example.org:8443/starloom-products/stacks/a?")
    lake.close()


@pytest.mark.parametrize("seconds", [0, -1, 7 * 86400 + 1, float("nan")])
def test_presigned_lifetimes_have_bounds(s3: S3Lake, seconds: float) -> None:
    with pytest.raises(BadInput) as caught:
        s3.presign_get("stacks/a", seconds)
    assert caught.value.code == "bad-presign-lifetime"


def test_presigned_urls_expire(s3: S3Lake, node: str) -> None:
    s3.put_bytes(b"x", f"stacks/{node}/a")
    url = s3.presign_get(f"stacks/{node}/a", 1)
    time.sleep(2.5)
    assert httpx.get(url).status_code == 403


@pytest.mark.parametrize("endpoint", ["", "localhost:9000", "ftp://x", "http://", "http://host/path"])
def test_endpoints_of_another_form(seaweed_settings: Settings, endpoint: str) -> None:
    with pytest.raises(BadInput) as caught:
        _lake(seaweed_settings, endpoint=endpoint)
    assert caught.value.code == "bad-lake-endpoint"


@pytest.mark.parametrize("url", ["s3://", "http://x", "file://host/x", "s3://a/b", "/tmp/x"])
def test_urls_of_another_form(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput) as caught:
        connect(Settings(home=tmp_path, lake_url=url))
    assert caught.value.code == "bad-lake-url"
