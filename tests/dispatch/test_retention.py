"""The embedded Prefect server forgets in time: it takes the settings under the names that we give it."""

from __future__ import annotations

import pytest

from tests.dispatch.server import RunningPrefect

pytestmark = pytest.mark.slow


def seconds(said: object) -> float:
    """Read a duration as the server writes it: a number of seconds, or days in ISO 8601."""
    text = str(said)
    return float(text.strip("PD")) * 86400 if text.startswith("P") else float(text)


def test_runs_and_events_are_forgotten_when_the_settings_say(prefect_server: RunningPrefect) -> None:
    server = prefect_server.api.call("GET", "/admin/settings")["server"]
    settings = prefect_server.settings
    vacuum = server["services"]["db_vacuum"]
    assert {"events", "flow_runs"} <= set(vacuum["enabled"])
    assert seconds(vacuum["retention_period"]) == settings.prefect_runs_days * 86400
    assert seconds(server["events"]["retention_period"]) == settings.prefect_events_days * 86400
