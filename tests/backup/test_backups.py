"""Taking a backup, keeping it, and everything that a restore refuses before it changes anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from minio import Minio
from sqlalchemy import create_engine
from sqlmodel import select

from starloom import backup
from starloom.archive import Archive, missions
from starloom.archive.models import Mission
from starloom.archive.schema import newest_schema
from starloom.backup import manifest, postgres
from starloom.backup.places import FolderPlace, choose, place_of
from starloom.errors import StarloomError
from starloom.settings import Settings
from tests.archive.conftest import archive, empty_archive
from tests.backup.conftest import destroy_database
from tests.lake.conftest import RunningSeaweed, seaweed

__all__ = ["archive", "empty_archive", "seaweed"]


def settings_for(archive: Archive, home: Path) -> Settings:
    return Settings(home=home, archive_url=archive.url.render_as_string(hide_password=False))  # type: ignore[arg-type]


def create(archive: Archive, *names: str) -> None:
    with archive.transaction() as session:
        for name in names:
            missions.create_mission(session, name)


def names(archive: Archive) -> set[str]:
    with archive.session() as session:
        return set(session.exec(select(Mission.id)).all())


@pytest.fixture
def place(archive: Archive, tmp_path: Path) -> Path:
    """A backup of an archive with one mission, and another mission that came later."""
    create(archive, "old")
    backup.take(settings_for(archive, tmp_path), archive, str(tmp_path / "backups"))
    create(archive, "new")
    return tmp_path / "backups"


def restore(archive: Archive, place: Path, tmp_path: Path, *, force: bool = False) -> manifest.Manifest:
    return backup.restore(settings_for(archive, tmp_path), archive, str(place), force=force)


def refused(archive: Archive, place: Path, tmp_path: Path, *, force: bool = True) -> str:
    """Restore in vain, see that nothing was changed, and return the code."""
    with pytest.raises(StarloomError) as error:
        restore(archive, place, tmp_path, force=force)
    assert error.value.hint
    assert names(archive) == {"old", "new"}
    return error.value.code


def change_manifest(place: Path, **changes: object) -> None:
    [path] = place.glob(f"*/{manifest.NAME}")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_there_is_there_again(archive: Archive, place: Path, tmp_path: Path) -> None:
    with pytest.raises(StarloomError) as error:
        restore(archive, place, tmp_path)
    assert error.value.code == "archive-not-empty"
    said = restore(archive, place, tmp_path, force=True)
    assert names(archive) == {"old"}
    assert said.rows["mission"] == 1
    assert said.schema_revision == newest_schema()
    create(archive, "after")  # its counters and its triggers work
    with archive.transaction() as session:
        missions.set_status(session, "after", "COMPLETE")


def test_a_backup_whose_bytes_changed_is_refused(archive: Archive, place: Path, tmp_path: Path) -> None:
    [dump] = [path for path in place.glob("*/archive.*") if path.name != manifest.NAME]
    data = bytearray(dump.read_bytes())
    data[len(data) // 2] ^= 1
    dump.write_bytes(data)
    assert refused(archive, place, tmp_path) == "backup-damaged"
    dump.unlink()
    assert refused(archive, place, tmp_path) == "backup-damaged"


def test_a_backup_of_a_later_release_is_refused(archive: Archive, place: Path, tmp_path: Path) -> None:
    change_manifest(place, schema_revision="9999")
    assert refused(archive, place, tmp_path) == "archive-newer"


def test_a_backup_of_another_database_is_refused(archive: Archive, place: Path, tmp_path: Path) -> None:
    change_manifest(place, database="postgresql" if archive.is_sqlite else "sqlite")
    assert refused(archive, place, tmp_path) == "other-database"


def test_a_manifest_that_is_none_is_refused(archive: Archive, place: Path, tmp_path: Path) -> None:
    change_manifest(place, format=2)
    assert refused(archive, place, tmp_path) == "bad-manifest"


def test_an_unfinished_backup_is_none(archive: Archive, place: Path, tmp_path: Path) -> None:
    next(place.glob(f"*/{manifest.NAME}")).unlink()
    assert refused(archive, place, tmp_path) == "no-backup"


def test_a_backup_of_an_older_schema_is_migrated(empty_archive: Archive, tmp_path: Path) -> None:
    empty_archive.migrate("0004")
    settings = settings_for(empty_archive, tmp_path)
    kept = backup.take(settings, empty_archive, str(tmp_path / "backups"))
    assert kept.manifest.schema_revision == "0004"
    backup.restore(settings, empty_archive, str(tmp_path / "backups"))
    create(empty_archive, "after")
    assert names(empty_archive) == {"after"}


def test_an_archive_that_is_gone_comes_back(archive: Archive, place: Path, tmp_path: Path) -> None:
    destroy_database(archive)
    restore(archive, place, tmp_path)
    assert names(archive) == {"old"}


def test_an_archive_in_use_is_not_replaced(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from sqlalchemy.engine import make_url

    server = make_url(request.getfixturevalue("postgres_url"))
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE in_use")
    admin.dispose()
    used = Archive(server.set(database="in_use").render_as_string(hide_password=False))
    used.migrate()
    place = tmp_path / "backups"
    backup.take(settings_for(used, tmp_path), used, str(place))
    other = create_engine(used.url)
    with other.connect(), pytest.raises(StarloomError) as error:
        restore(used, place, tmp_path)
    assert error.value.code == "archive-in-use"
    other.dispose()
    restore(used, place, tmp_path)
    used.dispose()


def test_programs_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StarloomError) as error:
        postgres.find_tool("pg_dump", 99)
    assert error.value.code == "postgres-tools-too-old"
    assert "version 99 or later" in error.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "_PLACES", str(tmp_path))
    with pytest.raises(StarloomError) as error:
        postgres.find_tool("pg_dump", 15)
    assert error.value.code == "no-postgres-tools"


def test_old_backups_go_and_the_newest_is_restored(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    for day in range(1, 5):
        folder = tmp_path / f"2026010{day}T000000Z"
        folder.mkdir()
        (folder / manifest.NAME).touch()
    (tmp_path / "notes").mkdir()  # somebody else's
    assert place.prune(2) == ["20260101T000000Z", "20260102T000000Z"]
    assert place.names() == ["20260103T000000Z", "20260104T000000Z"]
    assert (tmp_path / "notes").is_dir()
    named = place_of(str(tmp_path / "20260103T000000Z"), Settings(home=tmp_path))
    assert named[1] == "20260103T000000Z"
    assert choose(place, "") == "20260104T000000Z"


def test_backups_in_a_bucket(tmp_path: Path, seaweed: RunningSeaweed) -> None:
    settings = seaweed.settings()
    lake = place_of("s3://backups/hub", settings)[0]
    client: Minio = lake._client  # type: ignore[attr-defined]
    client.make_bucket("backups")
    url = f"sqlite:///{tmp_path / 'archive.sqlite'}"
    kept = Archive(url)
    kept.migrate()
    create(kept, "old")
    first = backup.take(settings, kept, "s3://backups/hub")
    assert first.where.startswith("s3://backups/hub/")
    create(kept, "new")
    backup.restore(settings, kept, "s3://backups/hub", force=True)
    assert names(kept) == {"old"}
    backup.restore(settings, kept, first.where, force=True)
    assert lake.prune(0) == []
    lake.remove(lake.names()[0])
    assert list(client.list_objects("backups", recursive=True)) == []
    kept.dispose()
