"""A Docker engine of the test's own, and a base image that no registry is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A bridge of the engine's own: `docker0` may be another engine's.
BRIDGE, GATEWAY, SUBNET = "starloom-test0", "172.31.250.1", "172.31.250.1/24"
BASE_PACKAGES = "ca-certificates,postgresql-client,python3,python3-venv,tzdata"
#: What the images of the production stack are stood in by (tests/docker/compose/Dockerfile).
SERVICE_PACKAGES = "busybox,caddy,ca-certificates,postgresql,redis-server,tzdata"
#: What a build needs to reach its package index from here belongs into the local base, never into the Dockerfile.
CARRIED = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def program(name: str, package: str) -> str:
    """Find a program; its absence fails the test, because nothing may be skipped for it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} not found: install Debian's `{package}`")
    return found


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    folder: Path

    @property
    def host(self) -> str:
        return f"unix://{self.folder / 'docker.sock'}"

    def run(self, *words: str | Path, stdin: Any = None) -> str:
        done = subprocess.run(
            [program("docker", "docker.io"), *map(str, words)],
            env={
                **os.environ,
                "DOCKER_HOST": self.host,
                "DOCKER_BUILDKIT": "0",
                "DOCKER_CONFIG": str(self.folder),
            },
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"docker {words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.run("inspect", what))
        return found[0]

    def containers(self, run_id: str) -> list[str]:
        """Return the full ids of the containers that a flow run had, ended ones too."""
        found = self.run(
            "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=io.prefect.flow-run-id={run_id}"
        )
        return found.split()


@contextmanager
def started_engine() -> Iterator[Engine]:
    """Start an engine in a temporary folder and stop it by its pid."""
    ip, dockerd = program("ip", "iproute2"), program("dockerd", "docker.io")
    # A path of pytest's own is too long for a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="starloom-docker-"))
    subprocess.run([ip, "link", "add", "name", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run([ip, "address", "add", SUBNET, "dev", BRIDGE], check=True)
        subprocess.run([ip, "link", "set", BRIDGE, "up"], check=True)
        engine = Engine(folder)
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [
                    dockerd,
                    *("--data-root", folder / "data", "--exec-root", folder / "exec"),
                    *("--pidfile", folder / "docker.pid", "--host", engine.host, "--bridge", BRIDGE),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                _await(engine, daemon)
                yield engine
                for container in engine.run("ps", "--quiet").split():
                    engine.run("kill", container)
            finally:
                daemon.terminate()
                daemon.wait(timeout=60)
    finally:
        subprocess.run([ip, "link", "delete", BRIDGE], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _await(engine: Engine, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            engine.run("version")
            return
        except AssertionError:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((engine.folder / "log").read_text()[-3000:]) from None
        time.sleep(0.2)


def import_base(engine: Engine) -> str:
    """Make ``local/python:slim`` of Debian's packages: as ``python:3.11-slim-bookworm``, as far as we use it."""
    import_debian(engine, BASE_PACKAGES, "local/debian:slim")
    with tempfile.TemporaryDirectory() as folder:
        lines = ["FROM local/debian:slim"]
        if CERTIFICATES.is_file():
            shutil.copyfile(CERTIFICATES, Path(folder) / "certificates.crt")
            lines += [
                f"COPY certificates.crt {CERTIFICATES}",
                f"ENV PIP_CERT={CERTIFICATES} SSL_CERT_FILE={CERTIFICATES}",
            ]
        lines += [f"ENV {name}={json.dumps(os.environ[name])}" for name in CARRIED if os.environ.get(name)]
        (Path(folder) / "Dockerfile").write_text("\n".join(lines) + "\n")
        engine.run("build", "--quiet", "--tag", "local/python:slim", folder)
    return "local/python:slim"


def import_debian(engine: Engine, packages: str, tag: str) -> str:
    """Make an image of a small Debian with some packages."""
    with _root_archive(packages).open("rb") as archive:
        engine.run("import", "-", tag, stdin=archive)
    return tag


def _root_archive(packages: str) -> Path:
    """Return a tar archive of a small Debian, made once for all sessions of this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starloom-tests"
    archive = cache / f"bookworm-{packages.replace(',', '-')}.tar"
    if not archive.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        draft = archive.with_suffix(".part")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        made = subprocess.run(
            [
                program("mmdebstrap", "mmdebstrap"),
                *("--variant=minbase", f"--include={packages}", *left_out, "--format=tar"),
                *("bookworm", draft),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout[-3000:]
        draft.replace(archive)
    return archive
