"""``starloom up`` and ``down``: lake, archive, Prefect server, worker and relay on one machine.

They listen on loopback, or where ``bind_address`` says: a Docker pool's containers do not reach loopback. Whatever
the environment configures (an external lake or server) is used as it is and not started.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starloom.dispatch.deploying import register
from starloom.dispatch.pool import check_archive
from starloom.dispatch.preparing import prepare_stores
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import Service, checkout, free_port, python
from starloom.errors import Conflict, Unavailable
from starloom.lake.seaweed import SeaweedFS
from starloom.settings import Settings, load_settings
from starloom.telemetry.logs import prefect_environment

SERVICES = ("lake", "prefect", "worker", "relay")
#: Runs that the embedded worker takes at once, at least: upkeep must find a place beside a batch and a stack.
MIN_RUNS = 4
DAY_S = 86_400
#: With what Prefect's server encrypts blocks; read from its environment alone, or else one of its own making.
ENCRYPTION_KEY = "PREFECT_SERVER_ENCRYPTION_KEY"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Embedded:
    """The embedded services of one home."""

    home: Path

    def service(self, name: str) -> Service:
        """Return one of `SERVICES`."""
        return Service(self.home, name)

    def up(self, say: Say = lambda _: None) -> Settings:
        """Start everything that is not running, register what Prefect must know, and return the settings.

        Safe to repeat: what runs is left alone, deployments are registered again only when they changed. If it
        fails or is interrupted, what this call started is stopped again.

        Raises
        ------
        Unavailable
            ``service-failed``, with the end of the service's log.
        Conflict
            ``up-runs-already``: another `up` of the same home is at work.
        """
        root = checkout()
        self.home.mkdir(parents=True, exist_ok=True)
        with self._alone():
            before = {name for name, pid in self.pids().items() if pid is not None}
            try:
                return self._up(root, say)
            except BaseException:  # Ctrl-C too: nothing half-started may stay behind
                for name in reversed(SERVICES):
                    if name not in before:
                        self.service(name).stop()
                raise

    def _up(self, root: Path, say: Say) -> Settings:
        settings = load_settings(self.home)
        if settings.work_pool_type == "docker":
            check_archive(settings)
        self._up_lake(settings, say)
        settings = load_settings(self.home)
        prepare_stores(settings, say)
        self._up_prefect(say)
        settings = load_settings(self.home)
        env = program_environment(settings, root)
        register(settings, env, root, say)
        if self.service("worker").pid is None:
            stop_containers(settings)
        if self.service("worker").pid is None and "STARLOOM_PREFECT_API_URL" not in os.environ:
            with PrefectApi.from_settings(settings) as api:
                api.crash_orphans(settings.work_pool)
        self._start("worker", worker_command(settings), env, root, say)
        self._start("relay", python("starloom", "relay"), env, root, say)
        return settings

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the home's lock: two at once would both find the services missing and start them."""
        lock = self.home / "run" / "up.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"another `starloom up` is at work in {self.home}",
                    code="up-runs-already",
                    hint="Wait for it, then look with `starloom status`.",
                ) from error
            yield

    def down(self, say: Say = lambda _: None) -> list[str]:
        """Stop what runs, newest first, and return the names of what was stopped."""
        stopped = []
        for name in reversed(SERVICES):
            if self.service(name).stop():
                say(f"{name}: stopped")
                stopped.append(name)
                if name == "worker":
                    stop_containers(load_settings(self.home))
        return stopped

    def pids(self) -> dict[str, int | None]:
        """Return the pid of every service, None for those that do not run."""
        return {name: self.service(name).pid for name in SERVICES}

    @contextmanager
    def lake_alone(self) -> Iterator[None]:
        """Have the home's own lake run, where it has one, for the length of a block: a restore needs it."""
        running = self.service("lake").pid is not None
        ours = SeaweedFS(self.home).data.is_dir()
        try:
            if ours:
                with self._alone():
                    self._up_lake(load_settings(self.home), lambda _: None)
            yield
        finally:
            if ours and not running:
                self.service("lake").stop()

    def _start(self, name: str, command: list[str], env: dict[str, str], root: Path, say: Say) -> None:
        service = self.service(name)
        if service.pid is None:
            say(f"{name}: start")
            service.start(command, env, cwd=root)

    def _up_lake(self, settings: Settings, say: Say) -> None:
        if "STARLOOM_LAKE_URL" in os.environ:
            return
        lake, service = SeaweedFS(self.home, s3_bind=settings.bind_address), self.service("lake")
        if service.pid is None:
            say("lake: start SeaweedFS")
            write_env_file(self.home / "hub.env", lake.prepare())
            service.start(lake.command(), plain_environment())
        service.wait(lambda: _answers(lambda: lake.wait_ready(0.5)), 60)

    def _up_prefect(self, say: Say) -> None:
        if "STARLOOM_PREFECT_API_URL" in os.environ:
            return
        settings, service = load_settings(self.home), self.service("prefect")
        if service.pid is None:
            known = settings.prefect_api_url.rpartition(":")[2].partition("/")[0]
            host = settings.bind_address
            port = free_port(int(known) if known.isdigit() else 4200, host)
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}/api"
            found = {"STARLOOM_PREFECT_API_URL": url}
            if not (ipaddress.ip_address(host).is_loopback or settings.prefect_api_auth_string.get_secret_value()):
                # Whoever reaches Prefect runs code on this machine and reads every block.
                found["STARLOOM_PREFECT_API_AUTH_STRING"] = f"starloom:{secrets.token_urlsafe(24)}"
            write_env_file(settings.env_file, found)
            settings = load_settings(self.home)
            say(f"prefect: start server on {url}")
            service.start(
                python("prefect", "server", "start", "--host", host, "--port", str(port)),
                server_environment(settings, checkout()),
                cwd=self.home,
            )
        with PrefectApi.from_settings(settings) as api:
            service.wait(api.is_healthy, 120)


def _answers(check: Callable[[], None]) -> bool:
    try:
        check()
    except Unavailable:
        return False
    return True


def plain_environment() -> dict[str, str]:
    """Return this process's environment without other installations' Prefect settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}


def program_environment(settings: Settings, root: Path) -> dict[str, str]:
    """Return the environment of Prefect's programs: server, worker and command line."""
    env = plain_environment()
    env |= {
        "STARLOOM_HOME": str(settings.home),
        "STARLOOM_WORK_POOL": settings.work_pool,
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])]),
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        # Handed on to every run, in containers too. The automation that takes a silent run for dead counts on it.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(settings.run_heartbeat_s),
        # Results are references that the archive holds too; nothing is pickled into the home.
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        # In server memory, the default, a restart forgets who holds a slot.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # By default ended runs stay for ever; with them go their task runs, logs and artifacts. The last of the
        # three takes no number of seconds (Prefect 3.8.8), though the one before it does.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(settings.prefect_runs_days * DAY_S),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{settings.prefect_events_days}D",
        **prefect_environment(settings),
        # The lease is renewed by a thread outside any run; its lines still go to the worker's log.
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    if auth := settings.prefect_api_auth_string.get_secret_value():
        env |= {"PREFECT_API_AUTH_STRING": auth, "PREFECT_SERVER_API_AUTH_STRING": auth}
    return env


def server_environment(settings: Settings, root: Path) -> dict[str, str]:
    """Return the environment of the embedded Prefect server, with `ENCRYPTION_KEY` where ours has it."""
    key = os.environ.get(ENCRYPTION_KEY)
    return program_environment(settings, root) | ({ENCRYPTION_KEY: key} if key else {})


def stop_containers(settings: Settings) -> None:
    """End what a Docker worker that is gone has left running; nobody would hear of its end."""
    if settings.work_pool_type == "docker":
        from starloom.dispatch.docker_worker import stop_jobs  # of the extra `docker`

        stop_jobs(settings.home)


def worker_command(settings: Settings) -> list[str]:
    """Return the command line of the embedded worker; it runs as many flows at once as the machine has cores."""
    return pool_worker(settings, "starloom-worker", "--limit", str(max(MIN_RUNS, os.cpu_count() or 1)))


def pool_worker(settings: Settings, name: str, *options: str) -> list[str]:
    """Return the command line of a worker of the hub's pool, with options of ``prefect worker start``."""
    program = (
        ["prefect", "worker"] if settings.work_pool_type == "process" else ["starloom.dispatch.docker_worker"]
    )
    return python(
        *(*program, "start", "--pool", settings.work_pool, "--type", settings.work_pool_type),
        *("--name", name, *options),
    )


def write_env_file(path: Path, entries: dict[str, str]) -> None:
    """Merge entries into an environment file that only its owner can read."""
    merged: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            key, sign, value = line.partition("=")
            if sign:
                merged[key] = value
    merged |= entries
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{key}={value}\n" for key, value in sorted(merged.items())), encoding="utf-8")
    draft.replace(path)
