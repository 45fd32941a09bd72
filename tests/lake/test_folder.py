"""What only the folder must withstand: links, half-written files, other owners."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from starloom.errors import Conflict, Unavailable
from starloom.lake import DiskFull, LakeDenied, ObjectMissing, connect
from starloom.lake.folder import FolderLake
from starloom.lake.keys import BadKey
from starloom.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> FolderLake:
    lake = FolderLake(tmp_path / "lake")
    lake.prepare()
    return lake


def test_connect_reads_the_url(tmp_path: Path) -> None:
    wanted = tmp_path / "a lake"
    lake = connect(Settings(home=tmp_path, lake_url=wanted.as_uri()))
    assert isinstance(lake, FolderLake)
    assert lake.root == wanted
    assert not wanted.exists()


def test_links_lead_nowhere(folder: FolderLake, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (folder.root / "stacks").mkdir()
    (folder.root / "stacks" / "link").symlink_to(tmp_path / "secret")
    (folder.root / "inbox").symlink_to(tmp_path)
    for key in ("stacks/link", "inbox/secret", "inbox/new"):
        for attempt in (
            lambda key=key: folder.get_bytes(key, max_bytes=9),
            lambda key=key: folder.put_bytes(b"x", key),
            lambda key=key: folder.delete(key),
            lambda key=key: folder.copy(key, "stacks/x"),
            lambda key=key: folder.presign_get(key, 60),
        ):
            with pytest.raises(BadKey):
                attempt()
    assert (tmp_path / "secret").read_text() == "s"
    assert list(folder.list("")) == []
    with pytest.raises(BadKey):
        list(folder.list("inbox/"))


def test_the_private_folder_holds_no_objects(folder: FolderLake) -> None:
    for key in (".lake/unfinished/x", ".lake"):
        with pytest.raises(BadKey):
            folder.put_bytes(b"x", key)
    folder.put_bytes(b"x", "stacks/a", metadata={"a": "b"})
    assert [item.key for item in folder.list("")] == ["stacks/a"]


def test_of_many_writers_one_wins(folder: FolderLake) -> None:
    outcomes: list[str] = []

    def work(i: int) -> None:
        try:
            folder.put_bytes(str(i).encode() * 100_000, "raw/x", if_absent=True)
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]
    assert len(set(folder.get_bytes("raw/x", max_bytes=100_000))) == 1


def test_a_version_means_another_lake(folder: FolderLake) -> None:
    folder.put_bytes(b"x", "stacks/a")
    assert folder.stat("stacks/a", "v1") is None
    with pytest.raises(ObjectMissing):
        folder.get_bytes("stacks/a", max_bytes=1, version="v1")


def test_what_a_killed_writer_left_is_removed_later(folder: FolderLake) -> None:
    old, new = (folder.root / ".lake" / "unfinished" / name for name in ("old", "new"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert folder.abort_stale_uploads(3600) == 1
    assert not old.exists()
    assert new.exists()


def test_a_full_disk(folder: FolderLake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder.put_bytes(b"old", "stacks/a")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        folder.put_bytes(b"new", "stacks/a")
    assert caught.value.code == "disk-full"
    assert caught.value.retryable
    monkeypatch.undo()
    assert folder.get_bytes("stacks/a", max_bytes=9) == b"old"
    assert list((folder.root / ".lake" / "unfinished").iterdir()) == []


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        FolderLake(tmp_path / "none").ping()
    assert caught.value.code == "lake-unavailable"


def test_refused_by_the_system(folder: FolderLake, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put_bytes(b"x", "stacks/a")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(LakeDenied):
        folder.delete("stacks/a")
