"""Holding a mission: claimed through outages, renewed, told when it is lost, given back with the reason."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlmodel import select

from starloom import holding
from starloom.archive import claims
from starloom.archive.models import Mission, Revision, StatusEvent
from starloom.errors import BadInput, Unavailable
from starloom.holding import check_held, claimed, record_of, tidy_work, workdir
from starloom.hub import Hub
from starloom.settings import Settings
from tests.waiting import until


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub.open(Settings(home=tmp_path / "home", lease_s=5.0, lease_renew_s=0.05))
    made.archive.migrate()
    with made.archive.transaction() as session:
        session.add(Mission(id="550", status="COMPLETE"))
    yield made
    made.archive.dispose()


def event(hub: Hub) -> int:
    with hub.archive.session() as session:
        return max(found.id or 0 for found in session.exec(select(StatusEvent)).all())


def revisions(hub: Hub) -> list[Revision]:
    with hub.archive.session() as session:
        return list(session.exec(select(Revision).order_by(Revision.epoch)).all())  # type: ignore[arg-type]


def test_the_lease_is_renewed_while_the_work_goes_on(hub: Hub) -> None:
    with claimed(hub, "550", event(hub), holder="me"):
        first = revisions(hub)[0].lease_until
        until(lambda: revisions(hub)[0].lease_until > first)
        names = [thread.name for thread in threading.enumerate()]
        assert "lease" in names
    assert "lease" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (Unavailable("silent", code="lake-unavailable"), "lake-unavailable", "COMPLETE"),
        (BadInput("none", code="no-usable-frames"), "no-usable-frames", "FAILED"),
        (RuntimeError("nobody foresaw this"), "unexpected", "COMPLETE"),
        (KeyboardInterrupt(), "cut-off", "COMPLETE"),
        (httpx.ConnectError("the server restarts"), "prefect-unavailable", "COMPLETE"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_mission_is_given_back_with_the_reason(hub: Hub, error: BaseException, code: str, status: str) -> None:
    def work() -> None:
        with claimed(hub, "550", event(hub), holder="me") as claim:
            workdir(hub, claim).mkdir(parents=True)
            raise error

    with pytest.raises(type(error)):
        work()
    assert (revisions(hub)[0].error or {})["code"] == code
    with hub.archive.session() as session:
        assert session.get(Mission, "550").status == status  # type: ignore[union-attr]
    assert list((hub.settings.home / "work" / "550").iterdir()) == []


def test_what_prefect_refuses_is_no_outage() -> None:
    request = httpx.Request("GET", "http://prefect/api")
    for status, code in ((422, "unexpected"), (503, "prefect-unavailable")):
        error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
        assert record_of(error)[0]["code"] == code


def test_a_claim_outlives_an_archive_that_answers_late(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "CLAIM_PAUSES_S", (0.0, 0.0))
    claim, asked = claims.claim, []

    def mute(*arguments: object, **options: object) -> claims.Claim:
        asked.append(options["token"])
        made = claim(*arguments, **options)  # type: ignore[arg-type]
        if len(asked) == 1:
            raise Unavailable("committed, but the answer was lost")
        return made

    monkeypatch.setattr(claims, "claim", mute)
    with claimed(hub, "550", event(hub), holder="me") as held:
        assert held.epoch == 1
    assert len(set(asked)) == 1
    assert len(revisions(hub)) == 1


def test_the_tasks_of_a_lost_claim_stop(hub: Hub) -> None:
    with claimed(hub, "550", event(hub), holder="me") as claim:
        folder = workdir(hub, claim)
        folder.mkdir(parents=True)
        check_held(folder)
        with hub.archive.transaction() as session:
            session.get(Revision, claim.revision_id).status = "expired"  # type: ignore[union-attr]
        until((folder / holding.LOST).exists)
        with pytest.raises(claims.LeaseLost, match="no longer held"):
            check_held(folder)


def test_the_tasks_of_a_cancelled_mission_stop_and_say_so(hub: Hub) -> None:
    with claimed(hub, "550", event(hub), holder="me") as claim:
        folder = workdir(hub, claim)
        folder.mkdir(parents=True)
        with hub.archive.transaction() as session:
            session.get(Mission, "550").status = "CANCELLED"  # type: ignore[union-attr]
        until((folder / holding.LOST).exists)
        with pytest.raises(claims.MissionCancelled):
            check_held(folder)


def test_working_folders_of_dead_claims_go_and_those_of_the_living_stay(hub: Hub) -> None:
    work = hub.settings.home / "work" / "550"
    with claimed(hub, "550", event(hub), holder="me") as claim:
        for name in ("r1e9", "r1e8", "notes"):
            (work / name).mkdir(parents=True)
        workdir(hub, claim).mkdir(parents=True)
        old = time.time() - 2 * holding.WORK_GRACE_S
        for name in ("r1e9", workdir(hub, claim).name, "notes"):
            os.utime(work / name, (old, old))
        assert tidy_work(hub) == 1
        assert sorted(path.name for path in work.iterdir()) == ["notes", "r1e1", "r1e8"]
    assert tidy_work(hub) == 0
