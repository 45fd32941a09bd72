"""Setting a hub up where others start its servers: it waits for them, for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from starloom.archive import Archive
from starloom.dispatch import preparing
from starloom.dispatch.rest import PrefectApi
from starloom.errors import Unavailable
from starloom.settings import Settings


def hub(home: Path) -> Settings:
    return Settings(home=home, lake_url=(home / "lake").as_uri(), prefect_api_url="http://127.0.0.1:9/api")


def test_stores_are_prepared_once_and_again(tmp_path: Path) -> None:
    settings = hub(tmp_path)
    steps: list[str] = []
    for _ in range(2):
        preparing.prepare_stores(settings, steps.append)
    assert steps == ["archive: migrate", "lake: prepare buckets"] * 2
    archive = Archive(settings.archive_url.get_secret_value())
    archive.ping()
    archive.dispose()


def test_it_waits_for_a_server_that_comes_up_and_gives_up_on_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False, True])
    registered: list[str] = []
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(PrefectApi, "is_healthy", lambda _: next(answers))
    monkeypatch.setattr(preparing, "register", lambda settings, *_: registered.append(settings.work_pool))
    preparing.set_up(hub(tmp_path), {}, tmp_path, lambda _: None, wait_s=600.0)
    assert registered == ["starloom"]
    monkeypatch.setattr(PrefectApi, "is_healthy", lambda _: False)
    with pytest.raises(Unavailable) as caught:
        preparing.set_up(hub(tmp_path), {}, tmp_path, lambda _: None, wait_s=0.0)
    assert caught.value.code == "prefect-unavailable"
    assert registered == ["starloom"]
