"""Settings: precedence, defaults and the refusal of well-known secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from starloom.errors import BadInput
from starloom.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STARLOOM_LAKE_URL", "STARLOOM_LAKE_REGION", "STARLOOM_ARCHIVE_URL", "STARLOOM_HOME"):
        monkeypatch.delenv(name, raising=False)


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
