"""Settings: the one source of configuration, from the environment and the hub's own state file.

Precedence, highest first: ``STARLOOM_*`` environment variables, ``$STARLOOM_HOME/hub.env`` (written with mode
0600 by ``starloom up`` for the embedded services), files named like the variables in ``$STARLOOM_SECRETS_DIR``
(what Docker and Kubernetes mount as secrets), the defaults below.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from starloom.errors import BadInput
from starloom.refcat.cache import cache_folder

#: Settings as files, one each, named like its variable: what Docker and Kubernetes mount as secrets.
SECRETS_DIR = "STARLOOM_SECRETS_DIR"
#: Secrets that appear in documentation or compose examples; production refuses them.
WELL_KNOWN_SECRETS = frozenset({"", "changeme", "starloom", "secret", "password", "minioadmin"})


def default_home() -> Path:
    """Return ``$STARLOOM_HOME`` or ``~/.starloom``: where embedded services keep state, logs and pids."""
    return Path(os.environ.get("STARLOOM_HOME") or Path.home() / ".starloom")


def is_loopback(host: str | None) -> bool:
    """Return whether a URL's host is this machine alone."""
    return host in {"localhost", "::1"} or (host or "").startswith("127.")


class JobLimits(BaseModel):
    """What the container of one run may take of its machine."""

    model_config = ConfigDict(extra="forbid")

    #: Memory as Docker writes it (``512m``, ``4g``); a container above it is killed and its run CRASHED.
    memory: str = Field(pattern=r"^[1-9]\d*[kmg]$")
    #: Cores; all of the machine's where it is not said. Docker refuses more than there are.
    cpus: float | None = Field(default=None, ge=0.01)


class Settings(BaseSettings):
    """Everything that differs between a laptop, one server and many machines."""

    model_config = SettingsConfigDict(env_prefix="STARLOOM_", extra="ignore")

    environment: Literal["development", "production"] = "development"
    home: Path = Field(default_factory=default_home)
    #: Log lines of the hub's programs and of runs: text, or one JSON object a line; and from which level on.
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    #: ``s3://PREFIX`` (buckets ``PREFIX-inbox``, ``PREFIX-raw``, ``PREFIX-products``) or ``file:///folder``.
    lake_url: str = ""
    #: ``http(s)://host:port`` of the S3 API as the hub's own processes reach it.
    lake_endpoint: str = ""
    #: The same store as nodes and browsers reach it: a presigned URL signs its host.
    lake_public_endpoint: str = ""
    lake_region: str = "us-east-1"
    lake_access_key: str = ""
    lake_secret_key: SecretStr = SecretStr("")
    #: Object-lock retention of raw frames, days; 0 switches the lock off.
    lake_raw_lock_days: int = 3650
    #: Raw frames move to a cheaper storage class after so many days; 0 leaves them. The class must answer at once
    #: (``GLACIER_IR``, ``STANDARD_IA``): what has to be thawed first is read by no step.
    lake_cold_after_days: int = Field(default=0, ge=0)
    lake_cold_class: str = "GLACIER_IR"

    #: SQLAlchemy URL; SQLite in the home by default, ``postgresql+psycopg://…`` in production.
    archive_url: SecretStr = SecretStr("")

    prefect_api_url: str = ""
    prefect_api_auth_string: SecretStr = SecretStr("")
    #: Seconds between a run's signs of life, 30 at least (Prefect's own bound). An automation takes a run for dead
    #: that has been silent for two and a half of them, so every worker must run with the same number.
    run_heartbeat_s: int = Field(default=30, ge=30)
    #: Prefect block (Slack, e-mail, any webhook) that alerts go through; `starloom automations notify` makes one.
    alert_block: str = "starloom-alerts"
    #: When `sweep` raises an alert: a registered node silent for so many hours; this share of a node's frames of
    #: the last day quarantined; so many frames waiting, or one for so many hours; a disk full to this share.
    alert_node_silent_h: float = Field(default=72.0, gt=0)
    alert_quarantined_fraction: float = Field(default=0.2, gt=0, le=1)
    alert_waiting_frames: int = Field(default=5000, gt=0)
    alert_waiting_h: float = Field(default=6.0, gt=0)
    alert_disk_fraction: float = Field(default=0.9, gt=0, lt=1)

    #: Whether runs are processes of the worker's machine or containers of its Docker engine.
    work_pool_type: Literal["process", "docker"] = "process"
    #: ``starloom``, or ``starloom-docker``: a pool keeps its type for ever.
    work_pool: str = ""
    #: Where the embedded lake and Prefect listen. Containers do not reach loopback: the gateway of their bridge.
    bind_address: str = "127.0.0.1"

    #: The Docker pool: image of its jobs, and when it is pulled.
    image: str = "starloom:latest"
    image_pull_policy: Literal["IfNotPresent", "Always", "IfPossible", "Never"] = "IfNotPresent"
    #: Unset, Prefect takes the host's own network as soon as its API is on loopback.
    network_mode: str = Field(default="bridge", min_length=1)
    #: Names that containers resolve beside those of DNS, as JSON: ``{"lake.example": "10.0.0.5"}``.
    extra_hosts: dict[str, str] = Field(default_factory=dict)
    #: Volumes beside the secrets; the cache keeps star catalogues and compiled code from run to run.
    volumes: list[str] = Field(default_factory=lambda: ["starloom-cache:/home/starloom/.cache"])
    #: Where the engine finds the jobs' secrets: a volume's name or a folder of its machine; the home's ``run/job``
    #: where it is empty. To be said where the worker is itself a container, whose folders the engine does not see.
    job_secrets: str = ""
    #: Variables of the jobs' environment that are to differ from the hub's settings; no secret: it can be read.
    job_env: dict[str, str] = Field(default_factory=dict)
    #: Limits by deployment, as JSON: ``{"stack-mission": {"memory": "16g", "cpus": 8}}``; see `DEFAULT_LIMITS`.
    job_limits: dict[str, JobLimits] = Field(default_factory=dict)

    #: Runs at once of each work queue, as JSON: ``{"frames": 2, "stacks": 1}``; no limit where it is not said.
    queue_limits: dict[Literal["upkeep", "stacks", "frames"], PositiveInt] = Field(default_factory=dict)

    #: Intervals of the scheduled flows, seconds. A run costs about 3 CPU-s, most of them to start.
    ingest_interval_s: float = 30.0
    sweep_interval_s: float = 60.0
    tidy_interval_s: float = 3600.0
    relay_poll_s: float = 1.0
    #: How long a worker may take to start a run that it has taken: an image may have to be pulled. What has not
    #: begun by then died with whoever took it, and is ended for the slot that it holds.
    start_max_s: float = 600.0
    #: A mission that just became COMPLETE waits at most this long for frames still in flight.
    settle_max_s: float = 900.0
    #: Late frames coalesce: the next revision opens after this long without a new READY frame.
    late_quiet_s: float = 600.0
    lease_s: float = 60.0
    lease_renew_s: float = 15.0
    #: Errors nobody foresaw before a mission is FAILED and an alert raised.
    stack_attempts: int = 3
    #: Failures of every kind before it is: outages and holders that died, tried again later each time.
    stack_retries: int = 12
    #: Tries of one step of a frame before it is quarantined as ``retries-spent`` and an alert raised.
    frame_attempts: int = 12
    #: Runs of stack-mission that may wait or work at once; more events stay in the archive, where they are safe.
    max_outstanding_runs: int = 50
    #: Loopback port on which the relay answers ``GET /health``; 0 switches it off. Another address than loopback
    #: (a container's probe) is ``relay_health_host``.
    relay_health_port: int = 0
    relay_health_host: str = "127.0.0.1"
    #: Objects no row speaks of are removed after this long (must exceed the lease by far).
    orphan_grace_s: float = 86400.0
    #: Every raw object is compared with the hash in its key once in so many days; 0 switches it off.
    scrub_days: int = 30
    #: Announcements, failed tries and spent status events are forgotten after so many days; 0 keeps them for ever.
    history_days: int = Field(default=365, ge=0)
    #: The embedded Prefect server forgets ended runs (with logs and artifacts) and events after so many days.
    prefect_runs_days: int = Field(default=90, ge=1)
    prefect_events_days: int = Field(default=14, ge=1)
    #: A second copy of the raw frames (``s3://PREFIX`` or ``file:///folder``), filled and checked by ``tidy``;
    #: none where it is empty.
    raw_copy_url: str = ""
    raw_copy_endpoint: str = ""
    raw_copy_region: str = "us-east-1"
    raw_copy_access_key: str = ""
    raw_copy_secret_key: SecretStr = SecretStr("")
    #: The S3 server of ``starloom backup s3://BUCKET/PREFIX``; the lake's own where it is empty.
    backup_endpoint: str = ""
    backup_region: str = "us-east-1"
    backup_access_key: str = ""
    backup_secret_key: SecretStr = SecretStr("")
    #: How long an announced frame that never arrives holds a mission back.
    announce_ttl_s: float = 3600.0
    #: Calibration frames of a series are made a master after this long without a new one.
    masters_quiet_s: float = 300.0
    #: Whether frames that were calibrated without a master are done again by themselves once there is one.
    recalibrate: bool = False
    #: Frames per task: a task run costs the Prefect server about 0.4 CPU-s.
    chunk_size: int = 8
    #: Frames per run of process-frames, which costs some 5 CPU-s to start. A run must be through its frames within
    #: ten minutes, or `sweep` takes them for lost: more where frames are small and many.
    batch_size: int = Field(default=64, gt=0)
    #: Frames that get a page with picture and summary, shown with the run: every one, those that failed, a sample
    #: (one an instrument and outcome in an hour of its night), or none.
    quicklook: Literal["all", "failed", "sample", "none"] = "sample"
    stack_threads: int = Field(default_factory=lambda: os.cpu_count() or 1)
    #: What the tiles of a stack may take of a process's memory, bytes; half of what is free where it is not said.
    stack_memory_bytes: int | None = Field(default=None, gt=0)
    #: Address of a Dask scheduler whose workers make the tiles, ``tcp://host:8786`` or ``tls://host:8786`` (they
    #: need ``home`` on a shared file system); without one, threads of the run's own process do.
    dask_scheduler: str = Field(default="", pattern=r"^((tcp|tls)://\S+:\d+)?$")

    #: Imported star catalogues (``starloom refcat import``); the home's ``refcat`` by default.
    refcat_dir: Path = Path()
    #: What can be made or fetched again: the shipped catalogue's store, cells of online ones.
    refcat_cache: Path = Field(default_factory=cache_folder)
    #: Whether Gaia, Pan-STARRS and APASS are asked online; on in production, off elsewhere, unless it is said.
    refcat_online: bool = False
    #: Which of them, in the order they are tried for solving.
    refcat_services: list[str] = Field(default_factory=lambda: ["gaia", "panstarrs", "apass"])
    #: Mirrors by name, as JSON: ``{"gaia": "https://…/tap"}``.
    refcat_urls: dict[str, str] = Field(default_factory=dict)
    #: Seconds a query may take before the local catalogue answers instead.
    refcat_timeout_s: float = Field(default=30.0, gt=0)

    @field_validator("bind_address")
    @classmethod
    def _one_address(cls, said: str) -> str:
        # It is also the address at which the hub's own programs look for its services.
        if ipaddress.ip_address(said).is_unspecified:
            raise ValueError(f"{said} is no address that a client could connect to; name one of this machine's")
        return said

    @model_validator(mode="after")
    def _fill_and_check(self) -> Settings:
        if not self.lake_url:
            self.lake_url = (self.home / "lake").absolute().as_uri()
        if not self.archive_url.get_secret_value():
            self.archive_url = SecretStr(f"sqlite:///{(self.home / 'archive.sqlite').absolute()}")
        if not self.work_pool:
            self.work_pool = "starloom" if self.work_pool_type == "process" else "starloom-docker"
        if "refcat_dir" not in self.model_fields_set:
            self.refcat_dir = self.home / "refcat"
        if "refcat_online" not in self.model_fields_set:
            self.refcat_online = self.environment == "production"
        if self.environment == "production":
            self._refuse_default_secrets()
        return self

    def _refuse_default_secrets(self) -> None:
        # An archive without any password is one that knows its clients otherwise: by socket or certificate.
        found = {"STARLOOM_ARCHIVE_URL": urlsplit(self.archive_url.get_secret_value()).password}
        if self.lake_url.startswith("s3://"):
            found["STARLOOM_LAKE_SECRET_KEY"] = self.lake_secret_key.get_secret_value()
        if self.prefect_api_url and not is_loopback(urlsplit(self.prefect_api_url).hostname):
            auth = self.prefect_api_auth_string.get_secret_value()
            found["STARLOOM_PREFECT_API_AUTH_STRING"] = auth.partition(":")[2]
        for name, secret in found.items():
            if secret is not None and unquote(secret).lower() in WELL_KNOWN_SECRETS:
                raise BadInput(
                    f"{name} has a password that is empty or a well-known default",
                    code="default-secret",
                    hint="Set a random secret; production refuses the documented ones.",
                )

    @property
    def env_file(self) -> Path:
        """``hub.env`` in the home: endpoints and secrets of the embedded services, mode 0600."""
        return self.home / "hub.env"


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings for the given home (or the default one).

    Raises
    ------
    BadInput
        A value is missing or refused; the message names the variable.
    """
    base = home or default_home()
    # With pydantic-settings the environment outranks the env file, which outranks the defaults.
    try:
        return Settings(
            home=base,
            _env_file=base / "hub.env",
            _env_file_encoding="utf-8",
            _secrets_dir=os.environ.get(SECRETS_DIR) or None,
        )
    except ValidationError as error:
        # Without the values: what is wrong may be a secret.
        wrong = error.errors(include_input=False, include_url=False)
        said = "; ".join(
            f"STARLOOM_{str(item['loc'][-1]).upper()}: {item['msg']}" for item in wrong if item["loc"]
        )
        raise BadInput(
            said or "the settings contradict each other",
            code="bad-setting",
            hint=f"Correct it in the environment or in {base / 'hub.env'}.",
        ) from None
