"""Fixtures that every room may use: slow tests last, and a real PostgreSQL beside SQLite."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a broken name should not wait for the servers."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fresh_database(server_url: str) -> str:
    """Make an empty database on a PostgreSQL server and return its URL."""
    server, name = make_url(server_url), f"t{uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.set(database=name).render_as_string(hide_password=False)


def postgres_program(name: str) -> str:
    """Find a PostgreSQL program; its absence fails the test, because nothing may be skipped for it."""
    found = shutil.which(name)
    if found:
        return found
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not candidates:
        raise FileNotFoundError(f"{name} not found: install Debian's `postgresql`")
    return str(candidates[-1])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A throw-away PostgreSQL server on loopback; yields the URL of its ``postgres`` database."""
    # PostgreSQL refuses to run as root; Debian's package brings the user it wants.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user = {"user": user} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="starloom-pg-", ignore_cleanup_errors=True) as folder:
        if as_user:
            shutil.chown(folder, user=user)
        data, port = Path(folder) / "data", free_port()
        subprocess.run(
            [postgres_program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_user,
        )
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    postgres_program("postgres"),
                    *("-D", data, "-p", str(port), "-k", folder, "-F"),
                    *("-c", "listen_addresses=127.0.0.1"),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_user,
            )
            try:
                ready = [postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
                deadline = time.monotonic() + 60
                while subprocess.run(ready, check=False).returncode != 0:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError((Path(folder) / "log").read_text())
                    time.sleep(0.1)
                yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            finally:
                server.terminate()
                server.wait(timeout=60)
