"""Artifacts: tables, previews and progress on a run's page. Decoration: a run never fails for want of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

log = logging.getLogger("starloom.tasks.showing")

#: Rows of a table artifact; the archive has them all.
MAX_ROWS = 500


@contextmanager
def decoration(what: str) -> Iterator[None]:
    """Go on where Prefect cannot take an artifact: what has been published stays published."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("%s not shown: %s", what, error)


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Attach a table to the run; nothing where there is no row."""
    if not rows:
        return
    if len(rows) > MAX_ROWS:
        description += f" (the first {MAX_ROWS} of {len(rows)})"
    with decoration(f"table {key}"):
        create_table_artifact(table=[dict(row) for row in rows[:MAX_ROWS]], key=key, description=description)


def show_image(key: str, url: str, description: str) -> None:
    """Attach a picture to the run by its URL."""
    with decoration(f"image {key}"):
        create_image_artifact(image_url=url, key=key, description=description)


class Progress:
    """The run's progress artifact."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID | None = None
        self._description, self._start = description, time.monotonic()
        with decoration(f"progress {key}"):
            self._id = create_progress_artifact(progress=0.0, key=key, description=description)  # type: ignore[assignment]

    def at(self, percent: float) -> None:
        """Show how far the run has come, per cent, and how long the rest takes if it goes on as it did."""
        if self._id is None:
            return
        words = self._description
        if 0 < percent < 100:
            left = (time.monotonic() - self._start) * (100 - percent) / percent
            words += f": about {timedelta(seconds=round(left))} left"
        with decoration("progress"):
            update_progress_artifact(artifact_id=self._id, progress=percent, description=words)
