"""Late binding under disorder: every row of the table in docs/late-binding.md, on both databases.

The archive, the relay and sweep are the real ones; Prefect is a list of what it was told, and a stack is its
claim, bind and publication.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlmodel import select

from starloom import sweeping
from starloom.archive import Archive, arrivals, claims, comparing, dispositions, frames, giving_back, missions
from starloom.archive.models import Frame, Mission, Photometry, Product, Revision, Solution, StatusEvent
from starloom.archive.staleness import NO_FRAMES, why_stale
from starloom.dispatch.relay import EVENT, Relay
from starloom.dispatch.rest import PrefectApi, Said
from starloom.errors import BadInput
from starloom.hub import Hub
from starloom.settings import Settings

START = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)


class Told(PrefectApi):
    """Prefect, as far as these tests need it: what it was told."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1/api")
        self.wishes: list[tuple[str, int]] = []

    def runs(self, *_: object, **__: object) -> list[dict[str, Any]]:
        return []

    def emit_all(self, events: Sequence[Said]) -> None:
        told = [said.payload for said in events if said.event == EVENT]
        self.wishes += [(said["mission_id"], said["event_id"]) for said in told]

    def create_run(self, deployment: str, parameters: dict[str, Any], **_: object) -> dict[str, Any]:
        """On a slow machine wishes of earlier tests, which share the database, come for the third time."""
        self.wishes.append((parameters["mission_id"], parameters["event_id"]))
        return {}


@dataclass
class Network:
    """One archive with one mission of a name of its own, and everything that acts on it."""

    archive: Archive
    hub: Hub
    id: str
    prefect: Told = field(default_factory=Told)

    def create(self) -> None:
        with self.archive.transaction() as session:
            missions.create_mission(session, self.id)

    def insert(self, status: str) -> None:
        """Insert the mission by plain SQL, as a portal would."""
        now = datetime.now(UTC).isoformat()
        row = {"i": self.id, "s": status, "p": json.dumps({}), "t": now}
        with self.archive.transaction() as session:
            session.connection().execute(
                text(
                    "INSERT INTO mission (id, title, status, parameters, status_changed_at, created_at) "
                    "VALUES (:i, '', :s, :p, :t, :t)"
                ),
                row,
            )

    def set(self, status: str) -> None:
        """Change the status by plain SQL."""
        with self.archive.transaction() as session:
            statement = text("UPDATE mission SET status = :s WHERE id = :i")
            session.connection().execute(statement, {"s": status, "i": self.id})

    @property
    def status(self) -> str:
        with self.archive.session() as session:
            return missions.get_mission(session, self.id).status

    def arrive(self, name: str, minute: int = 0, *, pixels: str | None = None) -> str:
        """File a frame as ingest does; its further steps are still to come."""
        with self.archive.transaction() as session:
            frame = Frame(name=name, node_id="T1", obs_req=self.id, start_utc=START + timedelta(minutes=minute))
            session.add(frame)
            session.flush()
            frame_id = frame.id
        with self.archive.transaction() as session:
            mission = missions.find(session, self.id)
            arrivals.record_ingest(
                session, frame_id, pixel_digest=pixels or name, mission_id=mission.id if mission else None
            )
        return frame_id

    def measure(self, frame_id: str) -> None:
        """Take a filed frame through its other steps, so that it is READY."""
        with self.archive.transaction() as session:
            self.add_results(session, frame_id)
            for step in ("calibrate", "solve", "measure"):
                frames.settle_step(session, frame_id, step)  # type: ignore[arg-type]

    @staticmethod
    def add_results(session: Any, frame_id: str) -> None:
        solution = Solution(
            frame_id=frame_id, solver="s", catalog="c", code_version="1", ra_deg=1, dec_deg=2, scale_arcsec=2,
            rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, matches=20, order=1,
        )  # fmt: skip
        session.add(solution)
        session.flush()
        session.add(
            Photometry(
                frame_id=frame_id, solution_id=solution.id or 0, fwhm_px=2, fwhm_arcsec=5, sky_adu=1,
                sky_sigma_adu=1,
            )
        )  # fmt: skip

    def ready(self, name: str, minute: int = 0) -> str:
        frame_id = self.arrive(name, minute)
        self.measure(frame_id)
        return frame_id

    def relay(self, **changes: object) -> int:
        """Let the relay go round once; return how many wishes it passed on for this mission."""
        before = len(self.mine())
        Relay(self.hub.settings.model_copy(update=changes), self.archive, self.prefect).once()
        return len(self.mine()) - before

    def mine(self) -> list[int]:
        return [event for mission, event in self.prefect.wishes if mission == self.id]

    def claim(self) -> claims.Claim:
        return claims.claim(self.archive, self.id, self.mine()[-1], "run", 60)

    def bind(self, claim: claims.Claim) -> set[str]:
        return {item.frame.name for item in claims.bind(self.archive, claim, {"kernel": "bilinear"}, 1)}

    def publish(self, claim: claims.Claim, exposure_s: float = 60.0) -> None:
        with self.archive.session() as session:
            bound = claims._bound(session, claim.revision_id)
        outcomes = [claims.FrameOutcome(item.frame.id, 1.0, 1.0, 0.0, None) for item in bound]
        summary = {"n_frames": len(bound), "n_used": len(bound), "exposure_s": exposure_s * len(bound)}
        key = f"stacks/{self.id}/r{claim.n}/e{claim.epoch}/V.fits"
        product = claims.NewProduct("V", 1, key, None, "0" * 64, 1, None, summary)
        claims.publish(self.archive, claim, [product], outcomes, {})

    def stack(self) -> set[str] | None:
        """Pass the wish on, claim, bind and publish; return the frames, None where nothing changed."""
        assert self.relay() == 1
        claim = self.claim()
        bound = self.bind(claim)
        if claims.settle_unchanged(self.archive, claim):
            return None
        self.publish(claim)
        return bound

    def sweep(self) -> int:
        """Reopen what is stale; return whether this mission was."""
        before = self.status
        sweeping.reopen_stale_missions(self.hub)
        return int(self.status != before)

    def revisions(self) -> list[tuple[int, str]]:
        with self.archive.session() as session:
            found = session.exec(select(Revision).where(Revision.mission_id == self.id).order_by(Revision.epoch))
            return [(revision.n, revision.status) for revision in found]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """One archive a database for all these tests: each has a mission of its own in it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('late') / 'archive.sqlite'}"
    else:
        server = make_url(request.getfixturevalue("postgres_url"))
        name = f"t{uuid4().hex}"
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        url = server.set(database=name).render_as_string(hide_password=False)
    archive = Archive(url)
    archive.migrate()
    yield archive
    archive.dispose()


@pytest.fixture
def net(shared: Archive, tmp_path: Any) -> Iterator[Network]:
    hub = Hub.open(Settings(home=tmp_path, late_quiet_s=0.0))
    made = Network(shared, Hub(hub.settings, hub.lake, shared), f"m{uuid4().hex[:10]}")
    yield made
    made.prefect.close()
    hub.archive.dispose()


# --- frames before, beside and after their mission


def test_frames_before_their_mission_belong_to_it(net: Network) -> None:
    net.ready("early")
    net.create()
    net.set("COMPLETE")
    assert net.stack() == {"early"}


@pytest.mark.parametrize("status", ["OPEN", "COMPLETE"])
def test_frames_before_a_mission_that_plain_sql_inserts(net: Network, status: str) -> None:
    early = net.ready("early")
    net.insert(status)
    if status == "OPEN":
        net.set("COMPLETE")
    assert net.stack() == {"early"}
    with net.archive.session() as session:
        frame = frames.get(session, early)
    assert (frame.mission_id, frame.flags) == (net.id, [])  # taken up, its flag `unknown-mission` is gone


def test_a_frame_that_failed_for_want_of_a_target_is_tried_again_before_the_stack(net: Network) -> None:
    good, blind = net.ready("good"), net.arrive("blind", 1)
    with net.archive.transaction() as session:
        frames.settle_step(session, blind, "calibrate")
        frames.settle_step(session, blind, "solve", code="no-position-hint")
    net.insert("COMPLETE")
    assert net.relay() == 0  # it waits for the second try
    with net.archive.transaction() as session:
        net.add_results(session, blind)
        for step in ("solve", "measure"):
            frames.settle_step(session, blind, step)  # type: ignore[arg-type]
        session.connection().execute(text("UPDATE status_event SET next_publish_at = NULL WHERE state = 'open'"))
    assert net.stack() == {"good", "blind"}
    assert good != blind


def test_a_frame_filed_while_its_mission_is_inserted(net: Network) -> None:
    """Neither transaction sees the other's row; the frame is no stranger for all that."""
    early = net.arrive("beside")
    with net.archive.transaction() as session:  # as record_ingest leaves it when the mission was not to be seen
        frames.get(session, early).mission_id = None
    net.insert("COMPLETE")
    with net.archive.transaction() as session:
        frames.get(session, early).mission_id = None
    net.measure(early)
    assert net.stack() == {"beside"}


def test_frames_in_any_order_are_one_stack(net: Network) -> None:
    net.create()
    for minute in (3, 1, 2, 0):
        net.ready(f"f{minute}", minute)
    net.set("COMPLETE")
    assert net.stack() == {"f0", "f1", "f2", "f3"}
    assert net.sweep() == 0


def test_the_same_pixels_twice_weigh_once(net: Network) -> None:
    net.create()
    net.ready("first")
    again = net.arrive("again", pixels="first")
    net.set("COMPLETE")
    assert net.stack() == {"first"}
    late = net.arrive("and again", pixels="first")
    with net.archive.session() as session:
        assert {frames.get(session, one).disposition for one in (again, late)} == {"duplicate"}
    assert net.sweep() == 0


def test_a_frame_in_flight_at_complete_is_waited_for(net: Network) -> None:
    net.create()
    net.ready("here")
    flying = net.arrive("flying", 1)
    net.set("COMPLETE")
    assert net.relay() == 0
    net.measure(flying)
    with net.archive.transaction() as session:
        session.connection().execute(text("UPDATE status_event SET next_publish_at = NULL WHERE state = 'open'"))
    assert net.stack() == {"here", "flying"}


def test_a_frame_that_outlasts_the_settling_time_is_late(net: Network) -> None:
    net.create()
    net.ready("here")
    slow = net.arrive("slow", 1)
    net.set("COMPLETE")
    assert net.relay(settle_max_s=0.0) == 1
    claim = net.claim()
    assert net.bind(claim) == {"here"}
    net.publish(claim)
    assert net.sweep() == 0
    net.measure(slow)
    assert net.sweep() == 1
    assert net.stack() == {"here", "slow"}
    assert net.revisions() == [(1, "published"), (2, "published")]


def test_late_frames_coalesce_into_one_revision(net: Network) -> None:
    net.create()
    net.ready("first")
    net.set("COMPLETE")
    net.stack()
    for minute in (1, 2, 3):
        net.ready(f"late{minute}", minute)
    assert net.sweep() == 1
    assert net.stack() == {"first", "late1", "late2", "late3"}
    assert net.sweep() == 0
    assert len(net.revisions()) == 2


def test_a_frame_that_becomes_ready_during_the_bind_is_bound_or_late(net: Network) -> None:
    net.create()
    net.ready("first")
    others = [net.arrive(f"f{minute}", minute) for minute in range(1, 5)]
    net.set("COMPLETE")
    net.relay(settle_max_s=0.0)
    claim, start = net.claim(), threading.Barrier(3)
    bound: set[str] = set()

    def bind() -> None:
        start.wait()
        bound.update(net.bind(claim))

    def measure(some: list[str]) -> None:
        start.wait()
        for frame_id in some:
            net.measure(frame_id)

    threads = [threading.Thread(target=bind)] + [
        threading.Thread(target=measure, args=(some,)) for some in (others[:2], others[2:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    net.publish(claim)
    with net.archive.session() as session:
        late = {frames.get(session, c.frame_id).name for c in why_stale(session, net.id).get(net.id, [])}
    assert "first" in bound
    assert bound | late == {"first", "f1", "f2", "f3", "f4"}
    assert bound & late == set()


# --- frames taken out


def test_a_frame_withdrawn_before_the_bind_is_not_in_the_stack(net: Network) -> None:
    net.create()
    net.ready("good")
    bad = net.ready("bad", 1)
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    with net.archive.transaction() as session:
        dispositions.withdraw(session, bad, "dome closed")
    assert net.bind(claim) == {"good"}
    net.publish(claim)
    assert net.sweep() == 0


@pytest.mark.parametrize("when", ["bound", "published"])
def test_a_frame_withdrawn_after_the_bind_goes_with_the_next_revision(net: Network, when: str) -> None:
    net.create()
    net.ready("good")
    bad = net.ready("bad", 1)
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    assert net.bind(claim) == {"good", "bad"}
    if when == "published":
        net.publish(claim)
    with net.archive.transaction() as session:
        dispositions.withdraw(session, bad, "dome closed")
    if when == "bound":
        assert net.bind(claim) == {"good", "bad"}  # bound once, for ever
        net.publish(claim)
    with net.archive.session() as session:
        assert [change.reason for change in why_stale(session, net.id)[net.id]] == ["withdrawn"]
    assert net.sweep() == 1
    assert net.stack() == {"good"}
    assert net.sweep() == 0


def test_a_frame_withdrawn_and_given_back_asks_for_nothing(net: Network) -> None:
    net.create()
    frame = net.ready("good")
    net.set("COMPLETE")
    net.stack()
    with net.archive.transaction() as session:
        dispositions.withdraw(session, frame, "a mistake")
        dispositions.requeue(session, frame)
    assert net.sweep() == 0


def test_when_every_frame_is_withdrawn_the_mission_fails_and_keeps_its_stack(net: Network) -> None:
    net.create()
    only = net.ready("only")
    net.set("COMPLETE")
    net.stack()
    with net.archive.transaction() as session:
        dispositions.withdraw(session, only, "wrong field")
    assert net.sweep() == 1
    assert net.relay() == 1
    fail_without_frames(net)
    assert (net.status, net.sweep()) == ("FAILED", 0)
    assert net.revisions() == [(1, "published"), (2, "failed")]


def test_a_ready_frame_that_cannot_be_done_again_keeps_its_place(net: Network) -> None:
    net.create()
    frame = net.ready("good")
    net.set("COMPLETE")
    net.stack()
    with net.archive.transaction() as session:
        assert frames.reprocess(session, frame, "solve") is not None
        dispositions.quarantine(session, frame, "too-few-stars", "Clouds.")
    assert net.sweep() == 0
    net.ready("late", 1)
    assert net.sweep() == 1
    assert net.stack() == {"good", "late"}


def test_a_frame_quarantined_by_hand_goes_with_the_next_revision(net: Network) -> None:
    net.create()
    net.ready("good")
    bad = net.ready("bad", 1)
    net.set("COMPLETE")
    net.stack()
    with net.archive.transaction() as session:
        statement = text("UPDATE frame SET disposition = 'quarantined' WHERE id = :i")
        session.connection().execute(statement, {"i": bad})
    assert net.sweep() == 1
    assert net.stack() == {"good"}


# --- missions whose status is moved about


def test_a_mission_cancelled_before_its_stack_is_not_stacked(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.set("CANCELLED")
    assert net.relay() == 0
    net.ready("late", 1)
    assert net.sweep() == 0
    assert net.revisions() == []


@pytest.mark.parametrize("noticed", ["renewing", "publishing"])
def test_a_mission_cancelled_during_its_stack_publishes_nothing(net: Network, noticed: str) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    net.bind(claim)
    net.set("CANCELLED")
    with pytest.raises(claims.MissionCancelled):
        claims.renew(net.archive, claim, 60) if noticed == "renewing" else net.publish(claim)
    with pytest.raises(claims.LeaseLost):
        net.publish(claim)
    assert (net.status, net.revisions()) == ("CANCELLED", [(1, "failed")])
    with net.archive.session() as session:
        assert not claims.epoch_is_alive(session, net.id, claim.n, claim.epoch)  # its objects go past the grace
    net.set("COMPLETE")
    assert net.stack() == {"good"}


def test_late_frames_of_a_cancelled_mission_wait_until_it_is_taken_up(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.stack()
    net.set("CANCELLED")
    net.ready("late", 1)
    assert (net.sweep(), net.relay()) == (0, 0)
    net.set("COMPLETE")
    assert net.stack() == {"good", "late"}


def test_a_status_flipped_back_and_forth_is_one_stack(net: Network) -> None:
    net.create()
    net.ready("good")
    for status in ("COMPLETE", "OPEN", "COMPLETE", "CANCELLED", "COMPLETE", "FAILED", "COMPLETE"):
        net.set(status)
    assert net.stack() == {"good"}
    assert net.relay() == 0
    with net.archive.session() as session:
        left = session.exec(select(StatusEvent).where(StatusEvent.mission_id == net.id)).all()
    assert sum(event.state == "claimed" for event in left) == 1
    assert not any(event.state == "open" and event.new_status == "COMPLETE" for event in left)


def test_a_run_for_an_event_that_was_overtaken_finds_nothing_to_do(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    assert net.relay() == 1
    old = net.mine()[-1]
    net.set("OPEN")
    net.set("COMPLETE")
    assert net.relay() == 1
    claim = net.claim()
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(net.archive, net.id, old, "late run", 60)
    with net.archive.session() as session:
        event = session.get(StatusEvent, old)
    assert event is not None
    assert (event.state, event.surplus_runs) == ("superseded", 1)
    net.publish(claim)


def test_complete_during_the_stack_asks_for_the_next_revision(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    net.bind(claim)
    net.ready("late", 1)
    net.set("COMPLETE")
    assert net.relay() == 0  # it is being stacked
    net.publish(claim)
    assert net.status == "COMPLETE"
    with net.archive.transaction() as session:
        session.connection().execute(text("UPDATE status_event SET next_publish_at = NULL WHERE state = 'open'"))
    assert net.stack() == {"good", "late"}


def test_complete_during_the_stack_with_nothing_new_is_no_work(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    net.bind(claim)
    net.set("COMPLETE")
    net.publish(claim)
    assert net.stack() is None
    assert (net.status, net.revisions()) == ("STACKED", [(1, "published"), (2, "unchanged")])


@pytest.mark.parametrize("status", ["OPEN", "FAILED", "STACKED"])
def test_a_status_set_during_the_stack_is_kept_and_the_stack_published(net: Network, status: str) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.relay()
    claim = net.claim()
    net.bind(claim)
    net.set(status)
    net.publish(claim)
    assert (net.status, net.revisions()) == (status, [(1, "published")])
    net.set("COMPLETE")
    assert net.stack() is None


def test_a_mission_reopened_by_hand_takes_what_has_come(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.stack()
    net.set("OPEN")
    net.ready("more", 1)
    assert (net.sweep(), net.relay()) == (0, 0)  # it is not complete
    net.set("COMPLETE")
    assert net.stack() == {"good", "more"}


def test_a_mission_set_stacking_by_hand_is_given_back(net: Network) -> None:
    net.create()
    net.ready("good")
    net.set("COMPLETE")
    net.set("STACKING")
    assert net.relay() == 0
    sweeping.reconcile_missions(net.hub)
    assert net.status == "COMPLETE"
    assert net.stack() == {"good"}


def fail_without_frames(net: Network) -> None:
    """End a claim as `bind_and_plan` does when nothing is bound."""
    claim = net.claim()
    assert net.bind(claim) == set()
    error = {"code": NO_FRAMES, "message": "none", "hint": "Send better ones."}
    giving_back.fail(net.archive, claim, error, fatal=True, budget=net.hub.budget)


def test_without_a_usable_frame_the_mission_fails_until_there_is_one(net: Network) -> None:
    net.create()
    refused = net.arrive("refused")
    with net.archive.transaction() as session:
        dispositions.quarantine(session, refused, "truncated", "Send it again.")
    net.set("COMPLETE")
    assert net.relay() == 1
    fail_without_frames(net)
    with net.archive.session() as session:
        mission = missions.get_mission(session, net.id)
    assert (mission.status, mission.failure_code) == ("FAILED", NO_FRAMES)
    assert net.sweep() == 0
    net.ready("better", 1)
    assert net.sweep() == 1
    assert net.stack() == {"better"}
    with net.archive.session() as session:
        assert session.get(Mission, net.id).failure_code is None  # type: ignore[union-attr]


# --- what changed between revisions


def test_two_revisions_are_compared(net: Network) -> None:
    net.create()
    stays, goes = net.ready("stays"), net.ready("goes", 1)
    net.set("COMPLETE")
    net.stack()
    with net.archive.transaction() as session:
        dispositions.withdraw(session, goes, "satellite")
        frames.reprocess(session, stays, "solve")
        for old in session.exec(select(Solution).where(Solution.frame_id == stays)).all():
            old.current = False
        for measured in session.exec(select(Photometry).where(Photometry.frame_id == stays)).all():
            measured.current = False
        session.flush()
        net.add_results(session, stays)
    net.ready("comes", 2)
    net.ready("comes too", 3)
    assert net.sweep() == 1
    assert net.stack() == {"stays", "comes", "comes too"}
    with net.archive.session() as session:
        told = comparing.compare(session, net.id)
        assert (told["since"], told["until"], told["unchanged"]) == (1, 2, 0)
        changes = {row["name"]: (row["change"], row["reason"]) for row in told["frames"]}
        assert changes == {
            "comes": ("added", "late"),
            "comes too": ("added", "late"),
            "goes": ("removed", "satellite"),
            "stays": ("done-again", "nothing that matters"),
        }
        assert {row["name"]: row["weight_until"] for row in told["frames"]}["comes"] == pytest.approx(1 / 3)
        assert told["parameters"] == []
        depth = {row["name"]: (row["since"], row["until"]) for row in told["products"]}
        assert depth == {"n_frames": (2, 3), "n_used": (2, 3), "exposure_s": (120.0, 180.0)}
        with pytest.raises(BadInput, match="asked for r1 and r7, published r1, r2"):
            comparing.compare(session, net.id, since=1, until=7)
        assert len(session.exec(select(Product).where(Product.sci_key.startswith(f"stacks/{net.id}/"))).all()) == 2
