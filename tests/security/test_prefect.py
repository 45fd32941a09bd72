"""Prefect's API, which runs code and holds every block's secrets: closed to whoever has no password."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from starloom.dispatch.embedded import Embedded, write_env_file
from starloom.dispatch.rest import PrefectApi
from starloom.errors import StarloomError
from starloom.settings import Settings, load_settings
from tests.conftest import free_port

PASSWORD = "starloom:correct-horse"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real server of the hub's own, started with a password as it is away from loopback."""
    home = tmp_path_factory.mktemp("guarded")
    # A port of its own: at the usual one another server of this machine might answer.
    write_env_file(home / "hub.env", {"STARLOOM_PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"})
    service = Embedded(home)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STARLOOM_PREFECT_API_URL", "STARLOOM_LAKE_URL", "STARLOOM_ARCHIVE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("STARLOOM_PREFECT_API_AUTH_STRING", PASSWORD)
        try:
            service._up_prefect(lambda _: None)
            yield load_settings(home)
        finally:
            service.down()


def basic(words: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(words.encode()).decode()}


@pytest.mark.slow
def test_without_the_password_nothing_is_told_and_nothing_done(guarded: Settings) -> None:
    api = guarded.prefect_api_url
    wrong = (
        {},
        basic("starloom:wrong"),
        basic(":"),
        {"Authorization": f"Bearer {PASSWORD}"},
        basic(PASSWORD + "x"),
    )
    for headers in wrong:
        for method, path in (
            ("POST", "/flow_runs/filter"),
            ("POST", "/deployments/filter"),
            ("POST", "/block_documents/filter"),
            ("POST", "/events"),
            ("POST", "/flows/"),
            ("GET", "/admin/settings"),
            ("DELETE", "/automations/00000000-0000-0000-0000-000000000000"),
        ):
            answer = httpx.request(method, api + path, json={}, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert PASSWORD not in answer.text
    assert httpx.post(f"{api}/flow_runs/filter", json={}, headers=basic(PASSWORD)).status_code == 200


@pytest.mark.slow
def test_the_hub_knows_the_password_and_says_when_it_is_wrong(guarded: Settings, tmp_path: Path) -> None:
    with PrefectApi.from_settings(guarded) as api:
        assert api.is_healthy()
        api.automations()
    with PrefectApi(guarded.prefect_api_url, "starloom:wrong") as stranger, pytest.raises(StarloomError) as caught:
        stranger.automations()
    assert "401" in caught.value.message
    assert "STARLOOM_PREFECT_API_AUTH_STRING" in caught.value.hint
    assert "correct-horse" not in str(caught.value.as_dict())
