"""Blocks: saved on a real server, secrets masked in its answers, loaded again, and good for a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starloom.archive import Archive
from starloom.settings import Settings
from tests.dispatch.server import RunningPrefect

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Prefect's own warnings


@pytest.fixture
def server(prefect_server: RunningPrefect) -> Iterator[RunningPrefect]:
    """The server, with this process's Prefect turned to it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server.settings.prefect_api_url}):
        yield prefect_server


def documents(server: RunningPrefect, slug: str, *, secrets: bool) -> list[dict[str, Any]]:
    body = {"block_types": {"slug": {"any_": [slug]}}, "include_secrets": secrets}
    return list(server.api.call("POST", "/block_documents/filter", body))


def test_the_lake_block_hides_its_secret_and_makes_a_lake(server: RunningPrefect, tmp_path: Path) -> None:
    from blocks.lake import LakeCredentials

    settings = Settings(home=tmp_path, lake_secret_key="hush-hush", lake_access_key="me")
    LakeCredentials.from_settings(settings).save("test-lake", overwrite=True)
    told = json.dumps(documents(server, "starloom-lake", secrets=False))
    assert "test-lake" in told
    assert "hush-hush" not in told
    loaded = LakeCredentials.load("test-lake")
    assert isinstance(loaded, LakeCredentials)
    assert loaded.secret_key.get_secret_value() == "hush-hush"
    assert "hush-hush" not in repr(loaded)
    lake = loaded.client()
    lake.prepare()
    lake.put_bytes(b"x", "solved/a/b")
    assert lake.get_bytes("solved/a/b", max_bytes=1) == b"x"
    assert (tmp_path / "lake").is_dir()


def test_the_archive_block_hides_its_password_and_makes_an_archive(server: RunningPrefect, tmp_path: Path) -> None:
    from blocks.archive import ArchiveCredentials

    url = f"sqlite:///{tmp_path / 'hush-hush.sqlite'}"
    ArchiveCredentials.from_settings(Settings(home=tmp_path, archive_url=url)).save("test-archive", overwrite=True)
    assert "hush-hush" not in json.dumps(documents(server, "starloom-archive", secrets=False))
    loaded = ArchiveCredentials.load("test-archive")
    assert isinstance(loaded, ArchiveCredentials)
    archive = loaded.client()
    assert isinstance(archive, Archive)
    archive.migrate()
    archive.ping()
    archive.dispose()


def test_up_has_written_both_blocks_from_the_settings(server: RunningPrefect) -> None:
    (lake,) = [d for d in documents(server, "starloom-lake", secrets=True) if d["name"] == "starloom"]
    assert lake["data"]["url"] == server.settings.lake_url
    (archive,) = [d for d in documents(server, "starloom-archive", secrets=True) if d["name"] == "starloom"]
    assert archive["data"]["url"] == server.settings.archive_url.get_secret_value()
