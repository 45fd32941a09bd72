"""Prefect and the programs about it: server, pool, worker, relay, deployments, automations, alerts, key."""

from __future__ import annotations

import contextlib
import sqlite3
from importlib.metadata import version as version_of
from pathlib import Path

from starloom.dispatch import automations, watchdog
from starloom.dispatch.deploying import deployment_digest, wanted_deployments
from starloom.dispatch.embedded import Embedded
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.doctor.finding import Check, Group, Trouble
from starloom.settings import Settings


def _alive(check: str) -> Check:
    """Return one of the watchdog's checks as one of ours."""
    look = watchdog.CHECKS[check]
    why, remedy = _LIVES[check]

    def ask(settings: Settings) -> str:
        try:
            return look(settings)
        except watchdog.Dead as dead:
            raise Trouble(str(dead), remedy) from dead

    return Check(check, why, ask)


_LIVES = {
    "prefect": ("It starts every run.", "`starloom up` starts it; its log is logs/prefect.log in the home."),
    "worker": ("Runs wait for it.", "`starloom up` starts it; its log is logs/worker.log in the home."),
    "relay": ("It turns a mission's status into a run.", "`starloom up`, or `starloom relay` under a supervisor."),
    "sweep": ("What failed is tried again by it.", "Look at its runs in the Prefect UI; is its schedule paused?"),
    "claims": ("Missions wait for their stacks.", "`starloom status` says for what they wait."),
}


def version_is_ours(settings: Settings) -> str:
    """Compare the server's version with the one that was tested with this release."""
    with PrefectApi.from_settings(settings) as api:
        there = api.version()
    wanted = version_of("prefect")
    if there != wanted:
        raise Trouble(
            f"the server is Prefect {there}, the hub's own {wanted}",
            f"Run the server with {wanted}, which this release was tested with.",
        )
    return there


def pool_is_of_its_type(settings: Settings) -> str:
    """Look at the work pool."""
    with PrefectApi.from_settings(settings) as api:
        found = (api.pool(settings.work_pool) or {}).get("type")
    if found != settings.work_pool_type:
        raise Trouble(
            f"work pool {settings.work_pool} is {found or 'not there'}, not {settings.work_pool_type}",
            "`starloom up` makes it; a pool keeps its type for ever, so another type needs another name.",
        )
    return f"{settings.work_pool}, {found}"


def deployments_are_current(settings: Settings) -> str:
    """Compare what is registered with prefect.yaml and the flows of this checkout."""
    root = checkout()
    wanted = wanted_deployments(root)
    with PrefectApi.from_settings(settings) as api:
        missing = sorted(wanted - set(api.deployments()))
    if missing:
        raise Trouble(f"not registered: {', '.join(missing)}", "`starloom up` registers them.")
    stamp = settings.home / "run" / "deployed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") != deployment_digest(settings, root):
        raise Trouble(
            "prefect.yaml or a flow has changed since they were registered", "`starloom up` registers them again."
        )
    return f"{len(wanted)} registered"


def automations_are_applied(settings: Settings) -> str:
    """Compare the server's automations with the files, which nobody has to use."""
    with PrefectApi.from_settings(settings) as api:
        changes = automations.plan(
            automations.read(settings, automations.default_folder(), _block(api, settings)),
            api.automations(),
            can_notify=_block(api, settings) is not None,
        )
    differing = [change.name for change in changes if change.verb not in ("unchanged", "leftover")]
    if differing:
        raise Trouble(
            f"{len(differing)} of {len(changes)} automations are not as their files say",
            "`starloom automations apply`; without them crashed runs come back later, and nobody is told.",
            "warning",
        )
    return f"{len(changes)} applied"


def somebody_is_told(settings: Settings) -> str:
    """Look for the block that alerts go through."""
    with PrefectApi.from_settings(settings) as api:
        if _block(api, settings) is None:
            raise Trouble(
                f"there is no notification block {settings.alert_block}",
                "`starloom automations notify URL`, or make a block of that name in the Prefect UI.",
                "warning",
            )
    return settings.alert_block


def _block(api: PrefectApi, settings: Settings) -> str | None:
    return automations.notification_block(api, settings.alert_block)


def key_is_kept_apart(settings: Settings) -> str:
    """Look whether the key to Prefect's secrets lies in the same database as the secrets."""
    pid = Embedded(settings.home).service("prefect").pid
    database = settings.home / "prefect" / "prefect.db"
    if pid is None or not database.is_file():
        raise Trouble(
            "the server is not this home's, so its key cannot be seen from here",
            "See that PREFECT_SERVER_ENCRYPTION_KEY is set where it runs.",
            "warning",
        )
    inside = _has_key(database)
    if not inside and _is_set(pid):
        return "PREFECT_SERVER_ENCRYPTION_KEY is set, and not in the database"
    raise Trouble(
        "Prefect's database holds the key to the secrets in it" if inside else "no key is set yet",
        "Set PREFECT_SERVER_ENCRYPTION_KEY for the server, and keep it apart from its backups.",
        "warning",
    )


def _has_key(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        found = connection.execute("SELECT 1 FROM configuration WHERE key = 'ENCRYPTION_KEY'").fetchone()
    return found is not None


def _is_set(pid: int) -> bool:
    environment = Path(f"/proc/{pid}/environ")
    return environment.is_file() and b"PREFECT_SERVER_ENCRYPTION_KEY=" in environment.read_bytes()


GROUP = Group(
    "prefect",
    _alive("prefect"),
    (
        Check("version", "Other versions answer otherwise, or not at all.", version_is_ours),
        Check("work pool", "Runs go there.", pool_is_of_its_type),
        _alive("worker"),
        Check("deployments", "Runs are checked against what was registered.", deployments_are_current),
        _alive("sweep"),
        _alive("relay"),
        _alive("claims"),
        Check("automations", "They bring crashed runs back within seconds, and tell.", automations_are_applied),
        Check("alerts", "Somebody has to hear of what nobody can mend from here.", somebody_is_told),
        Check("encryption key", "Whoever has the database has every block's secret.", key_is_kept_apart),
    ),
)
