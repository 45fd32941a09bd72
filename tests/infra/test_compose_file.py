"""infra/compose.yaml as docker-compose reads it: what it refuses, and what every service has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from starloom.dispatch.stack_secrets import stack_variables

INFRA = Path(__file__).parents[2] / "infra"
ENDS = {"prefect-migrate", "setup", "backup"}


def config(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Let docker-compose resolve the file; no engine is asked."""
    found = shutil.which("docker-compose")
    if found is None:
        raise FileNotFoundError("docker-compose not found: install Debian's `docker-compose`")
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return subprocess.run(
        [
            found,
            *("--project-directory", str(INFRA), "-f", str(INFRA / "compose.yaml")),
            *("--env-file", str(env_file), "config"),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def variables() -> dict[str, str]:
    return stack_variables("hub.test", "lake.test", "internal", 998)


@pytest.fixture
def resolved(tmp_path: Path, variables: dict[str, str]) -> dict[str, Any]:
    done = config(tmp_path, variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.mark.parametrize("name", sorted(stack_variables("", "", "", 0)))
def test_without_one_of_its_secrets_it_does_not_start(
    tmp_path: Path, variables: dict[str, str], name: str
) -> None:
    done = config(tmp_path, variables | {name: ""})
    assert done.returncode != 0
    assert "docs/production.md" in done.stderr


def test_only_the_proxy_is_reached_from_outside(resolved: dict[str, Any]) -> None:
    open_ = {name for name, service in resolved["services"].items() if service.get("ports")}
    assert open_ == {"proxy"}
    with_socket = {name for name, service in resolved["services"].items() if "docker.sock" in str(service)}
    assert with_socket == {"worker"}


def test_every_service_is_bounded_restarted_and_of_an_image_that_can_be_named(resolved: dict[str, Any]) -> None:
    for name, service in resolved["services"].items():
        assert service["logging"]["options"] == {"max-file": "5", "max-size": "10m"}, name
        assert service["restart"] == ("no" if name in ENDS else "unless-stopped"), name
        assert "mem_limit" in service, name
        assert "healthcheck" in service, name
        assert service["security_opt"] == ["no-new-privileges"], name
    images = re.findall(r"^\s+image: (.*)$", (INFRA / "compose.yaml").read_text(), re.MULTILINE)
    assert images
    assert [image for image in images if not re.fullmatch(r'"\$\{\w+_IMAGE:-[\w./:-]+\}"', image)] == []


def test_dask_is_there_for_jobs_alone_and_knows_no_secret(
    resolved: dict[str, Any], variables: dict[str, str]
) -> None:
    for name in ("dask-scheduler", "dask-worker"):
        service = resolved["services"][name]
        assert service["profiles"] == ["dask"]
        assert set(service["networks"]) == {"hub"}
        assert "ports" not in service
        assert not [secret for secret in variables.values() if len(secret) > 12 and secret in str(service)]
    # Jobs and Dask's workers see one folder under one name.
    work = "starloom-work:/home/starloom/.starloom/work"
    assert resolved["volumes"]["work"]["name"] == "starloom-work"
    assert work in resolved["services"]["worker"]["environment"]["STARLOOM_VOLUMES"]
    assert work.replace("starloom-", "", 1) in str(resolved["services"]["dask-worker"]["volumes"])


def test_no_job_shares_a_network_with_prefects_database(resolved: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in resolved["services"].items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    assert members["prefect"] == {"prefect-db", "redis", "prefect-migrate", "prefect-api", "prefect-services"}
    assert members["edge"] == {"proxy"}
    assert members["front"] == {"proxy", "prefect-api", "lake"}
    assert resolved["networks"]["prefect"]["internal"] is resolved["networks"]["front"]["internal"] is True
