"""What Prefect must be told once: the work pool, the blocks, the deployments and their pace.

Every deploy deletes and recreates the deployment's schedules and automations, with ids and counts. So each part is
registered only when it changed, or when the server does not know it; what an operator has paused stays paused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from starloom.batches import FrameBatch
from starloom.dispatch.pausing import kept
from starloom.dispatch.pool import base_job_template, check_pool, job_variables, write_secrets
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import python, run_program
from starloom.errors import Conflict, StarloomError
from starloom.settings import Settings

#: Work queues in the order in which a worker serves them: upkeep is short, and frames come without end.
QUEUES: tuple[Literal["upkeep", "stacks", "frames"], ...] = ("upkeep", "stacks", "frames")
_VARIABLE = re.compile(r"{{\s*\$([A-Za-z_]\w*)\s*}}")

Say = Callable[[str], None]


def register(settings: Settings, env: Mapping[str, str], root: Path, say: Say) -> None:
    """Tell Prefect what it does not know yet: pool, blocks, deployments; then set the intervals.

    Raises
    ------
    StarloomError
        ``unset-setting``: prefect.yaml reads a variable that is empty; ``program-failed``; what
        `starloom.dispatch.pool.check_pool` refuses.
    Conflict
        ``pool-of-another-type``.
    """
    check_variables(root / "prefect.yaml", env)
    in_docker = settings.work_pool_type == "docker"
    if in_docker:
        check_pool(settings, wanted_deployments(root))
        write_secrets(settings)
    with PrefectApi.from_settings(settings) as api:
        blocks = _digest(
            settings.prefect_api_url,
            *(str(getattr(settings, name)) for name in ("lake_url", "lake_endpoint", "lake_public_endpoint")),
            *(settings.lake_region, settings.lake_access_key, settings.lake_secret_key.get_secret_value()),
            settings.archive_url.get_secret_value(),
            *(path.read_text(encoding="utf-8") for path in sorted((root / "blocks").glob("*.py"))),
        )
        stamps = settings.home / "run"
        known = set(api.deployments())
        if _read(stamps / "blocks-registered") != blocks or not known:
            say("prefect: register blocks")
            run_program(python("blocks.register"), env, cwd=root, what="registering the blocks")
            _write(stamps / "blocks-registered", blocks)
        _check_pool_type(settings, (api.pool(settings.work_pool) or {}).get("type"))
        deployed = deployment_digest(settings, root)
        if _read(stamps / "deployed") != deployed or not known.issuperset(wanted_deployments(root)):
            say("prefect: register work pool and deployments")
            with kept(api, settings.work_pool, wanted_deployments(root)):
                _deploy(settings, env, root)
            _write(stamps / "deployed", deployed)
        for priority, queue in enumerate(QUEUES, start=1):
            api.set_queue(settings.work_pool, queue, priority, settings.queue_limits.get(queue))
        # prefect.yaml takes no variable for an interval, nor for a number; deploying has just put its own there.
        for deployment in wanted_deployments(root):
            api.set_job_variables(deployment, job_variables(settings, deployment.rpartition("/")[2]))
        api.set_interval("ingest/ingest", "inbox", settings.ingest_interval_s)
        api.set_interval("sweep/sweep", "sweep", settings.sweep_interval_s)
        api.set_interval("tidy/tidy", "tidy", settings.tidy_interval_s)


def _check_pool_type(settings: Settings, found: str | None) -> None:
    """Refuse a pool that exists under the name with another type: Prefect would keep the type and say nothing."""
    if found not in (None, settings.work_pool_type):
        raise Conflict(
            f"the work pool {settings.work_pool} is of type {found}, not {settings.work_pool_type}",
            code="pool-of-another-type",
            hint="Set STARLOOM_WORK_POOL to another name; the old pool can be deleted once its runs have ended.",
        )


def _deploy(settings: Settings, env: Mapping[str, str], root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="starloom-pool-") as folder:
        options = ["--type", settings.work_pool_type, "--overwrite"]
        if settings.work_pool_type == "docker":
            template = Path(folder) / "template.json"
            template.write_text(json.dumps(base_job_template(settings)), encoding="utf-8")
            options += ["--base-job-template", str(template)]
        run_program(
            python("prefect", "work-pool", "create", settings.work_pool, *options),
            env,
            cwd=root,
            what="creating the work pool",
        )
    run_program(
        python("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(root / "prefect.yaml")),
        env,
        cwd=root,
        what="registering the deployments",
    )


def check_variables(prefect_yaml: Path, env: Mapping[str, str]) -> None:
    """Refuse to deploy with a variable unset: Prefect would only warn, and deploy an empty word.

    Raises
    ------
    StarloomError
        ``unset-setting``, naming them all.
    """
    unset = sorted(
        {name for name in _VARIABLE.findall(prefect_yaml.read_text(encoding="utf-8")) if not env.get(name)}
    )
    if unset:
        raise StarloomError(
            f"{prefect_yaml.name} reads {', '.join(unset)}, which is not set",
            code="unset-setting",
            hint=f"Set {unset[0]} in the environment or in hub.env.",
        )


def wanted_deployments(root: Path) -> set[str]:
    """Return the names ``flow/deployment`` of prefect.yaml; flows are named like their functions, with dashes."""
    said: dict[str, Any] = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))
    return {
        f"{entry['entrypoint'].rpartition('.')[2].replace('_', '-')}/{entry['name']}"
        for entry in said["deployments"]
    }


def deployment_digest(settings: Settings, root: Path) -> str:
    """Return what changes when the deployments must be registered again.

    The flows count too: Prefect checks parameters against the schema that was registered.
    """
    flows = sorted((root / "flows").glob("*.py"))
    return _digest(
        settings.prefect_api_url,
        settings.work_pool,
        json.dumps(base_job_template(settings)) if settings.work_pool_type == "docker" else "",
        *(path.read_text(encoding="utf-8") for path in (root / "prefect.yaml", *flows)),
        str(FrameBatch.model_json_schema()),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(stamp: Path) -> str:
    return stamp.read_text(encoding="utf-8") if stamp.is_file() else ""


def _write(stamp: Path, digest: str) -> None:
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest, encoding="utf-8")
