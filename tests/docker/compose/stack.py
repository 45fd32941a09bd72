"""The production stack of infra/compose.yaml in the test's engine, with stand-ins for the images it names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starloom.dispatch.services import checkout
from starloom.dispatch.stack_secrets import stack_variables, write_once
from starloom.lake.seaweed import weed_binary
from tests.conftest import free_port
from tests.docker.engine import SERVICE_PACKAGES, Engine, import_debian, program
from tests.docker.hub import wait_for

NAME, HUB, LAKE = "starloom-test", "hub.test", "lake.test"
STAND_INS = {"POSTGRES": "postgres", "REDIS": "redis", "LAKE": "seaweedfs", "PROXY": "caddy"}
SETTINGS = {
    "STARLOOM_INGEST_INTERVAL_S": "10",
    "STARLOOM_SWEEP_INTERVAL_S": "3600",
    "STARLOOM_REFCAT_ONLINE": "false",
    "STARLOOM_QUEUE_LIMITS": '{"upkeep": 2, "stacks": 1, "frames": 2}',
}


def build_stand_ins(engine: Engine) -> None:
    """Build the images of tests/docker/compose/images; the lake's program is that of our wheel."""
    base = import_debian(engine, SERVICE_PACKAGES, "local/debian:services")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(__file__).parent / "images", folder, dirs_exist_ok=True)
        shutil.copy(weed_binary(), folder)
        for target in STAND_INS.values():
            words = ("--target", target, "-t", f"local/{target}:test", "--build-arg", f"BASE_IMAGE={base}")
            engine.run("build", "--quiet", *words, folder)


@dataclass(frozen=True)
class Stack:
    """A stack that was started; see `started_stack`."""

    engine: Engine
    folder: Path
    variables: dict[str, str]

    def compose(self, *words: str) -> str:
        """Run docker-compose as an operator does in infra/."""
        infra = checkout() / "infra"
        done = subprocess.run(
            [
                program("docker-compose", "docker-compose"),
                *("-p", NAME, "--project-directory", str(infra), "-f", str(infra / "compose.yaml")),
                *("--env-file", str(self.folder / ".env"), *words),
            ],
            env={**os.environ, "DOCKER_HOST": self.engine.host},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"docker-compose {words}: {done.stdout[-3000:]}{done.stderr[-5000:]}"
        return done.stdout

    def up(self, *services: str) -> None:
        self.compose("up", "--detach", "--no-color", *services)
        wait_for("the stack's health", lambda: set(self.health().values()) <= {"healthy", "running"}, 180)

    def say(self, file: str, name: str, value: str) -> None:
        """Set a variable in ``.env`` or ``settings.env``, as an operator's editor does."""
        path = self.folder / file
        lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}=")]
        path.write_text("\n".join([*lines, f"{name}={value}", ""]))

    def lose(self, *volumes: str) -> None:
        """Remove volumes of a stack that is down."""
        self.engine.run("volume", "rm", *(f"{NAME}_{volume}" for volume in volumes))

    def containers(self, *filters: str) -> list[str]:
        """Return the ids of the stack's containers, ended ones too; asking the engine is cheaper than compose."""
        words = [word for one in filters for word in ("--filter", f"label={one}")]
        mine = ("--filter", f"label=com.docker.compose.project={NAME}")
        return self.engine.run("ps", "--all", "--quiet", "--no-trunc", *mine, *words).split()

    def id_of(self, service: str) -> str:
        (found,) = self.containers(f"com.docker.compose.service={service}")
        return found

    def health(self) -> dict[str, str]:
        """Return ``healthy``, ``starting``, …, or ``running`` where a service has no check, by service."""
        found = {}
        for container in self.containers():
            said = self.engine.inspect(container)
            state = said["State"]
            if state["Status"] != "exited" or state["ExitCode"] != 0:
                service = said["Config"]["Labels"]["com.docker.compose.service"]
                found[service] = state.get("Health", {}).get("Status") or state["Status"]
        return found

    def starloom(self, *words: str) -> Any:
        """Run a command of starloom in the relay's container, and return its JSON."""
        return json.loads(self.engine.run("exec", self.id_of("relay"), "starloom", *words, "--json"))

    def run_deployment(self, name: str) -> None:
        """Start a run now, as an operator does on Prefect's page."""
        auth = f"PREFECT_API_AUTH_STRING={self.variables['PREFECT_AUTH_STRING']}"
        words = ("-e", "PREFECT_API_URL=http://prefect-api:4200/api", "-e", auth, self.id_of("relay"))
        self.engine.run("exec", *words, "prefect", "deployment", "run", name)

    def python(self, script: str) -> str:
        """Run a script in the relay's container."""
        return self.engine.run("exec", self.id_of("relay"), "python3", "-c", script)

    def sql(self, database: str, statement: str) -> str:
        """Ask one of the databases, ``archive`` or ``prefect``, as its own user."""
        user, secret = {
            "archive": ("starloom", "ARCHIVE_PASSWORD"),
            "prefect": ("prefect", "PREFECT_DATABASE_PASSWORD"),
        }[database]
        url = f"postgresql://{user}:{self.variables[secret]}@127.0.0.1/{user}"
        return self.engine.run("exec", self.id_of(f"{database}-db"), "psql", "-Atq", url, "-c", statement)

    def outside(self, *words: str, env: dict[str, str] | None = None, frames: Path | None = None) -> str:
        """Run a program where nodes and volunteers are: beyond the proxy, with its certificate alone."""
        given = {"SSL_CERT_FILE": "/ca.crt", **(env or {})}
        options = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        options += ["-v", f"{self.folder / 'ca.crt'}:/ca.crt:ro"]
        if frames is not None:
            options += ["-v", f"{frames}:/frames:ro"]
        return self.engine.run("run", "--rm", "--network", f"{NAME}_edge", *options, "starloom:test", *words)

    def crash(self, service: str) -> None:
        """Kill a service's first process, which is no order to stop: the engine starts it again."""
        os.kill(self.engine.inspect(self.id_of(service))["State"]["Pid"], signal.SIGKILL)

    def drain(self) -> None:
        """Let the runs end and no other begin, as docs/production.md says."""
        self.starloom("drain", "--reason", "upgrade")
        wait_for("the jobs' ends", lambda: self.jobs() == [], 60)

    def jobs(self, *options: str) -> list[str]:
        return self.engine.run("ps", "--quiet", *options, "--filter", "label=io.prefect.flow-run-id").split()


@contextmanager
def started_stack(engine: Engine) -> Iterator[Stack]:
    """Start the stack, and remove it with all it has kept."""
    with tempfile.TemporaryDirectory(prefix="starloom-stack-") as name:
        folder = Path(name)
        socket = Path(engine.host.removeprefix("unix://"))
        settings = folder / "settings.env"
        settings.write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
        variables = stack_variables(HUB, LAKE, "internal", socket.stat().st_gid) | {
            **{f"{service}_IMAGE": f"local/{image}:test" for service, image in STAND_INS.items()},
            "STARLOOM_IMAGE": "starloom:test",
            "STARLOOM_IMAGE_PULL_POLICY": "Never",
            "STARLOOM_STACK": NAME,
            "SETTINGS_FILE": str(settings),
            "DOCKER_SOCKET": str(socket),
            "PROXY_ADDRESS": "127.0.0.1",
            "PROXY_HTTP_PORT": str(free_port()),
            "PROXY_HTTPS_PORT": str(free_port()),
            "TLS_FOLDER": str(folder / "tls"),
            "LAKE_VOLUME_MB": "64",
        }
        write_once(folder / ".env", variables)
        stack = Stack(engine, folder, variables)
        try:
            stack.up()
            root = "/data/caddy/pki/authorities/local/root.crt"
            (folder / "ca.crt").write_text(stack.compose("exec", "-T", "proxy", "cat", root))
            (folder / "ca.crt").chmod(0o644)
            folder.chmod(0o755)  # the clients in containers are nobody special
            yield stack
        finally:
            stack.compose("kill", "worker")
            for job in stack.jobs("--all"):
                engine.run("rm", "--force", job)
            stack.compose("down", "--volumes", "--timeout", "5")
