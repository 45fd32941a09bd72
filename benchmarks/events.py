"""10,000 status events through trigger, relay and claim alone, on PostgreSQL; the runs are a stub's.

From the repository's root: ``python -m benchmarks.events --events 10000 --kills 100``. The stub speaks as much of
Prefect's API as the relay asks for and is as unreliable as Prefect was measured to be: of the events that it has
accepted it loses some and takes some twice. Its runs do what a run does first: claim the mission.

Printed: how often each event was claimed, and events per second and core: CPU seconds of relays, PostgreSQL and
claims. The stub's own are Prefect's. What PostgreSQL and the relay spend on the end of the stubbed runs is in it,
but with ``--hold``.
Without ``--kills`` one relay works through events that are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from starloom.archive import Archive, claims
from starloom.dispatch.embedded import plain_environment
from starloom.dispatch.services import checkout, python
from starloom.errors import Unavailable
from tests.chaos.programs import Program, end, free_port, marked, postgres_program, postgres_user

CLAIMANTS = 4
LIVING = {"SCHEDULED", "PENDING", "RUNNING"}


@dataclass
class Stub:
    """What stands for Prefect: takes events, makes runs of them, and lets them claim.

    Parameters
    ----------
    archive
        Where runs claim.
    lost, doubled
        Shares of the accepted events that make no run, or two.
    hold
        Runs keep their claims; else they publish an empty revision, which is news for the relay to tell.
    """

    archive: Archive
    lost: float
    doubled: float
    seed: int
    hold: bool = False
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    claim_cpu_s: float = 0.0
    _waiting: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        for _ in range(CLAIMANTS):
            threading.Thread(target=self._claim_for_ever, daemon=True).start()

    def take(self, events: list[dict[str, Any]]) -> None:
        with self._lock:
            for event in events:
                self.counts["accepted"] += 1
                if event["event"] != "starloom.mission.complete":
                    continue
                drawn = self._rng.random()
                if drawn < self.lost:
                    self.counts["lost"] += 1
                    continue
                self._make_run(event["payload"])
                if drawn > 1 - self.doubled:
                    self.counts["doubled"] += 1
                    self._make_run(event["payload"])

    def create_run(self, parameters: dict[str, Any], key: str) -> dict[str, Any]:
        with self._lock:
            if key not in self.keys:
                self.keys[key] = self._make_run(parameters)
                self.counts["runs_by_relay"] += 1
            return self.runs.get(self.keys[key], {"id": self.keys[key]})

    def living(self, offset: int, limit: int) -> list[dict[str, Any]]:
        with self._lock:
            return list(self.runs.values())[offset : offset + limit]

    def _make_run(self, parameters: dict[str, Any]) -> str:
        now = datetime.now(UTC).isoformat()
        run = {
            "id": str(uuid4()), "name": f"stub {len(self.runs)}", "parameters": parameters, "created": now,
            "state_type": "SCHEDULED", "state": {"type": "SCHEDULED", "timestamp": now},
        }  # fmt: skip
        self.runs[run["id"]] = run
        self.counts["runs"] += 1
        self._waiting.put(run["id"])
        return str(run["id"])

    def _claim_for_ever(self) -> None:
        while True:
            run_id = self._waiting.get()
            said = self.runs[run_id]["parameters"]
            began = time.thread_time()
            try:
                claim = claims.claim(self.archive, said["mission_id"], said["event_id"], run_id, 3600.0)
                found = "claimed"
            except claims.AlreadyClaimed:
                found = "already_claimed"
            except Unavailable:
                found = ""
            spent = time.thread_time() - began
            if found == "claimed" and not self.hold:
                self._publish(claim)
            with self._lock:
                self.claim_cpu_s += spent
                if found:
                    self.counts[found] += 1
                    del self.runs[run_id]
                else:
                    self._waiting.put(run_id)

    def _publish(self, claim: claims.Claim) -> None:
        """End the claim, as a stack does: the relay lets only so many missions be held at once."""
        while True:
            try:
                return claims.publish(self.archive, claim, [], [], {})
            except Unavailable:
                time.sleep(0.2)


COUNTED = ("accepted", "lost", "doubled", "runs", "runs_by_relay", "claimed", "already_claimed")


def serve(stub: Stub, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, said: Any) -> None:
            body = b"" if said is None else json.dumps(said).encode()
            self.send_response(204 if said is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer({"id": "stub"} if "/deployments/" in self.path else True)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/events"):
                stub.take(body)
                self._answer(None)
            elif self.path.endswith("/flow_runs/filter"):
                self._answer(stub.living(body.get("offset", 0), body.get("limit", 200)))
            else:
                self._answer(stub.create_run(body["parameters"], body["idempotency_key"]))

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:  # a relay was killed in the middle of a request
            return

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def postgres(home: Path, port: int) -> Program:
    data = home / "postgres"
    data.mkdir(mode=0o700)
    user = {"user": postgres_user()} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(data, user=postgres_user())
    command = [postgres_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run(command, check=True, capture_output=True, cwd=data, **user)
    command = [postgres_program("postgres"), "-D", str(data), "-p", str(port), "-k", str(data)]
    command += ["-c", "listen_addresses=127.0.0.1"]
    return Program(
        home, "postgres", lambda: command, plain_environment(), data, user=postgres_user(),
        ready=lambda: subprocess.run(
            [postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
        ).returncode == 0,
    )  # fmt: skip


def cpu_s(program: Program) -> float:
    """Return the CPU seconds of a program, of its living children and of those it has waited for."""
    spent = 0.0
    for n, process in enumerate(program.tree()):
        times = process.cpu_times()
        spent += times.user + times.system
        if n == 0:
            spent += times.children_user + times.children_system
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument(
        "--hold", action="store_true", help="claims are kept: nothing but trigger, relay and claim"
    )
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1800.0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the servers end with us
    home = Path(tempfile.mkdtemp(prefix="starloom-events-"))
    home.chmod(0o755)
    ports = free_port(), free_port()
    database = postgres(home, ports[0])
    database.start()
    relays: list[Program] = []
    try:
        database.wait_ready(60)
        dsn = f"postgresql://postgres@127.0.0.1:{ports[0]}/postgres"
        url = dsn.replace("postgresql:", "postgresql+psycopg:")
        archive = Archive(url)
        archive.migrate()
        unreliable = (0.02, 0.02) if chosen.kills else (0.0, 0.0)
        stub = Stub(archive, *unreliable, seed=chosen.seed, hold=chosen.hold)
        serve(stub, ports[1])
        env = plain_environment() | {
            "STARLOOM_HOME": str(home),
            "STARLOOM_ARCHIVE_URL": url,
            "STARLOOM_PREFECT_API_URL": f"http://127.0.0.1:{ports[1]}/api",
            "STARLOOM_LAKE_URL": (home / "lake").as_uri(),
            "PYTHONPATH": str(checkout()),
        }
        if chosen.hold:
            env["STARLOOM_MAX_OUTSTANDING_RUNS"] = str(2 * chosen.events)
        relays = [
            Program(home, f"relay{n}", lambda: python("starloom", "relay"), env, checkout())
            for n in range(2 if chosen.kills else 1)
        ]
        sql = psycopg.connect(dsn, autocommit=True)
        sql.execute(
            "INSERT INTO mission (id, title, status, parameters, status_changed_at, created_at)"
            " SELECT 'm' || n, '', 'OPEN', '{}', now(), now() FROM generate_series(1, %s) n",
            (chosen.events,),
        )
        flipping = 0.0
        if not chosen.kills:
            began = cpu_s(database)
            sql.execute("UPDATE mission SET status = 'COMPLETE'")
            flipping = cpu_s(database) - began
        for relay in relays:
            relay.start()
        at_start = cpu_s(database)
        began, kills, flipped, next_kill = time.monotonic(), 0, 0 if chosen.kills else chosen.events, 0.0
        dead_cpu_s = 0.0
        while time.monotonic() - began < chosen.timeout:
            for relay in relays:
                relay.look_after()
            # Events come while there are kills left to come.
            share = min((kills + 1) / (chosen.kills + 1), 1.0) * chosen.events
            if flipped < share:
                step = min(int(share) - flipped + 1, 200, chosen.events - flipped)
                sql.execute(
                    "UPDATE mission SET status = 'COMPLETE' WHERE substr(id, 2)::int BETWEEN %s AND %s",
                    (flipped + 1, flipped + step),
                )
                flipped += step
            if kills < chosen.kills and time.monotonic() > next_kill:
                victim = relays[kills % 2]
                if victim.is_alive():
                    dead_cpu_s += cpu_s(victim)
                    victim.kill(rng.uniform(0.0, 0.5))
                    kills += 1
                    next_kill = time.monotonic() + rng.expovariate(1 / chosen.every)
            claimed = stub.counts["claimed"]
            if claimed >= chosen.events and kills >= chosen.kills:
                break
            time.sleep(0.05)
        wall_s = time.monotonic() - began
        spent = {
            "relay": dead_cpu_s + sum(cpu_s(relay) for relay in relays),
            "postgresql": cpu_s(database) - at_start + flipping,
            "claims": stub.claim_cpu_s,
        }
        rows = sql.execute(
            "SELECT n, count(*) FROM (SELECT count(r.id) AS n FROM mission m LEFT JOIN revision r"
            " ON r.mission_id = m.id GROUP BY m.id) c GROUP BY n"
        ).fetchall()
        left = sql.execute(
            "SELECT count(*) FROM status_event WHERE state = 'open' AND new_status = 'COMPLETE'"
        ).fetchone()
        told = {
            "events": chosen.events,
            "relay_kills": kills,
            "relays": len(relays),
            "seed": chosen.seed,
            "missions_by_claims": {int(n): int(count) for n, count in rows},
            "still_open": left[0] if left else None,
            "stub": stub.counts,
            "wall_s": round(wall_s, 1),
            "cpu_s": {name: round(value, 1) for name, value in spent.items()},
            "events_per_s_and_core": round(chosen.events / sum(spent.values()), 1),
        }
        print(json.dumps(told, indent=1))
    finally:
        for relay in relays:
            relay.kill(1e9)
        end(marked(home))
        database.kill(1e9)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
