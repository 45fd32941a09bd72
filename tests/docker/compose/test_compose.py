"""The production stack: what it does, what it refuses, and what it survives."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.docker.compose.conftest import MISSION, N_FRAMES, Stacked, node_key
from tests.docker.compose.stack import HUB, LAKE, NAME, Stack
from tests.docker.conftest import Clock, build
from tests.docker.hub import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(1800)]

NEXT, BACKUPS = "starloom:next", "/home/starloom/backups"
WORK = "/home/starloom/.starloom/work"
ENDED = "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"
#: Prints the status that each URL answers with, or the name of the error; ``URL|Authorization``.
ASK = """
import sys, urllib.request as r, urllib.error as e
for line in sys.argv[1:]:
    url, _, word = line.partition("|")
    try:
        print(r.urlopen(r.Request(url, headers={"Authorization": word} if word else {}), timeout=10).status)
    except e.HTTPError as error:
        print(error.code)
    except OSError as error:
        print(type(error).__name__)
"""
HASH = """
import hashlib, sys, urllib.request as r
print(hashlib.sha256(r.urlopen(sys.argv[1]).read()).hexdigest())
"""
#: Prints which of ``host:port`` take a connection.
REACH = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def opens(word):
    host, port = word.split(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
        return True
    except OSError:
        return False
with ThreadPoolExecutor(32) as pool:
    print(*(word for word, opened in zip(sys.argv[1:], pool.map(opens, sys.argv[1:])) if opened))
"""


def basic(auth: str) -> str:
    return "Basic " + base64.b64encode(auth.encode()).decode()


def published(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in shown["revisions"] if row["status"] == "published"]


def counted(shown: dict[str, Any]) -> int:
    return sum(row["count"] for row in shown["frames"])


def test_every_service_is_up_and_well(stack: Stack) -> None:
    health = stack.health()
    with_page = {"archive-db", "prefect-db", "redis", "lake", "prefect-api", "relay", "worker", "proxy"}
    assert {name for name, state in health.items() if state == "healthy"} == with_page
    assert {name for name, state in health.items() if state == "running"} == {"prefect-services", "watchdog"}


def test_the_doctor_finds_no_problem(stack: Stack) -> None:
    stack.run_deployment("sweep/sweep")  # its schedule is an hour here, and one that never ran is a problem
    swept = f"{ENDED} AND flow_id = (SELECT id FROM flow WHERE name = 'sweep')"
    wait_for("a sweep", lambda: stack.sql("prefect", swept).strip() != "0", 180)
    findings = stack.starloom("doctor")["findings"]
    assert {finding["group"] for finding in findings} == {"machine", "archive", "lake", "prefect"}
    assert [finding for finding in findings if finding["level"] == "problem"] == []


def test_a_mission_from_submit_to_stack(stacked: Stacked) -> None:
    assert [row["state"] for row in stacked.submitted] == ["ready"] * N_FRAMES
    seen = stacked.show()
    (product,) = seen["products"]
    assert product["summary"]["n_frames"] == N_FRAMES
    # Each run was a container of the engine, on the hub's network; a second one may have found the mission taken.
    runs = stacked.stack.sql(
        "prefect", "SELECT id FROM flow_run WHERE name LIKE 'stack %' AND state_type = 'COMPLETED'"
    ).split()
    assert runs
    for run_id in runs:
        (container,) = stacked.stack.engine.containers(run_id)
        found = stacked.stack.engine.inspect(container)
        assert found["State"]["ExitCode"] == 0
        assert set(found["NetworkSettings"]["Networks"]) == {f"{NAME}-hub"}


def test_a_product_is_fetched_through_the_proxy_by_a_url_that_expires(stacked: Stacked) -> None:
    (product,) = stacked.show()["products"]
    key, sha256 = product["sci_key"], product["sha256"]
    presign = "from starloom.settings import load_settings as s; from starloom.lake import connect\n"
    url = stacked.stack.python(f"{presign}print(connect(s()).presign_get({key!r}, 60))").strip()
    assert url.startswith(f"https://{LAKE}/")
    assert stacked.stack.outside("python3", "-c", HASH, url) == sha256
    changed = url.replace(key.rpartition("/")[2], "other.fits")
    assert stacked.stack.outside("python3", "-c", ASK, changed) == "403"


def test_strangers_are_refused(stacked: Stacked) -> None:
    stack = stacked.stack
    wrong = basic("operator:wrong")
    right = basic(stack.variables["PREFECT_AUTH_STRING"])
    hub, lake = f"https://{HUB}", f"https://{LAKE}"
    asked = {
        f"{hub}/": "401",
        f"{hub}/api/health": "401",
        f"{hub}/api/admin/settings": "401",
        f"{hub}/dashboard|{wrong}": "401",
        f"{hub}/api/admin/version|{wrong}": "401",
        f"{lake}/": "403",
        f"{lake}/starloom-raw?list-type=2": "403",
        f"{lake}/starloom-products/stacks/{MISSION}/": "403",
        f"http://{HUB}:4200/api/health": "URLError",
        f"{hub}/api/admin/version|{right}": "200",
        f"{hub}/|{right}": "200",
    }
    answers = stack.outside("python3", "-c", ASK, *asked).split()
    assert dict(zip(asked, answers, strict=True)) == asked
    # A client that does not trust the proxy's certificate does not speak to it.
    assert stack.outside("python3", "-c", ASK, f"{lake}/", env={"SSL_CERT_FILE": "/etc/hostname"}) == "URLError"


def test_networks_part_what_need_not_meet(stack: Stack) -> None:
    doors = ["archive-db:5432", "prefect-db:5432", "redis:6379", "prefect-api:4200", "lake:8333", f"{HUB}:443"]
    ids = {name: stack.id_of(name) for name in ("archive-db", "prefect-db", "redis", "prefect-api", "lake")}
    # By address too: a network that is not joined must not be reached by whoever knows its numbers.
    addresses = {
        f"{network['IPAddress']}:{port}": f"{name}:{port}"
        for name, port in (door.split(":") for door in doors[:-1])
        for network in stack.engine.inspect(ids[name])["NetworkSettings"]["Networks"].values()
    }
    assert len(addresses) >= 7

    def reached(network: str) -> set[str]:
        words = ("run", "--rm", "--network", network, "starloom:test", "python3", "-c", REACH)
        found = stack.engine.run(*words, *doors, *addresses).split()
        return {addresses.get(door, door) for door in found}

    assert reached(f"{NAME}_edge") == {f"{HUB}:443"}
    assert reached(f"{NAME}-hub") == {"archive-db:5432", "prefect-api:4200", "lake:8333"}


def test_a_nodes_key_writes_its_inbox_and_nothing_else(stacked: Stacked) -> None:
    script = """
import io, os, sys
from minio import Minio
from minio.error import S3Error
from urllib.parse import urlsplit
client = Minio(urlsplit(os.environ["STARLOOM_LAKE_ENDPOINT"]).netloc, os.environ["STARLOOM_LAKE_ACCESS_KEY"],
               os.environ["STARLOOM_LAKE_SECRET_KEY"], region="us-east-1")
def tried(what):
    try: what(); return "done"
    except S3Error as error: return error.code
put = lambda key: client.put_object("starloom-inbox", key, io.BytesIO(b"x"), 1)
print(tried(lambda: put("inbox/%s/20261008/x" % sys.argv[1])), tried(lambda: put("inbox/T99/20261008/x")),
      tried(lambda: list(client.list_objects("starloom-raw"))),
      tried(lambda: client.remove_object("starloom-inbox", "inbox/%s/20261008/x" % sys.argv[1])))
"""
    key = node_key(stacked.stack, "T42")
    assert key["STARLOOM_LAKE_ENDPOINT"] == f"https://{LAKE}"
    denied = "AccessDenied"
    said = stacked.stack.outside("python3", "-c", script, "T42", env=key).split()
    assert said == ["done", denied, denied, denied], said
    node_key(stacked.stack, "--revoke", "T42")
    said = stacked.stack.outside("python3", "-c", script, "T42", env=key).split()
    assert set(said) == {"InvalidAccessKeyId"}


def test_no_secret_of_a_run_is_seen_from_outside_and_none_lies_open_in_prefects_database(stacked: Stacked) -> None:
    stack = stacked.stack
    secrets = {
        name: stack.variables[name]
        for name in ("ARCHIVE_PASSWORD", "LAKE_SECRET_KEY", "LAKE_ACCESS_KEY", "PREFECT_AUTH_STRING")
    }
    jobs = stack.jobs("--all")
    assert len(jobs) >= 3
    seen = json.dumps([stack.engine.inspect(job) for job in jobs])
    seen += "".join(stack.engine.run("logs", job) for job in jobs)
    dump = stack.compose(
        *("exec", "-T", "-e", f"PGPASSWORD={stack.variables['PREFECT_DATABASE_PASSWORD']}", "prefect-db"),
        *("pg_dump", "-h", "127.0.0.1", "-U", "prefect", "prefect"),
    )
    assert "starloom-archive" in dump  # the block is there
    for name, secret in secrets.items():
        assert secret not in seen, name
    for name in ("ARCHIVE_PASSWORD", "LAKE_SECRET_KEY", "PREFECT_AUTH_STRING"):
        assert secrets[name] not in dump, name
    # The key that opens the blocks is not beside them.
    assert stack.sql("prefect", "SELECT count(*) FROM configuration WHERE key = 'ENCRYPTION_KEY'").strip() == "0"


def test_a_database_that_dies_comes_back_and_a_late_frame_is_stacked(stacked: Stacked, clock: Clock) -> None:
    stack = stacked.stack
    before = {name: stack.id_of(name) for name in ("archive-db", "prefect-db", "redis")}
    for name in before:
        stack.crash(name)
    wait_for("three restarts", lambda: all(stack.engine.inspect(i)["RestartCount"] for i in before.values()), 60)
    wait_for("health", lambda: set(stack.health().values()) <= {"healthy", "running"}, 180)
    clock.done("databases back")
    (late,) = stacked.submit(N_FRAMES, N_FRAMES + 1)
    assert late["state"] == "ready"
    stack.starloom("mission", "restack", MISSION)
    stacked.wait_until_stacked(2)
    assert stacked.show()["products"][-1]["summary"]["n_frames"] == N_FRAMES + 1


def test_a_dask_cluster_makes_the_tiles(stacked: Stacked, clock: Clock) -> None:
    stack = stacked.stack
    stack.say("settings.env", "STARLOOM_DASK_SCHEDULER", "tcp://dask-scheduler:8786")
    stack.say(".env", "COMPOSE_PROFILES", "dask")
    stack.up()

    def workers() -> str:
        findings = stack.starloom("doctor", "--only", "machine")["findings"]
        (found,) = [finding["found"] for finding in findings if finding["check"] == "tile workers"]
        return str(found)

    assert workers() == "1 at tcp://dask-scheduler:8786"
    clock.done("a Dask cluster")
    stacked.submit(N_FRAMES + 2, N_FRAMES + 3)
    revision = len(published(stacked.show())) + 1
    stack.starloom("mission", "restack", MISSION)
    stacked.wait_until_stacked(revision)
    clock.done("stacked by it")
    said = stack.compose("logs", "--no-color", "dask-worker")
    assert re.search(r"Task run 'tiles [^']*' - Finished in state Completed", said), said
    assert stack.engine.run("exec", stack.id_of("dask-worker"), "ls", f"{WORK}/{MISSION}") == ""


@contextmanager
def outlived(stacked: Stacked, goes_on_s: float) -> Iterator[int]:
    """Drain the hub, have the block stop and start it, and see that it goes on; yield the number of its runs."""
    stack, before = stacked.stack, stacked.kept()
    stack.drain()
    runs = int(stack.sql("prefect", ENDED))
    yield runs
    assert stacked.kept() == before
    assert int(stack.sql("prefect", ENDED)) == runs > 0
    # What was paused stays paused until the operator resumes it.
    assert stack.sql("prefect", "SELECT name FROM work_queue WHERE is_paused ORDER BY name").split() == [
        "frames",
        "stacks",
    ]
    stack.starloom("resume", "all")
    # The node's key still opens its receipts, and only with the right block key does Prefect open its blocks.
    told = stack.outside("starloom", "receipts", stacked.submitted[0]["name"], "--json", env=stacked.key)
    assert json.loads(told)[0]["state"] == "ready"
    wait_for("a run after the start", lambda: int(stack.sql("prefect", ENDED)) > runs, goes_on_s)


def test_down_and_up_again_keeps_everything(stacked: Stacked, clock: Clock) -> None:
    stack = stacked.stack
    ids = stack.sql("prefect", "SELECT id FROM automation ORDER BY id")
    with outlived(stacked, 120):
        began = time.monotonic()
        stack.compose("down")
        stack.up()
        clock.done(f"down and up, {time.monotonic() - began:.0f} s of them,")
        # Nothing was registered again.
        assert stack.sql("prefect", "SELECT id FROM automation ORDER BY id") == ids


def test_an_upgrade_to_another_image_keeps_everything(stacked: Stacked, clock: Clock) -> None:
    stack = stacked.stack
    build(stack.engine, "cpu", NEXT, VERSION="9.9.9")
    with outlived(stacked, 180) as runs:
        stack.say(".env", "STARLOOM_IMAGE", NEXT)
        stack.up()
        clock.done("upgraded")
        for service in ("prefect-api", "prefect-services", "relay", "worker", "watchdog"):
            assert stack.engine.inspect(stack.id_of(service))["Config"]["Image"] == NEXT
    # Deployments were registered again, for the new image.
    newest = f"SELECT id FROM flow_run WHERE state_type = 'COMPLETED' ORDER BY end_time OFFSET {runs} LIMIT 1"
    (job,) = stack.engine.containers(stack.sql("prefect", newest).strip())
    assert stack.engine.inspect(job)["Config"]["Image"] == NEXT


def test_archive_and_prefect_are_lost_and_restored_beside_the_lake(stacked: Stacked, clock: Clock) -> None:
    stack = stacked.stack
    stack.compose("run", "--rm", "-T", "backup")
    (late,) = stacked.submit(N_FRAMES + 1, N_FRAMES + 2)
    before = stacked.show()
    stack.drain()
    stack.compose("down")
    stack.lose("archive-data", "prefect-data", "redis-data", "hub-home")
    began = time.monotonic()
    stack.up("archive-db", "lake")
    told = stack.compose("run", "--rm", "-T", "backup", "starloom", "restore", BACKUPS, "--json")
    assert json.loads(told[told.index("{") :])["reconciled"]["frames_registered"] == [late["name"]]
    stack.up()
    clock.done(f"restored and up, {time.monotonic() - began:.0f} s of them,")
    after = stacked.show()
    # Beside them stands the row that keeps epochs of before the restore from being given twice.
    assert published(after) == published(before)
    assert [row["holder"] for row in after["revisions"] if row["status"] == "expired"] == ["restore"]
    assert after["products"] == before["products"]
    assert counted(after) == counted(before)
    # The frame that no backup knew is processed again from the lake, and the mission goes on.
    stack.run_deployment("sweep/sweep")
    ready = f"SELECT count(*) FROM frame WHERE name = '{late['name']}' AND ready_at IS NOT NULL"
    wait_for("the late frame", lambda: stack.sql("archive", ready).strip() == "1", 600)
    revision = len(published(after)) + 1
    stack.starloom("mission", "restack", MISSION)
    stacked.wait_until_stacked(revision)
    assert stacked.show()["products"][-1]["summary"]["n_frames"] == counted(after)
