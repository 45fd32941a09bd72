"""How a work pool starts a run; in Docker: its container, what it may take, and where it finds the secrets.

Whoever may ask the Docker engine, or opens a run in Prefect, can read a container's environment and its image.
So no setting travels there. `write_secrets` puts the hub's settings into a folder of the worker's machine, one
file each, as Docker and Kubernetes mount secrets; every container gets the folder read-only, and
`starloom.settings` and a Prefect profile read it. It is written anew by every `up`: what changed there reaches
the next run, and no deployment has to be registered again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from starloom.dispatch.services import python
from starloom.errors import BadInput, StarloomError
from starloom.settings import SECRETS_DIR, JobLimits, Settings, is_loopback
from starloom.telemetry.logs import prefect_environment

#: Where a container finds `secrets_folder`.
MOUNT = "/run/secrets/starloom"
PROFILES = "prefect-profiles.toml"
#: The image's user (docker/Dockerfile) and its home.
IMAGE_UID = 10001
IMAGE_HOME = "/home/starloom"
#: Names the containers of one hub among all that its engine runs.
LABEL = "org.starloom.hub"

DEFAULT_LIMITS = {
    "ingest": JobLimits(memory="2g"),
    "sweep": JobLimits(memory="2g"),
    "process-frames": JobLimits(memory="4g"),
    "build-masters": JobLimits(memory="4g"),
    "stack-mission": JobLimits(memory="8g"),
}
#: For a deployment that is not named above.
OTHER_LIMITS = JobLimits(memory="4g")

#: Settings that describe the worker's machine or the pool, and would be wrong inside.
_OUTSIDE = frozenset(
    {"home", "refcat_dir", "refcat_cache", "work_pool", "work_pool_type", "bind_address", "image"}
    | {"image_pull_policy", "network_mode", "extra_hosts", "volumes", "job_env", "job_limits", "job_secrets"}
    | {"queue_limits"}
)
#: Prefect's worker copies every setting of its own into the job's environment, passwords too; null takes it out.
_NOT_INSIDE = (
    *("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_SERVER_API_AUTH_STRING"),
    *("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"),
    *("PREFECT_SERVER_DATABASE_PASSWORD", "PREFECT_API_DATABASE_PASSWORD", "PREFECT_API_ENCRYPTION_KEY"),
    *("PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_PROFILE", "PREFECT_CLIENT_CUSTOM_HEADERS"),
)


def hub_label(home: Path) -> str:
    """Return the value of `LABEL` for the hub of a home."""
    return hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:16]


def secrets_folder(settings: Settings) -> Path:
    """Return the folder of the worker's machine that every container gets."""
    return settings.home.absolute() / "run" / "job"


def job_user() -> str | None:
    """Return who a container runs as, where it is not the image's user.

    Files of mode 0400 are for their owner: root gives them to the image's user, anybody else to their own number.
    """
    return None if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def write_secrets(settings: Settings) -> Path:
    """Write the settings that differ from the defaults, one file each (mode 0400), and return their folder."""
    folder = secrets_folder(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    wanted = {
        f"STARLOOM_{name.upper()}": _text(getattr(settings, name))
        for name in sorted(settings.model_fields_set - _OUTSIDE)
    }
    auth = settings.prefect_api_auth_string.get_secret_value()
    # A JSON string is a basic string of TOML.
    password = f"PREFECT_API_AUTH_STRING = {json.dumps(auth)}\n" if auth else ""
    wanted[PROFILES] = f'active = "job"\n\n[profiles.job]\n{password}'
    for old in folder.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        _write_for_jobs(folder / name, text)
    _give_to_jobs(folder)
    return folder


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)


def _write_for_jobs(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    _give_to_jobs(draft)
    draft.replace(path)


def _give_to_jobs(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, IMAGE_UID, IMAGE_UID)


def limits_of(settings: Settings, deployment: str) -> JobLimits:
    """Return the limits of a deployment, by its name without the flow's."""
    return settings.job_limits.get(deployment) or DEFAULT_LIMITS.get(deployment) or OTHER_LIMITS


def job_variables(settings: Settings, deployment: str) -> dict[str, Any]:
    """Return what differs from deployment to deployment: its limits; of a pool of processes, how a run is started.

    Prefect's own commands start processes that prepare a working copy, and from it one that runs the flow; each
    loads Prefect anew. This hub's flows are on the Python path, and need no copy.
    """
    if settings.work_pool_type == "process":
        return {"command": shlex.join(python("prefect.engine"))}
    limits = limits_of(settings, deployment)
    # Without swap: a job that outgrows its limit should end, not crawl.
    variables: dict[str, Any] = {"mem_limit": limits.memory, "memswap_limit": limits.memory}
    if limits.cpus is not None:
        variables["nano_cpus"] = round(limits.cpus * 1e9)
        if "STARLOOM_STACK_THREADS" not in settings.job_env:
            # A process counts the machine's cores, not its share of them.
            variables["env"] = {"STARLOOM_STACK_THREADS": str(math.ceil(limits.cpus))}
    return variables


def base_job_template(settings: Settings) -> dict[str, Any]:
    """Return the pool's template: which of Prefect's job variables there are, and what they are for this hub."""
    hidden: dict[str, str | None] = dict.fromkeys(_NOT_INSIDE)
    env: dict[str, str | None] = {
        **hidden,
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_HOME": f"{IMAGE_HOME}/.prefect",  # the worker's own would be copied too
        "PREFECT_PROFILES_PATH": f"{MOUNT}/{PROFILES}",
        SECRETS_DIR: MOUNT,
        **prefect_environment(settings),
        **settings.job_env,
    }
    variables: dict[str, dict[str, Any]] = {
        "image": {"type": "string", "default": settings.image},
        "image_pull_policy": {
            "type": "string",
            "enum": ["IfNotPresent", "Always", "IfPossible", "Never"],
            "default": settings.image_pull_policy,
        },
        "command": {"type": "string", "default": "python -m prefect.engine", "description": "Runs the flow."},
        "env": {"type": "object", "additionalProperties": {"type": ["string", "null"]}, "default": env},
        "name": {"type": "string"},
        "network_mode": {"type": "string", "default": settings.network_mode},
        "volumes": {"type": "array", "items": {"type": "string"}, "default": _volumes(settings)},
        "mem_limit": {"type": "string", "default": OTHER_LIMITS.memory, "description": "Such as 512m or 4g."},
        "memswap_limit": {"type": "string", "default": OTHER_LIMITS.memory, "description": "Memory and swap."},
        "nano_cpus": {"type": "integer", "description": "Cores times 10^9."},
    }
    configuration: dict[str, Any] = {name: f"{{{{ {name} }}}}" for name in variables if name != "nano_cpus"}
    configuration["labels"] = {LABEL: hub_label(settings.home)}
    # Without the output, prefect-docker 0.7.4 does not look at a container again once it has ended, and takes any
    # end for a good one.
    configuration["stream_output"] = True
    # Docker's own removal races with Prefect's look at the exit code (of 24 killed containers, 3 were gone between
    # its two looks); `starloom.dispatch.docker_worker` removes them later.
    configuration["auto_remove"] = False
    configuration["container_create_kwargs"] = _container(settings)
    return {
        "variables": {"type": "object", "properties": {n: {"title": n, **v} for n, v in variables.items()}},
        "job_configuration": configuration,
    }


def _container(settings: Settings) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "nano_cpus": "{{ nano_cpus }}",
        "init": True,  # Python as process 1 would neither reap children nor hear SIGTERM before Prefect listens
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 1024,
        "healthcheck": {"test": ["NONE"]},  # a job's end says how it was
        "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "2"}},
    }
    if user := job_user():
        wanted["user"] = user
    if settings.extra_hosts:
        wanted["extra_hosts"] = settings.extra_hosts
    return wanted


def _volumes(settings: Settings) -> list[str]:
    volumes = [f"{settings.job_secrets or secrets_folder(settings)}:{MOUNT}:ro", *settings.volumes]
    if not settings.job_secrets and settings.refcat_dir.is_dir():
        volumes.append(f"{settings.refcat_dir.absolute()}:{IMAGE_HOME}/.starloom/refcat:ro")
    return volumes


def check_pool(settings: Settings, deployments: Iterable[str]) -> None:
    """Refuse what would fail in every container, before anything is registered.

    Parameters
    ----------
    settings
        With the addresses at which lake, archive and Prefect are reached.
    deployments
        Names ``flow/deployment``.

    Raises
    ------
    StarloomError
        ``no-prefect-docker``: the extra is not installed.
    BadInput
        ``not-in-containers``: a folder, a file or a loopback address, which containers do not share;
        ``bad-setting``: limits for a deployment that there is not.
    """
    if importlib.util.find_spec("prefect_docker") is None:
        raise StarloomError(
            "a Docker work pool needs prefect-docker",
            code="no-prefect-docker",
            hint="Install the extra `docker`: pip install 'starloom[hub,docker]'.",
        )
    known = {name.rpartition("/")[2] for name in deployments}
    if unknown := sorted(settings.job_limits.keys() - known):
        raise BadInput(
            f"STARLOOM_JOB_LIMITS: there is no deployment {', '.join(unknown)}",
            code="bad-setting",
            hint=f"There are {', '.join(sorted(known))}.",
        )
    check_archive(settings)
    if not settings.lake_url.startswith("s3://"):
        raise _not_inside("STARLOOM_LAKE_URL", settings.lake_url, "a lake on S3")
    for name, url in (
        ("STARLOOM_LAKE_ENDPOINT", settings.lake_endpoint),
        ("STARLOOM_PREFECT_API_URL", settings.prefect_api_url),
    ):
        _check_host(settings, name, urlsplit(url).hostname)


def check_archive(settings: Settings) -> None:
    """Refuse an archive that containers could not open; see `check_pool`."""
    archive = make_url(settings.archive_url.get_secret_value())
    if archive.get_backend_name() == "sqlite":
        # Its locks and shared memory hold within one kernel's file system, and the file would have to be mounted
        # with its folder and be written by two users.
        raise _not_inside("STARLOOM_ARCHIVE_URL", "a SQLite file", "PostgreSQL")
    _check_host(settings, "STARLOOM_ARCHIVE_URL", archive.host)


def _check_host(settings: Settings, name: str, host: str | None) -> None:
    if name in settings.job_env or settings.network_mode == "host":
        return
    if is_loopback(host):
        raise _not_inside(name, host or "", "an address that containers reach, such as their bridge's gateway")


def _not_inside(name: str, found: str, wanted: str) -> BadInput:
    return BadInput(
        f"{name}: containers have no part in {found}; a Docker work pool needs {wanted}",
        code="not-in-containers",
        hint="docs/docker.md says how; the embedded services listen at STARLOOM_BIND_ADDRESS.",
    )
