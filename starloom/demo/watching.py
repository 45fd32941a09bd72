"""Looking at the archive, and waiting until it says what is wanted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlmodel import col, select

from starloom import interruption
from starloom.archive import Archive, frames
from starloom.archive.models import Frame, Master, Mission, Product, Revision
from starloom.errors import StarloomError

POLL_S = 0.5


def wait_until(what: str, done: Callable[[], bool], timeout_s: float, say: Callable[[], str]) -> None:
    """Poll until ``done()``.

    Raises
    ------
    StarloomError
        ``demo-timeout``, with the last state.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        interruption.check()
        if time.monotonic() > deadline:
            raise StarloomError(
                f"{what}: not done after {timeout_s:.0f} s; {say()}",
                code="demo-timeout",
                hint="Run it again with --keep and look at the Prefect UI and the logs it names.",
            )
        time.sleep(POLL_S)


def frames_of(archive: Archive, mission: str) -> list[Frame]:
    """Return every frame that carries a mission's id."""
    with archive.session() as session:
        return list(session.exec(select(Frame).where(Frame.obs_req == mission)).all())


def frames_named(archive: Archive, names: list[str]) -> list[Frame]:
    """Return every frame of the given file names."""
    with archive.session() as session:
        return list(session.exec(select(Frame).where(col(Frame.name).in_(names))).all())


def master_frames(archive: Archive) -> list[int]:
    """Return of how many frames each current master calibration frame was made."""
    with archive.session() as session:
        return list(session.exec(select(Master.n_frames).where(col(Master.current).is_(True))).all())


def counts(found: list[Frame]) -> dict[str, int]:
    """Count frames by state."""
    tally: dict[str, int] = {}
    for frame in found:
        state = frames.state_of(frame)
        tally[state] = tally.get(state, 0) + 1
    return dict(sorted(tally.items()))


def status_of(archive: Archive, mission: str) -> str:
    """Return a mission's status."""
    with archive.session() as session:
        found = session.get(Mission, mission)
        return "absent" if found is None else found.status


def newest_revision(archive: Archive, mission: str) -> int:
    """Return the number of the newest published revision, 0 before the first."""
    with archive.session() as session:
        found = session.exec(
            select(Revision.n)
            .where(Revision.mission_id == mission, Revision.status == "published")
            .order_by(col(Revision.n).desc())
        ).first()
        return found or 0


def products_of(archive: Archive, mission: str) -> list[tuple[int, Product]]:
    """Return ``(revision number, product)`` of all published revisions, oldest first."""
    with archive.session() as session:
        rows = session.exec(
            select(Revision.n, Product)
            .join(Product, col(Product.revision_id) == Revision.id)
            .where(Revision.mission_id == mission, Revision.status == "published")
            .order_by(col(Revision.n), col(Product.band), col(Product.pointing))
        ).all()
    return [(n, product) for n, product in rows]


def complete_by_plain_sql(archive: Archive, mission: str) -> str:
    """Change a mission's status with the database's own driver, as a portal would; return the statement."""
    statement = f"UPDATE mission SET status = 'COMPLETE' WHERE id = '{mission}'"  # noqa: S608 - our own ids
    parameters: tuple[Any, ...] = (mission,)
    if archive.is_sqlite:
        with sqlite3.connect(str(archive.engine.url.database), timeout=30) as connection:
            connection.execute("UPDATE mission SET status = 'COMPLETE' WHERE id = ?", parameters)
        connection.close()
    else:
        import psycopg

        url = archive.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url) as link:
            link.execute("UPDATE mission SET status = 'COMPLETE' WHERE id = %s", parameters)
    return statement
