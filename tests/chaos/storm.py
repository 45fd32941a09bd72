"""The storm: missions become COMPLETE one after the other while the hub's programs are killed at random.

``python -m tests.chaos.storm --missions 30 --kills 12``. What is done is kept in ``HOME/storm.json``: an
interrupted storm goes on where it was. At its end `tests.chaos.audit` counts, and the exit code is its word.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from starloom import sweeping
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.errors import StarloomError
from tests.chaos.audit import CALM, LIVING, STORM
from tests.chaos.servers import Site
from tests.chaos.sky import FIELDS, add_mission, stack_here

#: Who dies: the five programs, and the process of a single run.
VICTIMS = ("postgres", "lake", "prefect", "worker", "relay", "run")
#: Missions between COMPLETE and STACKED at once, at most.
IN_FLIGHT = 8
#: Nothing arrives by the inbox here: it is looked into seldom. All else is as deployed.
PACE = {"STARLOOM_INGEST_INTERVAL_S": "600", "STARLOOM_ORPHAN_GRACE_S": "180"}
#: Of the short storm in the tests: what a lease and a sweep cost in waiting, not in kind.
HASTE = {
    "STARLOOM_LEASE_S": "20",
    "STARLOOM_LEASE_RENEW_S": "5",
    "STARLOOM_SWEEP_INTERVAL_S": "15",
    "STARLOOM_ORPHAN_GRACE_S": "45",
    "STARLOOM_START_MAX_S": "60",
}


@dataclass
class Plan:
    """What is to happen, all of it from the seed."""

    seed: int
    missions: int
    kills: int

    def victims(self) -> list[str]:
        """Return whom to kill: every one as often as the others, in random order."""
        rng = random.Random(self.seed)
        rounds: list[str] = []
        while len(rounds) < self.kills:
            left = self.kills - len(rounds)
            rounds += rng.sample(VICTIMS, len(VICTIMS)) if left >= len(VICTIMS) else rng.sample(VICTIMS[:5], left)
        return rounds


@dataclass
class Diary:
    """What has happened."""

    plan: dict[str, int]
    kills: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0
    sessions: int = 0
    orphans_removed: int = 0
    restarts_of_its_own: dict[str, int] = field(default_factory=dict)


class Storm:
    """Flip, kill, look after, until every mission is stacked.

    Parameters
    ----------
    site, plan
        Whom to disturb, and how.
    """

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site, self.plan = site, plan
        self.path = site.home / "storm.json"
        self.diary = Diary(asdict(plan))
        if self.path.exists():
            self.diary = Diary(**json.loads(self.path.read_text()))
        self.victims = plan.victims()
        self.began = time.monotonic() - self.diary.elapsed_s
        # Another draw after every resumption, the same in a storm that goes through.
        self.rng = random.Random(f"{plan.seed} {self.diary.sessions}")
        self.diary.sessions += 1
        self._next_flip = self._next_kill = 0.0

    def save(self) -> None:
        self.diary.elapsed_s = round(time.monotonic() - self.began, 1)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self.diary), indent=1))
        draft.replace(self.path)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {text}", flush=True)  # noqa: T201

    def names(self) -> list[str]:
        return [f"{STORM}{n}" for n in range(self.plan.missions)]

    def prepare(self) -> None:
        """File the missions, and stack one of each field undisturbed."""
        hub = self.site.hub()
        for n in range(FIELDS):
            add_mission(hub, f"{CALM}{n}", 1_000_000 * FIELDS + n)
            self.site.sql("UPDATE mission SET status = 'COMPLETE' WHERE id = %s AND status = 'OPEN'", f"{CALM}{n}")
            event = self.site.sql(
                "SELECT max(e.id) FROM status_event e JOIN mission m ON m.id = e.mission_id"
                " WHERE m.id = %s AND m.status = 'COMPLETE' AND e.state = 'open'",
                f"{CALM}{n}",
            )[0][0]
            if event is not None:
                stack_here(hub, f"{CALM}{n}", event)
        for n, name in enumerate(self.names()):
            add_mission(hub, name, n)
        hub.archive.dispose()

    def counts(self) -> Counter[str]:
        rows = self.site.sql("SELECT status, count(*) FROM mission WHERE id LIKE %s GROUP BY 1", f"{STORM}%")
        return Counter({status: int(n) for status, n in rows})

    def run(self, timeout_s: float) -> bool:
        """Return whether every mission was stacked and every kill done in time."""
        said = 0.0
        while time.monotonic() - self.began < timeout_s:
            self.site.look_after()
            try:
                counts = self.counts()
                self._flip(counts)
                self._kill(counts)
                if counts["STACKED"] == self.plan.missions and len(self.diary.kills) >= self.plan.kills:
                    return True
            except psycopg.Error:
                pass  # it is down, by our hand
            if time.monotonic() - said > 30:
                said = time.monotonic()
                self.say(f"{dict(counts)}, {len(self.diary.kills)} kills")
                self.save()
            time.sleep(0.25)
        return False

    def _flip(self, counts: Counter[str]) -> None:
        """Make the next mission COMPLETE, by plain SQL; some are taken back and completed again."""
        in_flight = counts["COMPLETE"] + counts["STACKING"]
        released = self.plan.missions - counts["OPEN"]
        # Missions are kept back for the kills to come.
        allowed = self.plan.missions * (len(self.diary.kills) + 1) / (self.plan.kills + 1) + IN_FLIGHT / 2
        now = time.monotonic()
        if not counts["OPEN"] or in_flight >= IN_FLIGHT or now < self._next_flip:
            return
        if released >= allowed and in_flight:
            return
        name = self.site.sql("SELECT id FROM mission WHERE id LIKE %s AND status = 'OPEN' LIMIT 1", f"{STORM}%")[
            0
        ][0]
        self.site.sql("UPDATE mission SET status = 'COMPLETE' WHERE id = %s AND status = 'OPEN'", name)
        if self.rng.random() < 0.1:
            self.site.sql("UPDATE mission SET status = 'OPEN' WHERE id = %s AND status = 'COMPLETE'", name)
        self._next_flip = now + self.rng.expovariate(1 / 1.5)

    def _kill(self, counts: Counter[str]) -> None:
        """Kill the next victim once the missions have come so far and one is in flight."""
        done = len(self.diary.kills)
        due = counts["STACKED"] >= int(self.plan.missions * done / (self.plan.kills + 1))
        if done >= self.plan.kills or not due or time.monotonic() < self._next_kill:
            return
        victim = self.victims[done]
        if victim != "run" and not self.site.programs[victim].is_alive():
            return
        in_flight = self.site.sql(
            "SELECT id, status FROM mission WHERE id LIKE %s AND status IN ('COMPLETE', 'STACKING')", f"{STORM}%"
        )
        if not in_flight:
            return
        # A worker dies with its runs, as a container or a machine does, and every second time alone.
        alone = victim == "worker" and sum(kill["victim"] == "worker" for kill in self.diary.kills) % 2 == 1
        downtime = self.rng.uniform(1.0, 8.0)
        killed = self.site.kill(victim, downtime, alone=alone)
        if not killed:
            return
        at = round(time.monotonic() - self.began, 1)
        self.diary.kills.append(
            {
                "at_s": at, "victim": victim, "alone": alone, "processes": killed, "down_s": round(downtime, 1),
                "in_flight": dict(in_flight),
            }
        )  # fmt: skip
        self.say(f"killed {victim}{' alone' * alone} ({killed} processes), {len(in_flight)} missions in flight")
        # One in seven follows at once: two programs down together.
        self._next_kill = time.monotonic() + (0.5 if self.rng.random() < 1 / 7 else self.rng.uniform(3.0, 12.0))
        self.save()

    def calm_down(self, timeout_s: float) -> None:
        """Let runs end, then do as ``tidy`` does: remove what dead epochs left behind, past the grace."""
        deadline = time.monotonic() + timeout_s
        past_grace = time.monotonic() + self.site.settings.orphan_grace_s + 1
        while time.monotonic() < deadline and (time.monotonic() < past_grace or self._busy()):
            self.site.look_after()
            time.sleep(0.5)
        hub = self.site.hub()
        self.diary.orphans_removed = sweeping.tidy_lake(hub)
        hub.archive.dispose()

    def _busy(self) -> bool:
        try:
            with PrefectApi.from_settings(self.site.settings) as api:
                return bool(api.runs("stack-mission/stack-mission", states=LIVING)) or bool(
                    api.runs("sweep/sweep", states=LIVING)
                )
        except StarloomError:
            return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missions", type=int, default=30)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--haste", action="store_true", help="short lease, short sweep: for the tests")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier storm of the same home")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds")
    chosen = parser.parse_args()
    plan = Plan(chosen.seed, chosen.missions, chosen.kills)
    home = chosen.home or Path(tempfile.gettempdir()) / f"starloom-storm-{plan.missions}-{plan.kills}-{plan.seed}"
    if chosen.fresh and home.exists():
        shutil.rmtree(home)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    site = Site(home, PACE | (HASTE if chosen.haste else {}))
    storm = Storm(site, plan)
    try:
        storm.say(f"home {home}, seed {plan.seed}")
        site.start()
        storm.prepare()
        storm.say("the hub is up, the missions are filed")
        storm.began = time.monotonic() - storm.diary.elapsed_s
        through = storm.run(chosen.timeout)
        storm.say(f"{'all stacked' if through else 'NOT all stacked in time'}: {dict(storm.counts())}")
        storm.save()
        storm.calm_down(site.settings.orphan_grace_s + 4 * site.settings.sweep_interval_s)
        storm.say(f"calm; {storm.diary.orphans_removed} objects of dead epochs removed")
        storm.diary.restarts_of_its_own = {name: p.ends for name, p in site.programs.items()}
        storm.save()
        # In a process of its own: it shares nothing with the storm.
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.audit", str(home)], cwd=checkout(), capture_output=True, text=True
        )
        (home / "audit.json").write_text(done.stdout)
        print(done.stdout + done.stderr[-2000:])  # noqa: T201
        told = dict(Counter(kill["victim"] for kill in storm.diary.kills))
        print(f"kills: {told}; {storm.diary.elapsed_s:.0f} s")  # noqa: T201
        return done.returncode
    finally:
        site.stop()


if __name__ == "__main__":
    sys.exit(main())
