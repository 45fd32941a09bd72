"""Prefect's server gone while a stack is made; every automation deleted: one product of each mission even so."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.dispatch.rest import PrefectApi
from tests.chaos.servers import Site
from tests.chaos.sky import add_mission
from tests.chaos.storm import HASTE, PACE

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(1200)]

#: Seconds that the server is down; 180 in docs/reliability.md.
OUTAGE_S = float(os.environ.get("STARLOOM_TEST_OUTAGE_S", "20"))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="starloom-outage-"))
    made = Site(home, PACE | HASTE)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(home, ignore_errors=True)


def status(site: Site, mission: str) -> str:
    return str(site.sql("SELECT status FROM mission WHERE id = %s", mission)[0][0])


def begin(site: Site, mission: str, number: int) -> None:
    hub = site.hub()
    add_mission(hub, mission, number)
    hub.archive.dispose()
    site.sql("UPDATE mission SET status = 'COMPLETE' WHERE id = %s", mission)


def published(site: Site, mission: str) -> list[tuple[int, int]]:
    return site.sql(
        "SELECT r.n, count(p.id) FROM revision r JOIN product p ON p.revision_id = r.id"
        " WHERE r.mission_id = %s AND r.status = 'published' GROUP BY r.id, r.n",
        mission,
    )  # type: ignore[return-value]


def test_a_server_that_goes_away_while_a_stack_is_made_costs_no_product_and_makes_no_second(site: Site) -> None:
    begin(site, "outage", 1)
    site.wait_until(lambda: status(site, "outage") == "STACKING", 180)
    site.kill("prefect", OUTAGE_S)
    site.wait_until(lambda: status(site, "outage") == "STACKED", OUTAGE_S + 300)
    site.wait_until(site.programs["prefect"].ready, OUTAGE_S + 120)
    assert published(site, "outage") == [(1, 1)]


def test_without_any_automation_the_relay_makes_the_run_itself(site: Site) -> None:
    with PrefectApi.from_settings(site.settings) as api:
        for automation in api.automations():
            api.delete_automation(automation["id"])
        assert api.automations() == []
    begin(site, "deaf", 2)
    site.wait_until(lambda: status(site, "deaf") == "STACKED", 400)
    assert published(site, "deaf") == [(1, 1)]
    ((attempts, note),) = site.sql(
        "SELECT publish_attempts, note FROM status_event WHERE mission_id = 'deaf' AND state = 'claimed'"
    )
    assert attempts == 3  # two events that nobody heard, then the run
    assert note
