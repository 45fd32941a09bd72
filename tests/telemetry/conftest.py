"""Archives of both kinds, a station with frames to send, a Prefect server, and traces kept in memory."""

from __future__ import annotations

from tests.archive.conftest import archive, empty_archive
from tests.dispatch.server import prefect_server
from tests.steps.conftest import exposure, frames, no_blind_solver, station
from tests.telemetry.spans import spans

__all__ = [
    "archive",
    "empty_archive",
    "exposure",
    "frames",
    "no_blind_solver",
    "prefect_server",
    "spans",
    "station",
]
