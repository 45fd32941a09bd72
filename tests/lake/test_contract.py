"""One contract, held by a folder and by a real S3 server alike."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from starloom.errors import BadInput, Conflict
from starloom.lake import Lake, ObjectMissing
from starloom.lake.keys import BadKey

SHA = "ab" * 32


@pytest.fixture
def here() -> str:
    """A prefix that no other test uses."""
    return f"stacks/{uuid.uuid4().hex}/r1/e1"


def test_put_get_stat(lake: Lake, here: str) -> None:
    stored = lake.put_bytes(b"hello", f"{here}/a.txt", content_type="text/plain", metadata={"Pixel-Digest": "x1"})
    assert (stored.key, stored.size) == (f"{here}/a.txt", 5)
    assert stored.metadata == {"pixel-digest": "x1"}
    assert stored.modified.utcoffset() == timedelta(0)
    assert abs(stored.modified - datetime.now(UTC)) < timedelta(seconds=30)
    assert lake.get_bytes(f"{here}/a.txt", max_bytes=5) == b"hello"
    found = lake.stat(f"{here}/a.txt")
    assert found is not None
    assert (found.size, found.etag, found.version, found.metadata) == (
        5,
        stored.etag,
        stored.version,
        {"pixel-digest": "x1"},
    )


def test_an_empty_object(lake: Lake, here: str, tmp_path: Path) -> None:
    lake.put_bytes(b"", f"{here}/empty")
    assert lake.get_bytes(f"{here}/empty", max_bytes=0) == b""
    assert lake.read_range(f"{here}/empty", 0, 10) == b""
    assert lake.download(f"{here}/empty", tmp_path / "e").size == 0
    assert (tmp_path / "e").read_bytes() == b""


def test_overwriting_changes_bytes_and_etag(lake: Lake, here: str) -> None:
    first = lake.put_bytes(b"one", f"{here}/a", metadata={"n": "1"})
    second = lake.put_bytes(b"two", f"{here}/a")
    assert first.etag != second.etag
    assert lake.get_bytes(f"{here}/a", max_bytes=10) == b"two"
    found = lake.stat(f"{here}/a")
    assert found is not None
    assert found.metadata == {}


def test_if_absent_never_overwrites(lake: Lake, here: str, tmp_path: Path) -> None:
    lake.put_bytes(b"one", f"{here}/a", if_absent=True)
    (tmp_path / "f").write_bytes(b"two")
    for attempt in (
        lambda: lake.put_bytes(b"two", f"{here}/a", if_absent=True),
        lambda: lake.put_file(tmp_path / "f", f"{here}/a", if_absent=True),
    ):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert caught.value.code == "key-exists"
    assert lake.get_bytes(f"{here}/a", max_bytes=10) == b"one"


def test_get_bytes_is_bounded(lake: Lake, here: str) -> None:
    lake.put_bytes(b"x" * 1000, f"{here}/a")
    with pytest.raises(BadInput) as caught:
        lake.get_bytes(f"{here}/a", max_bytes=999)
    assert caught.value.code == "object-too-large"
    assert len(lake.get_bytes(f"{here}/a", max_bytes=1000)) == 1000


def test_ranges(lake: Lake, here: str) -> None:
    data = bytes(range(256)) * 40
    lake.put_bytes(data, f"{here}/a")
    for start, stop in (
        (0, 10),
        (100, 5000),
        (10_000, 20_000),
        (10_240, 10_250),
        (50_000, 60_000),
        (7, 7),
        (9, 3),
    ):
        assert lake.read_range(f"{here}/a", start, stop) == data[start:stop]
    with pytest.raises(ValueError, match="negative"):
        lake.read_range(f"{here}/a", -1, 4)


def test_open_seeks(lake: Lake, here: str) -> None:
    data = os.urandom(3 * 2**20)
    lake.put_bytes(data, f"{here}/a")
    with lake.open(f"{here}/a") as stream:
        stream.seek(2_000_000)
        assert stream.read(1000) == data[2_000_000:2_001_000]
        stream.seek(-10, os.SEEK_END)
        assert stream.read() == data[-10:]
        stream.seek(0)
        assert stream.read(4) == data[:4]


def test_what_is_missing(lake: Lake, here: str, tmp_path: Path) -> None:
    key = f"{here}/nothing"
    assert lake.stat(key) is None
    for attempt in (
        lambda: lake.get_bytes(key, max_bytes=1),
        lambda: lake.read_range(key, 0, 1),
        lambda: lake.read_range(key, 3, 3),
        lambda: lake.download(key, tmp_path / "x"),
        lambda: lake.open(key),
        lambda: lake.copy(key, f"{here}/b"),
        lambda: lake.copy(key, f"{here}/b", if_absent=True),
    ):
        with pytest.raises(ObjectMissing) as caught:
            attempt()
        assert caught.value.code == "object-missing"
        assert not caught.value.retryable
        assert key in caught.value.message
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "x").exists()


def test_delete_is_idempotent(lake: Lake, here: str) -> None:
    lake.put_bytes(b"x", f"{here}/a", metadata={"a": "b"})
    lake.delete(f"{here}/a")
    lake.delete(f"{here}/a")
    lake.delete(f"{here}/never/was")
    lake.delete(here)
    assert lake.stat(f"{here}/a") is None
    assert list(lake.list(here)) == []


def test_list(lake: Lake, here: str) -> None:
    names = ["a", "b/c", "b/d", "b.fits", "ä +%&=?#x"]
    for name in names:
        lake.put_bytes(b"12", f"{here}/{name}")
    found = list(lake.list(f"{here}/"))
    assert sorted(item.key for item in found) == sorted(f"{here}/{name}" for name in names)
    assert {item.size for item in found} == {2}
    assert all(item.modified.utcoffset() == timedelta(0) for item in found)
    assert {item.key for item in lake.list(f"{here}/b")} == {f"{here}/{n}" for n in ("b/c", "b/d", "b.fits")}
    stored = lake.stat(f"{here}/a")
    assert stored is not None
    assert next(item.etag for item in found if item.key == f"{here}/a") == stored.etag
    assert list(lake.list("inbox/nobody-there/")) == []


def test_list_crosses_the_buckets(lake: Lake, node: str) -> None:
    lake.put_bytes(b"x", f"inbox/{node}/20250101/a")
    lake.put_bytes(b"x", f"receipts/{node}/a.json")
    found = {item.key for item in lake.list("") if node in item.key}
    assert found == {f"inbox/{node}/20250101/a", f"receipts/{node}/a.json"}


def test_more_than_one_page(lake: Lake, here: str) -> None:
    for i in range(1005):
        lake.put_bytes(b"", f"{here}/{i:04d}")
    assert [item.key for item in lake.list(f"{here}/")] == [f"{here}/{i:04d}" for i in range(1005)]


def test_copy_from_inbox_to_raw(lake: Lake, node: str) -> None:
    source, target = f"inbox/{node}/20250101/ä b.fits", f"raw/{node}/20250101/{SHA}.fits"
    lake.put_bytes(b"pixels", source, metadata={"pixel-digest": "d"})
    stored = lake.copy(source, target, if_absent=True)
    assert (stored.key, stored.size, stored.metadata) == (target, 6, {"pixel-digest": "d"})
    assert lake.get_bytes(target, max_bytes=10, version=stored.version) == b"pixels"
    lake.put_bytes(b"others", source)
    with pytest.raises(Conflict) as caught:
        lake.copy(source, target, if_absent=True)
    assert caught.value.code == "key-exists"
    assert lake.get_bytes(target, max_bytes=10) == b"pixels"


def test_copy_overwrites_unless_told_not_to(lake: Lake, here: str) -> None:
    lake.put_bytes(b"1", f"{here}/a")
    lake.put_bytes(b"2", f"{here}/b")
    lake.copy(f"{here}/a", f"{here}/b")
    assert lake.get_bytes(f"{here}/b", max_bytes=10) == b"1"


def test_copy_takes_only_what_was_looked_at(lake: Lake, node: str) -> None:
    source = f"inbox/{node}/20250101/a"
    seen = lake.put_bytes(b"looked at", source)
    lake.copy(source, f"quarantine/{node}/{SHA}/a", if_absent=True, if_match=seen.etag)
    lake.put_bytes(b"exchanged", source)
    target = f"quarantine/{node}/{SHA}/b"
    for if_absent in (True, False):
        with pytest.raises(Conflict) as caught:
            lake.copy(source, target, if_absent=if_absent, if_match=seen.etag)
        assert caught.value.code == "source-changed"
    assert lake.stat(target) is None
    with pytest.raises(Conflict) as caught:
        lake.copy(source, f"quarantine/{node}/{SHA}/a", if_absent=True)
    assert caught.value.code == "key-exists"


def test_files_there_and_back(lake: Lake, here: str, tmp_path: Path) -> None:
    data = os.urandom(123_456)
    (tmp_path / "in.fits").write_bytes(data)
    stored = lake.put_file(tmp_path / "in.fits", f"{here}/x.fits", metadata={"pixel-digest": "p"})
    assert (stored.size, stored.metadata) == (len(data), {"pixel-digest": "p"})
    (tmp_path / "out").write_bytes(b"old")
    got = lake.download(f"{here}/x.fits", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert (got.size, got.etag) == (stored.size, stored.etag)
    with lake.local_copy(f"{here}/x.fits") as path:
        assert path.name == "x.fits"
        assert path.read_bytes() == data
    assert not path.exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"in.fits", "out", "home"}


def test_a_failed_download_leaves_the_old_file(lake: Lake, here: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(ObjectMissing):
        lake.download(f"{here}/none", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_file_that_is_not_there(lake: Lake, here: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        lake.put_file(tmp_path / "none.fits", f"{here}/x")
    assert caught.value.code == "no-such-file"


def test_presigned_get(lake: Lake, here: str) -> None:
    lake.put_bytes(b"for all", f"{here}/ä b.png")
    url = lake.presign_get(f"{here}/ä b.png", 60)
    if url.startswith("file:"):
        assert Path(unquote(urlsplit(url).path)).read_bytes() == b"for all"
    else:
        answer = httpx.get(url)
        assert (answer.status_code, answer.content) == (200, b"for all")
        assert httpx.get(url.replace(here, here[:-1] + "2")).status_code == 403
        assert httpx.put(url, content=b"x").status_code == 403
        assert httpx.get(url.split("?", maxsplit=1)[0]).status_code == 403


def test_presigned_put(lake: Lake, node: str) -> None:
    url = lake.presign_put(f"inbox/{node}/20250101/a.fits", 60)
    if url.startswith("file:"):
        return
    assert httpx.put(url, content=b"sent").status_code == 200
    assert lake.get_bytes(f"inbox/{node}/20250101/a.fits", max_bytes=10) == b"sent"


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a//b", "a/", "stacks/../x", "..", "stacks/a\nb", "a\\b", "stacks/.", "stacks/" + "x" * 300],
)
def test_bad_keys_are_refused_everywhere(lake: Lake, key: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    for attempt in (
        lambda: lake.put_bytes(b"x", key),
        lambda: lake.put_file(tmp_path / "f", key),
        lambda: lake.get_bytes(key, max_bytes=1),
        lambda: lake.read_range(key, 0, 1),
        lambda: lake.download(key, tmp_path / "g"),
        lambda: lake.open(key),
        lambda: lake.stat(key),
        lambda: lake.copy(key, "stacks/x"),
        lambda: lake.copy("stacks/x", key),
        lambda: lake.delete(key),
        lambda: lake.presign_get(key, 60),
        lambda: lake.presign_put(key, 60),
    ):
        with pytest.raises(BadKey) as caught:
            attempt()
        assert caught.value.code == "bad-key"


@pytest.mark.parametrize("metadata", [{"a b": "x"}, {"a": "x\ny"}, {"a": "ä"}, {"a": "x" * 3000}])
def test_metadata_that_no_header_can_carry(lake: Lake, here: str, metadata: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        lake.put_bytes(b"x", f"{here}/a", metadata=metadata)


def test_prepare_and_ping_may_be_repeated(lake: Lake) -> None:
    lake.prepare()
    lake.prepare()
    lake.ping()


def test_no_stale_uploads_is_no_error(lake: Lake) -> None:
    assert lake.abort_stale_uploads(3600) == 0


def test_close_is_not_the_end(lake: Lake, here: str) -> None:
    lake.put_bytes(b"abc", f"{here}/a")
    assert lake.read_range(f"{here}/a", 1, 2) == b"b"
    lake.close()
    assert lake.read_range(f"{here}/a", 1, 2) == b"b"
