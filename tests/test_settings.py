"""Settings: precedence, defaults and the refusal of well-known secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from starloom.errors import BadInput
from starloom.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STARLOOM_")]:
        monkeypatch.delenv(name)


def test_defaults_live_in_the_home(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.lake_url == (tmp_path / "lake").as_uri()
    assert settings.archive_url.get_secret_value() == f"sqlite:///{tmp_path / 'archive.sqlite'}"


def test_environment_outranks_the_file_and_the_file_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub.env").write_text("STARLOOM_LAKE_URL=s3://from-file\nSTARLOOM_LAKE_REGION=from-file\n")
    monkeypatch.setenv("STARLOOM_LAKE_REGION", "from-environment")
    settings = load_settings(tmp_path)
    assert settings.lake_url == "s3://from-file"
    assert settings.lake_region == "from-environment"


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lake_secret_key="hush-hush")
    assert "hush-hush" not in repr(settings)


@pytest.mark.parametrize("secret", ["", "minioadmin", "ChangeMe"])
def test_production_refuses_default_secrets(tmp_path: Path, secret: str) -> None:
    with pytest.raises(BadInput, match="LAKE_SECRET_KEY") as caught:
        Settings(home=tmp_path, environment="production", lake_url="s3://x", lake_secret_key=secret)
    assert caught.value.code == "default-secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHUNK_SIZE", "many"),
        ("ENVIRONMENT", "staging"),
        ("LEASE_S", ""),
        ("LAKE_RAW_LOCK_DAYS", "1.5"),
        ("DASK_SCHEDULER", "h:8786"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"STARLOOM_{name}", value)
    with pytest.raises(BadInput, match=f"STARLOOM_{name}") as caught:
        load_settings(tmp_path)
    assert caught.value.code == "bad-setting"
    assert "hub.env" in caught.value.hint


def test_the_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_HOME", str(tmp_path))
    (tmp_path / "hub.env").write_text("STARLOOM_PREFECT_API_URL=http://127.0.0.1:1/api\n")
    settings = load_settings()
    assert settings.home == tmp_path
    assert settings.prefect_api_url == "http://127.0.0.1:1/api"


def test_production_takes_a_secret_of_ones_own(tmp_path: Path) -> None:
    made = Settings(home=tmp_path, environment="production", lake_url="s3://x", lake_secret_key="Zq8-long")
    assert made.environment == "production"


def test_a_lease_outlives_several_renewals_and_the_grace_many_leases(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.lease_s >= 3 * settings.lease_renew_s
    assert settings.orphan_grace_s >= 100 * settings.lease_s
