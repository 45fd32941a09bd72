"""The Docker pool's template, secrets and refusals, without an engine."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from starloom.dispatch import pool
from starloom.dispatch.embedded import Embedded, worker_command
from starloom.dispatch.pool import base_job_template, check_pool, job_variables, write_secrets
from starloom.errors import BadInput, Conflict, StarloomError
from starloom.settings import Settings, load_settings

SECRETS = {
    "lake_secret_key": 'hush "lake" #1 ${HOME}',
    "archive_url": "postgresql+psycopg://me:hush-archive@10.0.0.5/starloom",
    "prefect_api_auth_string": 'starloom:hush "prefect" \\ü',
}
DEPLOYMENTS = {"sweep/sweep", "stack-mission/stack-mission"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STARLOOM_")]:
        monkeypatch.delenv(name)


def docker_settings(home: Path, **changes: Any) -> Settings:
    said: dict[str, Any] = {
        "work_pool_type": "docker",
        "lake_url": "s3://starloom",
        "lake_endpoint": "http://10.0.0.5:8333",
        "lake_access_key": "SLKEY",
        "prefect_api_url": "http://10.0.0.5:4200/api",
        "refcat_services": ["gaia"],
        **SECRETS,
    }
    return Settings(home=home, **(said | changes))


def test_a_pool_is_named_for_its_type(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).work_pool == "starloom"
    assert docker_settings(tmp_path).work_pool == "starloom-docker"
    assert docker_settings(tmp_path, work_pool="mine").work_pool == "mine"


def test_the_template_holds_no_secret_and_takes_those_of_the_worker_out(tmp_path: Path) -> None:
    template = base_job_template(docker_settings(tmp_path))
    text = json.dumps(template)
    assert "hush" not in text
    assert "SLKEY" not in text
    env = template["variables"]["properties"]["env"]["default"]
    assert env["PREFECT_API_AUTH_STRING"] is None
    assert env["PREFECT_HOME"] == "/home/starloom/.prefect"
    names = set(template["variables"]["properties"])
    used = {name for name in names if f"{{{{ {name} }}}}" in json.dumps(template["job_configuration"])}
    assert used == names


def test_a_job_reads_the_settings_back_from_its_mounted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = docker_settings(tmp_path / "hub", lease_s=90.0)
    folder = write_secrets(settings)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o400}
    profiles = tomllib.loads((folder / pool.PROFILES).read_text(encoding="utf-8"))
    assert profiles["active"] == "job"
    assert profiles["profiles"]["job"] == {"PREFECT_API_AUTH_STRING": SECRETS["prefect_api_auth_string"]}

    monkeypatch.setenv("STARLOOM_SECRETS_DIR", str(folder))
    inside = load_settings(tmp_path / "inside")
    for name in SECRETS:
        assert getattr(inside, name) == getattr(settings, name)
    assert (inside.lake_access_key, inside.lease_s, inside.refcat_services) == ("SLKEY", 90.0, ["gaia"])
    assert inside.home == tmp_path / "inside"
    monkeypatch.setenv("STARLOOM_LAKE_ENDPOINT", "http://lake:8333")  # STARLOOM_JOB_ENV
    assert load_settings(tmp_path / "inside").lake_endpoint == "http://lake:8333"


def test_a_setting_that_was_taken_back_is_forgotten(tmp_path: Path) -> None:
    folder = write_secrets(docker_settings(tmp_path, lease_s=90.0))
    assert (folder / "STARLOOM_LEASE_S").read_text() == "90.0"
    write_secrets(docker_settings(tmp_path))
    assert not (folder / "STARLOOM_LEASE_S").exists()


def test_a_worker_in_a_container_names_what_the_engine_sees(tmp_path: Path) -> None:
    def volumes(**changes: Any) -> Any:
        settings = docker_settings(tmp_path, volumes=["cache:/c"], **changes)
        return base_job_template(settings)["variables"]["properties"]["volumes"]["default"]

    settings = docker_settings(tmp_path)
    settings.refcat_dir.mkdir()
    outside = [f"{pool.secrets_folder(settings)}:{pool.MOUNT}:ro", "cache:/c"]
    assert volumes() == [*outside, f"{settings.refcat_dir}:/home/starloom/.starloom/refcat:ro"]
    assert volumes(job_secrets="hub-secrets") == [f"hub-secrets:{pool.MOUNT}:ro", "cache:/c"]


def test_limits_by_deployment(tmp_path: Path) -> None:
    settings = docker_settings(tmp_path, job_limits={"sweep": {"memory": "512m", "cpus": 1.5}})
    assert job_variables(settings, "sweep") == {
        "mem_limit": "512m",
        "memswap_limit": "512m",
        "nano_cpus": 1_500_000_000,
        "env": {"STARLOOM_STACK_THREADS": "2"},
    }
    assert job_variables(settings, "stack-mission") == {"mem_limit": "8g", "memswap_limit": "8g"}


def test_a_wrong_limit_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_JOB_LIMITS", '{"sweep": {"memory": "lots"}}')
    with pytest.raises(BadInput) as caught:
        load_settings(tmp_path)
    assert caught.value.code == "bad-setting"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"archive_url": "sqlite:////srv/archive.sqlite"}, "STARLOOM_ARCHIVE_URL"),
        ({"archive_url": "postgresql+psycopg://me:hush@localhost/starloom"}, "STARLOOM_ARCHIVE_URL"),
        ({"lake_url": "file:///srv/lake"}, "STARLOOM_LAKE_URL"),
        ({"lake_endpoint": "http://127.0.0.1:8333"}, "STARLOOM_LAKE_ENDPOINT"),
        ({"prefect_api_url": "http://localhost:4200/api"}, "STARLOOM_PREFECT_API_URL"),
        ({"job_limits": {"stack": {"memory": "1g"}}}, "STARLOOM_JOB_LIMITS"),
    ],
)
def test_what_no_container_could_reach_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInput, match=named) as caught:
        check_pool(docker_settings(tmp_path, **changes), DEPLOYMENTS)
    assert "hush" not in str(caught.value)


def test_loopback_serves_where_containers_share_the_hosts_network_or_have_another_address(tmp_path: Path) -> None:
    loopback = {"lake_endpoint": "http://127.0.0.1:8333"}
    check_pool(docker_settings(tmp_path), DEPLOYMENTS)
    check_pool(docker_settings(tmp_path, network_mode="host", **loopback), DEPLOYMENTS)
    inside = {"STARLOOM_LAKE_ENDPOINT": "http://lake:8333"}
    check_pool(docker_settings(tmp_path, job_env=inside, **loopback), DEPLOYMENTS)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StarloomError, match="prefect-docker") as caught:
        check_pool(docker_settings(tmp_path), DEPLOYMENTS)
    assert caught.value.code == "no-prefect-docker"


def test_up_with_a_sqlite_archive_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_WORK_POOL_TYPE", "docker")
    with pytest.raises(BadInput, match="PostgreSQL"):
        Embedded(tmp_path).up()
    assert not (tmp_path / "seaweed").exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "elsewhere"])
def test_services_listen_at_one_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="bind_address"):
        Settings(home=tmp_path, bind_address=address)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    from starloom.dispatch.services import free_port

    with pytest.raises(StarloomError, match="no free port") as caught:
        free_port(4200, "192.0.2.77")
    assert caught.value.code == "no-port"


def test_a_pool_keeps_its_type(tmp_path: Path) -> None:
    from starloom.dispatch.deploying import _check_pool_type

    _check_pool_type(docker_settings(tmp_path), None)
    _check_pool_type(docker_settings(tmp_path), "docker")
    with pytest.raises(Conflict, match="of type process"):
        _check_pool_type(docker_settings(tmp_path), "process")


def test_the_worker_is_of_the_pools_type(tmp_path: Path) -> None:
    assert worker_command(Settings(home=tmp_path))[2:5] == ["prefect", "worker", "start"]
    words = worker_command(docker_settings(tmp_path))
    assert words[2:4] == ["starloom.dispatch.docker_worker", "start"]
    assert words[words.index("--type") + 1] == "docker"
