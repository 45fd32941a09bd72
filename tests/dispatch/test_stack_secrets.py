"""Secrets of the production stack: random, for their owner alone, written once; refused where they are known."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from starloom.cli import main
from starloom.dispatch.stack_secrets import stack_variables, write_once
from starloom.errors import BadInput, Conflict
from starloom.settings import Settings

COMPOSE = Path(__file__).parents[2] / "infra" / "compose.yaml"
OPEN = {"HUB_HOST", "LAKE_HOST", "PROXY_TLS", "DOCKER_GID"}


def some() -> dict[str, str]:
    return stack_variables("hub.test", "lake.test", "internal", 998)


def test_every_secret_is_new_and_long() -> None:
    one, other = some(), some()
    for name in one.keys() - OPEN:
        assert one[name] != other[name]
        assert len(one[name]) >= 20
    Fernet(one["PREFECT_ENCRYPTION_KEY"])  # Prefect would fail with another form, when it saves its first block


def test_the_file_holds_what_the_stack_requires_and_nothing_else() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text(encoding="utf-8")))
    assert required == some().keys()


def test_the_file_is_its_owners_and_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    before = os.umask(0)  # the most generous
    try:
        write_once(path, some())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_text()
    with pytest.raises(Conflict) as caught:
        write_once(path, some())
    assert caught.value.code == "secrets-exist"
    assert path.read_text() == written


def test_the_command_takes_the_sockets_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    socket = tmp_path / "docker.sock"
    socket.touch()
    out = tmp_path / ".env"
    words = ["secrets", "--hub-host", "hub.test", "--lake-host", "lake.test", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--socket", str(socket)])
    assert ended.value.code == 0
    said = dict(line.split("=", 1) for line in out.read_text().splitlines())
    assert said["DOCKER_GID"] == str(socket.stat().st_gid)
    for secret in (value for name, value in said.items() if name not in OPEN):
        assert secret not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"archive_url": "postgresql+psycopg://me:ChangeMe@db/x"}, "ARCHIVE_URL"),
        ({"archive_url": "postgresql+psycopg://me:@db/x"}, "ARCHIVE_URL"),
        ({"prefect_api_auth_string": "operator:password"}, "PREFECT_API_AUTH_STRING"),
        ({"prefect_api_auth_string": ""}, "PREFECT_API_AUTH_STRING"),
    ],
)
def test_production_refuses_known_passwords_of_archive_and_prefect(
    tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    good = {
        "archive_url": "postgresql+psycopg://me:kD83hs-_x@db/x",
        "prefect_api_url": "http://prefect-api:4200/api",
        "prefect_api_auth_string": "operator:kD83hs-_x",
    }
    Settings(home=tmp_path, environment="production", **good)
    with pytest.raises(BadInput, match=named) as caught:
        Settings(home=tmp_path, environment="production", **{**good, **changes})
    assert caught.value.code == "default-secret"


def test_a_server_on_loopback_and_an_archive_that_knows_its_clients_need_no_password(tmp_path: Path) -> None:
    url = "http://127.0.0.1:4200/api"
    made = Settings(
        home=tmp_path, environment="production", prefect_api_url=url, archive_url="postgresql+psycopg:///x"
    )
    assert made.prefect_api_url == url
