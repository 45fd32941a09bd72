"""What runs, what waits, since when: the answer to ``starloom status``."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import make_url
from sqlmodel import Session

from starloom.archive import Archive, counting, staleness
from starloom.archive.engine import missing_file
from starloom.archive.events import open_events, surplus_runs
from starloom.dispatch.embedded import Embedded
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.pausing import paused
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.stuck import late_runs, stuck
from starloom.errors import StarloomError
from starloom.lake import connect
from starloom.settings import Settings

DAY_S = 86400.0


def overview(settings: Settings) -> dict[str, Any]:
    """Return services, pauses, frames and missions by state, what is stuck, stale stacks, open events, counts.

    Asks everything, changes nothing. ``stuck`` says since when, why, and what will happen: see
    `starloom.dispatch.stuck`.
    """
    url = settings.archive_url.get_secret_value()
    services = [
        _row("lake", lambda: connect(settings).ping(), settings.lake_url),
        _row("archive", lambda: _ping_archive(settings), make_url(url).render_as_string(hide_password=True)),
        _row("prefect", lambda: _ping_prefect(settings), settings.prefect_api_url or "not configured"),
    ]
    services += [_program(settings, "worker"), _program(settings, "relay", Heartbeat(settings.home, "relay"))]
    tables = ("paused", "frames", "missions", "stuck", "stale", "events", "counts")
    found: dict[str, Any] = {"services": services, **{name: [] for name in tables}}
    if services[1]["state"] == "up":
        archive = Archive(url)
        try:
            with archive.session() as session:
                found |= _waiting(session)
                found["stuck"] = stuck(session, relay_alive=services[-1]["state"] == "up")
        except StarloomError as error:  # an archive without tables answers, but holds nothing yet
            services[1] |= {"state": "silent", "detail": error.message}
        archive.dispose()
    if services[2]["state"] == "up":
        with PrefectApi.from_settings(settings) as api:
            found["stuck"] += late_runs(api)
            found["paused"] = paused(api, settings.work_pool)
    return found


def _row(name: str, check: Any, detail: str) -> dict[str, Any]:
    try:
        check()
    except StarloomError as error:
        return {"service": name, "state": "silent", "detail": error.message}
    return {"service": name, "state": "up", "detail": detail}


def _program(settings: Settings, name: str, heartbeat: Heartbeat | None = None) -> dict[str, Any]:
    """Say whether a program runs, and for one that shows signs of life whether it gets on."""
    pid = Embedded(settings.home).service(name).pid
    life = heartbeat.read() if heartbeat else None
    if life is not None and (pid or life["alive"]):
        detail = f"pid {life['pid']}, last seen {life['at'][:19]}" + (
            f": {life['trouble']}" * bool(life["trouble"])
        )
        return {"service": name, "state": "up" if life["alive"] else "silent", "detail": detail}
    return {
        "service": name,
        "state": "up" if pid else "down",
        "detail": f"pid {pid}" if pid else "not on this host",
    }


def _ping_archive(settings: Settings) -> None:
    url = settings.archive_url.get_secret_value()
    if missing_file(url) is not None:  # in a home that may only be misspelt
        raise StarloomError(
            f"there is no archive in {settings.home}; `starloom up` makes one", code="archive-not-ready"
        )
    archive = Archive(url)
    try:
        archive.ping()
    finally:
        archive.dispose()


def _ping_prefect(settings: Settings) -> None:
    api = PrefectApi.from_settings(settings)
    try:
        if not api.is_healthy():
            raise StarloomError(f"{settings.prefect_api_url} does not answer", code="prefect-unavailable")
    finally:
        api.close()


def _waiting(session: Session) -> dict[str, Any]:
    return {
        "frames": counting.frames_now(session),
        "missions": counting.missions_now(session),
        "stale": [
            {"mission_id": mission_id, "why": staleness.in_words(changes)}
            for mission_id, changes in sorted(staleness.why_stale(session).items())
        ],
        "counts": [
            {"what": "runs of the last day that found their mission taken", "count": surplus_runs(session, DAY_S)},
        ],
        "events": [
            {
                "id": event.id,
                "mission_id": event.mission_id,
                "since": event.created_at,
                "attempts": event.publish_attempts,
                "next_publish_at": event.next_publish_at,
                "note": event.note,
            }
            for event, _ in open_events(session)
        ],
    }
