"""Every check of the doctor finds what it is there for, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from minio.versioningconfig import SUSPENDED, VersioningConfig
from pydantic import SecretStr

import starloom.doctor.archive
import starloom.doctor.machine
from starloom.archive import Archive
from starloom.archive.models import Mission, StatusEvent
from starloom.doctor import Finding, examine
from starloom.doctor.lake import PROBE
from starloom.lake import connect
from starloom.lake.s3 import S3Lake
from starloom.settings import Settings
from tests.archive.conftest import archive, empty_archive
from tests.archive.test_migrations import drop_triggers
from tests.archive.test_pruning import count
from tests.dispatch.server import RunningPrefect, prefect_server
from tests.lake.conftest import RunningSeaweed, seaweed

__all__ = ["archive", "empty_archive", "prefect_server", "seaweed"]


def found(settings: Settings, group: str) -> dict[str, Finding]:
    findings = {finding.check: finding for finding in examine(settings, [group])}
    for finding in findings.values():
        assert finding.found
        assert finding.why
        assert bool(finding.remedy) == (finding.level != "ok"), finding
    return findings


def levels(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.level for name, finding in findings.items()}


@pytest.fixture
def archive_settings(archive: Archive, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, archive_url=SecretStr(archive.url.render_as_string(hide_password=False)))


def test_an_archive_in_order(archive: Archive, archive_settings: Settings) -> None:
    findings = found(archive_settings, "archive")
    assert set(levels(findings).values()) <= {"ok", "warning"}
    assert levels(findings)["status trigger"] == "ok"
    assert (count(archive, Mission), count(archive, StatusEvent)) == (0, 0), "nothing of the probe stays"


def test_a_trigger_that_is_gone_is_missed(archive: Archive, archive_settings: Settings) -> None:
    drop_triggers(archive)
    finding = found(archive_settings, "archive")["status trigger"]
    assert (finding.level, finding.found) == (
        "problem", "a change of a mission's status wrote 0 events instead of one"
    )  # fmt: skip
    assert count(archive, Mission) == 0


def test_a_clock_that_differs_is_told(archive_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = starloom.doctor.archive.database_now
    monkeypatch.setattr(starloom.doctor.archive, "database_now", lambda s: real(s) + timedelta(seconds=30))
    finding = found(archive_settings, "archive")["clock"]
    assert finding.level == "problem"
    assert finding.found.startswith("the database's clock differs by ")


def test_an_old_schema_is_told(empty_archive: Archive, tmp_path: Path) -> None:
    empty_archive.migrate("0004")
    url = SecretStr(empty_archive.url.render_as_string(hide_password=False))
    finding = found(Settings(home=tmp_path, archive_url=url), "archive")["schema"]
    assert (finding.level, finding.found[:11]) == ("problem", "schema 0004")


def test_an_archive_that_is_not_there_is_one_finding_and_is_not_made(tmp_path: Path) -> None:
    findings = found(Settings(home=tmp_path), "archive")
    assert levels(findings) == {"answers": "problem"}
    assert list(tmp_path.iterdir()) == []


def test_a_lake_in_order(seaweed: RunningSeaweed) -> None:
    settings = seaweed.settings()
    assert set(levels(found(settings, "lake")).values()) == {"ok"}
    assert list(connect(settings).list(PROBE.partition("{")[0])) == [], "the probe is gone"


@pytest.fixture
def spoilt(seaweed: RunningSeaweed) -> Iterator[Settings]:
    """A lake of its own whose buckets were made by somebody else."""
    settings = seaweed.settings(lake_url="s3://spoilt")
    lake = connect(settings)
    assert isinstance(lake, S3Lake)
    client: Any = lake._client
    for kind in ("inbox", "raw", "products"):
        client.make_bucket(f"spoilt-{kind}")
    client.set_bucket_versioning("spoilt-products", VersioningConfig(SUSPENDED))
    yield settings
    lake.close()


def test_buckets_that_break_their_promise_are_told(spoilt: Settings) -> None:
    finding = found(spoilt, "lake")["buckets"]
    assert finding.level == "problem"
    for lack in ("spoilt-products keeps no versions", "spoilt-raw has no object lock", "never expire"):
        assert lack in finding.found


def test_a_wrong_key_is_one_finding(seaweed: RunningSeaweed) -> None:
    findings = found(seaweed.settings(lake_secret_key=SecretStr("wrong")), "lake")
    assert levels(findings) == {"answers": "problem"}


def test_a_folder_is_no_lake_for_production(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, environment="production")
    connect(settings).prepare()
    assert levels(found(settings, "lake"))["buckets"] == "warning"


def test_secrets_that_others_can_read_and_that_everybody_knows(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lake_url="s3://x", lake_secret_key=SecretStr("minioadmin"))
    settings.env_file.touch(mode=0o644)
    settings.env_file.chmod(0o644)
    findings = found(settings, "machine")
    assert levels(findings) | {"disk": "-", "blind solver": "-"} == {
        "home": "ok", "settings": "problem", "secrets": "problem", "disk": "-", "star catalogue": "ok",
        "blind solver": "-", "tile workers": "ok",
    }  # fmt: skip
    settings.env_file.chmod(0o600)
    assert levels(found(settings, "machine"))["secrets"] == "ok"


def test_a_dask_scheduler_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starloom.doctor.machine, "DASK_WAIT_S", 0.5)
    finding = found(Settings(home=tmp_path, dask_scheduler="tcp://127.0.0.1:9"), "machine")["tile workers"]
    assert (finding.level, finding.found[:47]) == ("problem", "the Dask scheduler tcp://127.0.0.1:9 does not a")
    assert found(Settings(home=tmp_path), "machine")["tile workers"].level == "ok"


def test_a_server_that_is_gone_is_one_finding(tmp_path: Path) -> None:
    findings = found(Settings(home=tmp_path, prefect_api_url="http://127.0.0.1:9/api"), "prefect")
    assert levels(findings) == {"prefect": "problem"}


@pytest.mark.slow
def test_a_server_without_worker_and_relay(prefect_server: RunningPrefect) -> None:
    findings = found(prefect_server.settings, "prefect")
    seen = levels(findings)
    assert {name for name, level in seen.items() if level == "problem"} >= {"worker", "relay"}
    assert seen["version"] == seen["work pool"] == seen["deployments"] == "ok"
    assert seen["encryption key"] == "warning"
    assert "prefect.db" not in findings["encryption key"].remedy
