"""A whole hub on loopback: PostgreSQL for archive and Prefect, SeaweedFS, Prefect's server, a worker, a relay."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from starloom.archive import Archive
from starloom.dispatch.deploying import register
from starloom.dispatch.embedded import plain_environment, program_environment, worker_command, write_env_file
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout, python
from starloom.hub import Hub
from starloom.lake import connect
from starloom.lake.seaweed import SeaweedFS
from starloom.settings import Settings, load_settings
from tests.chaos.programs import Program, end, free_port, marked, postgres_program, postgres_user

NAMES = ("postgres", "lake", "prefect", "worker", "relay")


def is_answering(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


class Site:
    """The programs of one home, and how to look at them from outside.

    Parameters
    ----------
    home
        Everything of the site, logs included; what is there already is used again.
    pace
        Settings, as ``STARLOOM_…`` variables.
    """

    def __init__(self, home: Path, pace: dict[str, str]) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)  # the database's user must reach its folder
        ports = home / "ports.json"
        if not ports.exists():
            ports.write_text(json.dumps({"postgres": free_port(), "prefect": free_port()}))
        self.ports: dict[str, int] = json.loads(ports.read_text())
        self.dsn = f"postgresql://postgres@127.0.0.1:{self.ports['postgres']}/archive"
        self._lake = SeaweedFS(home)
        entries = {
            "STARLOOM_ARCHIVE_URL": self.dsn.replace("postgresql:", "postgresql+psycopg:"),
            "STARLOOM_PREFECT_API_URL": f"http://127.0.0.1:{self.ports['prefect']}/api",
            **self._lake.prepare(),
            **pace,
        }
        write_env_file(home / "hub.env", entries)
        with without_settings():
            self.settings: Settings = load_settings(home)
            self.env = program_environment(self.settings, checkout())
        self.programs = {name: self._program(name) for name in NAMES}
        self.worker_ended_with_runs = True

    def _program(self, name: str) -> Program:
        root = checkout()
        if name == "postgres":
            data = self.home / "postgres"
            command = [
                postgres_program("postgres"),
                *("-D", str(data), "-p", str(self.ports["postgres"]), "-k", str(data)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
            ]
            server = self.dsn.replace("/archive", "/postgres")
            return Program(
                self.home, name, lambda: command, plain_environment(), data,
                ready=lambda: is_answering(server), user=postgres_user(),
            )  # fmt: skip
        if name == "lake":
            return Program(
                self.home, name, self._lake.command, plain_environment(), self.home, ready=self._lake_up
            )
        if name == "prefect":
            database = self.dsn.replace("postgresql:", "postgresql+asyncpg:").replace("/archive", "/prefect")
            env = self.env | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
            command = python("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.ports[name]))
            return Program(self.home, name, lambda: command, env, self.home, ready=self._prefect_up)
        if name == "worker":
            return Program(
                self.home, name, lambda: worker_command(self.settings), self.env, root, before=self._clear_runs
            )
        return Program(self.home, name, lambda: python("starloom", "relay"), self.env, root)

    def _lake_up(self) -> bool:
        try:
            self._lake.wait_ready(0.5)
        except Exception:  # noqa: BLE001 - whatever a server says while it starts
            return False
        return True

    def _prefect_up(self) -> bool:
        with PrefectApi.from_settings(self.settings) as api:
            return api.is_healthy()

    def _clear_runs(self) -> None:
        """Do as ``starloom up`` does before it starts a worker whose runs died with it."""
        if self.worker_ended_with_runs:
            with PrefectApi.from_settings(self.settings) as api:
                api.crash_orphans(self.settings.work_pool)
        self.worker_ended_with_runs = False

    def start(self) -> None:
        """Start servers, make what is missing, then start worker and relay."""
        self._init_postgres()
        for name in ("postgres", "lake", "prefect"):
            if name == "prefect":
                self._make_archive()
            self.programs[name].start()
            self.programs[name].wait_ready(180)
        connect(self.settings).prepare()
        register(self.settings, self.env, checkout(), lambda _: None)
        for name in ("worker", "relay"):
            self.programs[name].start()

    def _init_postgres(self) -> None:
        data = self.home / "postgres"
        if data.exists():
            return
        data.mkdir(mode=0o700)
        user = {"user": postgres_user()} if os.geteuid() == 0 else {}
        if user:
            shutil.chown(data, user=postgres_user())
        subprocess.run(
            [postgres_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"],
            check=True, capture_output=True, cwd=data, **user,
        )  # fmt: skip

    def _make_archive(self) -> None:
        server = self.dsn.replace("/archive", "/postgres")
        with psycopg.connect(server, autocommit=True) as connection:
            known = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in ("archive", "prefect"):
                if name not in known:
                    connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        archive = Archive(self.settings.archive_url.get_secret_value())
        archive.migrate()
        archive.dispose()

    def hub(self) -> Hub:
        return Hub.open(self.settings)

    def look_after(self) -> None:
        for program in self.programs.values():
            program.look_after()

    def wait_until(self, check: Callable[[], Any], timeout_s: float) -> Any:
        """Poll, with an eye on the programs, and return what was found; say what the relay says if nothing was."""
        deadline = time.monotonic() + timeout_s
        while not (found := check()):
            if time.monotonic() > deadline:
                said = self.programs["relay"].log.read_text(errors="replace").splitlines()[-20:]
                raise TimeoutError("\n".join([f"{check} not within {timeout_s:.0f} s", *said]))
            self.look_after()
            time.sleep(0.2)
        return found

    def kill(self, name: str, downtime_s: float, *, alone: bool = False) -> int:
        """Kill a program, or ``run``: one run's process, which nobody starts again but the hub itself."""
        if name == "run":
            runs = [p for p in self.programs["worker"].tree()[1:] if "prefect" in " ".join(p.cmdline())]
            return end(runs[:1])
        if name == "worker":
            self.worker_ended_with_runs = not alone
        return self.programs[name].kill(downtime_s, alone=alone)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement as anybody with a database client would."""
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """Stop everything, PostgreSQL in good order, and whatever outlived its parent."""
        for name in ("relay", "worker", "prefect", "lake"):
            self.programs[name].kill(1e9)
        end(marked(self.home))
        server = self.programs["postgres"].tree()
        end(server[:1], signal.SIGINT)  # a fast shutdown
        deadline = time.monotonic() + 30
        while self.programs["postgres"].is_alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.programs["postgres"].kill(1e9)


@contextlib.contextmanager
def without_settings() -> Iterator[None]:
    """Hide the caller's own ``STARLOOM_…`` variables, which outrank the site's file."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("STARLOOM_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
