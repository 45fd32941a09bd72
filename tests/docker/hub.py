"""One hub whose frames and missions go through a process pool and then, the same ones, through a Docker pool."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from starloom.archive import missions
from starloom.archive.models import Frame
from starloom.batches import FrameBatch
from starloom.demo import watching
from starloom.dispatch.embedded import Embedded
from starloom.dispatch.rest import PrefectApi
from starloom.errors import Unavailable
from starloom.frames import FrameName, describe_file, format_name
from starloom.frames import step as landing
from starloom.hub import Hub
from starloom.lake import keys
from starloom.settings import load_settings
from starloom.sky.network import NetworkTruth
from starloom.sky.samples import tres1_frames
from tests.conftest import free_port, postgres_program

NETWORK, TRES1 = "550", "TrES-1"
N_TRES1 = 3
PROCESS, STACK = "process-frames/process-frames", "stack-mission/stack-mission"


@dataclass(frozen=True)
class Postgres:
    """A server with a password, where containers reach it."""

    host: str
    port: int
    password: str

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres:{self.password}@{self.host}:{self.port}/{database}"

    def run(self, name: str, *words: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [postgres_program(name), "-h", self.host, "-p", str(self.port), "-U", "postgres", *words],
            env={**os.environ, "PGPASSWORD": self.password},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def started_postgres(host: str) -> Iterator[Postgres]:
    """Start a throw-away server that listens on one address, and stop it by its pid."""
    # PostgreSQL refuses to run as root; Debian's package brings the user it wants.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
    made = Postgres(host, free_port(), secrets.token_hex(12))
    with tempfile.TemporaryDirectory(prefix="starloom-pg-", ignore_cleanup_errors=True) as folder:
        password = Path(folder) / "password"
        password.write_text(made.password)
        for path in (folder, password):
            shutil.chown(path, user=user)
        data = Path(folder) / "data"
        initdb = [postgres_program("initdb"), "-D", data, "-U", "postgres", "-A", "scram-sha-256"]
        initdb += ["--pwfile", password, "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_user)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        command = [postgres_program("postgres"), "-D", data, "-p", str(made.port), "-k", folder, "-F"]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [*command, "-c", f"listen_addresses={host}"], stdout=log, stderr=log, cwd=folder, **as_user
            )
            try:
                ready = [postgres_program("pg_isready"), "-h", host, "-p", str(made.port), "-q"]
                deadline = time.monotonic() + 60
                while subprocess.run(ready, check=False).returncode != 0:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError((Path(folder) / "log").read_text())
                    time.sleep(0.1)
                yield made
            finally:
                server.send_signal(signal.SIGINT)  # its fast way: it does not wait for who is connected
                server.wait(timeout=60)


@dataclass
class Outcome:
    """What one pool made of the frames."""

    frames: dict[str, Frame]
    products: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    solved: dict[str, bytes] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)


class Played:
    """The hub, its services and what they are given.

    Parameters
    ----------
    home
        Folder of the hub; short, for a Unix socket lies in it.
    gateway
        Where everything listens.
    """

    def __init__(self, home: Path, gateway: str, postgres: Postgres, night: NetworkTruth) -> None:
        self.home, self.gateway, self.postgres, self.night = home, gateway, postgres, night
        self.services = Embedded(home)
        self.batches: list[FrameBatch] = []

    @contextlib.contextmanager
    def up(self, database: str, more: Mapping[str, str]) -> Iterator[tuple[Hub, PrefectApi]]:
        """Have the hub up on one of the databases; worker and relay go afterwards, lake and Prefect stay."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("STARLOOM_", "PREFECT_"))]:
                patch.delenv(name)
            wanted = {
                "STARLOOM_HOME": str(self.home),
                "STARLOOM_BIND_ADDRESS": self.gateway,
                "STARLOOM_ARCHIVE_URL": self.postgres.url(database),
                # The test starts what it counts.
                "STARLOOM_INGEST_INTERVAL_S": "3600",
                "STARLOOM_SWEEP_INTERVAL_S": "3600",
                **more,
            }
            for name, value in wanted.items():
                patch.setenv(name, value)
            try:
                settings = self.services.up()
                hub = Hub.open(load_settings(self.home))
                try:
                    with PrefectApi.from_settings(settings) as api:
                        yield hub, api
                finally:
                    hub.archive.dispose()
                    hub.lake.close()
            finally:
                for name in ("relay", "worker"):
                    self.services.service(name).stop()

    def send(self, hub: Hub) -> None:
        """Put the frames into the inbox; the same ones twice are the same objects."""
        night = self.night
        for path in (*night.good, *night.trail, *night.off_target, *night.corrupt):
            node = path.name.partition("_TelID-")[2].partition("_")[0]
            hub.lake.put_file(path, keys.inbox(node, "20261008", path.name))
        for path in tres1_frames()[:N_TRES1]:
            start = describe_file(path).value("start_utc")
            name = FrameName(kind="light", mission=TRES1, node="UMO", start_utc=start, compressed=True)
            hub.lake.put_file(path, keys.inbox("UMO", "20261008", format_name(name)))

    def register(self, hub: Hub) -> None:
        """Make missions and nodes, send the frames and register them: from here on both pools have the same."""
        with hub.archive.transaction() as session:
            ra, dec = self.night.target_deg
            missions.create_mission(session, NETWORK, ra_deg=ra, dec_deg=dec)
            missions.create_mission(session, TRES1, ra_deg=286.0408, dec_deg=36.6326)
            missions.register_node(session, "UMO", filters={"Filter 2": "R"})
            for node in self.night.nodes:
                missions.register_node(session, node, filters={self.night.filter_names[node]: self.night.band})
        self.send(hub)
        self.batches = landing.discover(hub)

    def fork(self, database: str) -> None:
        """Copy the archive as it is now: a frame's id stands in the products, and is drawn at random."""
        self.postgres.run("createdb", database)
        self.postgres.run("psql", "-q", "-d", database, stdin=self.postgres.run("pg_dump", "reference"))

    def process_and_stack(self, hub: Hub, api: PrefectApi) -> Outcome:
        """Take the frames through process-frames and both missions through stack-mission."""
        runs = [
            api.create_run(PROCESS, {"batch": batch.model_dump()}, idempotency_key=secrets.token_hex(8))
            for batch in self.batches
        ]
        wait_for("process-frames", lambda: all(ended(api, run["id"]) for run in runs), 900)
        before = {run["id"] for run in api.runs(STACK)}
        found = watching.frames_of(hub.archive, NETWORK) + watching.frames_of(hub.archive, TRES1)
        outcome = Outcome({frame.id: frame for frame in found})
        for mission in (NETWORK, TRES1):
            watching.complete_by_plain_sql(hub.archive, mission)

        def stacked() -> bool:
            states = [watching.status_of(hub.archive, mission) for mission in (NETWORK, TRES1)]
            assert "FAILED" not in states
            return states == ["STACKED", "STACKED"]

        wait_for("both missions", stacked, 900)
        runs += [run for run in api.runs(STACK) if run["id"] not in before]
        wait_for("the end of their runs", lambda: all(ended(api, run["id"]) for run in runs), 300)
        outcome.runs = [state_of(api, run["id"]) for run in runs]
        for mission in (NETWORK, TRES1):
            outcome.products[mission] = [
                (f"{product.band} p{product.pointing}", _read(hub, product.sci_key, product.sci_version))
                for _, product in watching.products_of(hub.archive, mission)
            ]
        outcome.solved = {
            frame.id: _read(hub, frame.solved_key, frame.solved_version)
            for frame in outcome.frames.values()
            if frame.solved_key is not None
        }
        return outcome


def _read(hub: Hub, key: str, version: str | None) -> bytes:
    return hub.lake.get_bytes(key, max_bytes=1 << 30, version=version)


def state_of(api: PrefectApi, run_id: str) -> dict[str, Any]:
    return dict(api.call("GET", f"/flow_runs/{run_id}"))


def ended(api: PrefectApi, run_id: str) -> bool:
    run = state_of(api, run_id)
    assert run["state_type"] not in ("FAILED", "CRASHED"), (
        f"{run['name']}: {run['state']}\n{api.logs(run_id)[-5:]}"
    )
    return bool(run["state_type"] == "COMPLETED")


def wait_for(what: str, done: Callable[[], bool], timeout_s: float) -> float:
    """Poll, and return how long it took, seconds; a server that is too busy to answer is asked again."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(Unavailable):
            if done():
                return time.monotonic() - began
        assert time.monotonic() - began < timeout_s, f"{what}: not done after {timeout_s:.0f} s"
        time.sleep(0.2)
