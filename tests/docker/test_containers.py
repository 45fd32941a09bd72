"""process-frames and stack-mission in containers of a real engine, held to the process pool's products."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from astropy.io import fits

import starloom
from starloom.dispatch.docker_worker import prune, stop_jobs
from starloom.dispatch.pool import LABEL, hub_label
from tests.docker.conftest import COMMIT, LIMITS, Docked, build, log
from tests.docker.engine import Engine
from tests.docker.hub import NETWORK, TRES1, state_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: Cards that say when and where a file was written.
OF_THE_RUN = {"DATE", "CHECKSUM"}


def differences(one: bytes, other: bytes) -> list[str]:
    """Say in which HDUs two files differ, by DATASUM and by every card but those of the run."""
    found = []
    with fits.open(io.BytesIO(one)) as a, fits.open(io.BytesIO(other)) as b:
        assert [hdu.name for hdu in a] == [hdu.name for hdu in b]
        for n, (left, right) in enumerate(zip(a, b, strict=True)):
            for hdu in (left, right):
                hdu.add_datasum(when="")
            cards = [
                [(c.keyword, c.value) for c in hdu.header.cards if c.keyword not in OF_THE_RUN]
                for hdu in (left, right)
            ]
            found += [f"HDU {n} {left.name}: {card}" for card in set(map(str, cards[0])) ^ set(map(str, cards[1]))]
            assert "DATASUM" in left.header
    return found


def test_both_flows_completed_in_containers(docked: Docked) -> None:
    names = [run["state_name"] for run in docked.outcome.runs]
    assert names == ["Completed"] * len(names)
    assert len(names) == 3
    assert set(docked.containers) == {run["id"] for run in docked.outcome.runs}
    for run in docked.outcome.runs:
        (container_id,) = docked.engine.containers(run["id"])
        assert run["infrastructure_pid"].endswith(container_id)
        state = docked.containers[run["id"]]["State"]
        assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
        # Nothing of the run happened outside the container's life, as the engine and as Prefect tell it.
        assert state["StartedAt"][:19] <= run["start_time"][:19]
        assert run["end_time"][:19] <= state["FinishedAt"][:19]
    for run in docked.reference.runs:
        assert docked.engine.containers(run["id"]) == []


def test_stacks_are_the_process_pools_to_the_bit(docked: Docked) -> None:
    for mission in (NETWORK, TRES1):
        ours, theirs = docked.outcome.products[mission], docked.reference.products[mission]
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert len(ours) >= 1
        for (_, product), (_, reference) in zip(ours, theirs, strict=True):
            assert product is not reference
            assert differences(product, reference) == []


def test_solved_frames_are_the_process_pools_to_the_bit(docked: Docked) -> None:
    ours, theirs = docked.outcome.solved, docked.reference.solved
    # Four good ones, one with a trail, one astray, and three of TrES-1.
    assert len(ours) == 9
    assert ours.keys() == theirs.keys()
    for frame_id, solved in ours.items():
        assert differences(solved, theirs[frame_id]) == []
    for frame_id, frame in docked.outcome.frames.items():
        reference = docked.reference.frames[frame_id]
        for step in ("disposition", "ingest", "calibrate", "solve", "measure", "band", "flags"):
            assert getattr(frame, step) == getattr(reference, step)


def test_a_difference_would_be_seen(docked: Docked) -> None:
    ((_, product),) = docked.outcome.products[TRES1]
    with fits.open(io.BytesIO(product)) as hdus:
        hdus["SCI"].data[5, 5] += 1
        hdus["SCI"].header["NCOMBINE"] += 1
        hdus["WEIGHT"].header["DATE"] = "2000-01-01"
        changed = io.BytesIO()
        hdus.writeto(changed)
    found = differences(product, changed.getvalue())
    assert {said.partition(":")[0] for said in found} == {"HDU 1 SCI"}
    assert {"DATASUM", "NCOMBINE"} <= {word for said in found for word in ("DATASUM", "NCOMBINE") if word in said}


def test_no_secret_is_to_be_seen_from_outside(docked: Docked, image: str) -> None:
    seen = [json.dumps(container) for container in docked.containers.values()]
    seen += [json.dumps(docked.engine.inspect(image)), docked.engine.run("history", "--no-trunc", image)]
    seen += [docked.engine.run("logs", container["Id"]) for container in docked.containers.values()]
    pool = docked.api.call("GET", f"/work_pools/{docked.hub.settings.work_pool}")
    seen += [json.dumps(pool["base_job_template"]), json.dumps(docked.outcome.runs)]
    for name, secret in docked.secrets.items():
        assert len(secret) >= 16
        assert [text for text in seen if secret in text] == [], name
    for container in docked.containers.values():
        mounts = {mount["Destination"]: mount["RW"] for mount in container["Mounts"]}
        assert mounts["/run/secrets/starloom"] is False


def test_the_hub_is_closed_to_whoever_has_no_password(docked: Docked) -> None:
    # So that the secrets above are ones: a container that was given nothing reaches Prefect, and is turned away.
    url = f"{docked.hub.settings.prefect_api_url}/work_pools/filter"
    script = (
        "import urllib.request as r, urllib.error as e\n"
        f"try: r.urlopen(r.Request('{url}', b'{{}}', {{'Content-Type': 'application/json'}}))\n"
        "except e.HTTPError as error: print(error.code)"
    )
    assert docked.engine.run("run", "--rm", "starloom:test", "python3", "-c", script) == "401"


def test_limits_and_rights_of_a_job(docked: Docked) -> None:
    for run in docked.outcome.runs:
        container = docked.containers[run["id"]]
        host = container["HostConfig"]
        deployment = container["Config"]["Labels"]["io.prefect.deployment-name"]
        assert (
            host["Memory"]
            == host["MemorySwap"]
            == {"process-frames": 3 << 30, "stack-mission": 8 << 30}[deployment]
        )
        assert host["NanoCpus"] == {"process-frames": 1_500_000_000, "stack-mission": 0}[deployment]
        assert (host["NetworkMode"], host["Privileged"], host["CapDrop"]) == ("bridge", False, ["ALL"])
        assert container["Config"]["User"] == "starloom"
        environment = dict(entry.split("=", 1) for entry in container["Config"]["Env"])
        assert environment["PREFECT_HOME"] == "/home/starloom/.prefect"
        assert ("STARLOOM_STACK_THREADS" in environment) == (deployment in LIMITS)


def test_a_killed_container_is_a_crashed_run_within_seconds(docked: Docked) -> None:
    run = docked.api.create_run("sweep/sweep", {}, idempotency_key="to be killed")

    def running() -> bool:
        return (
            bool(docked.engine.containers(run["id"]))
            and state_of(docked.api, run["id"])["state_type"] == "RUNNING"
        )

    wait_for("the container", running, 60)
    (container,) = docked.engine.containers(run["id"])
    docked.engine.run("kill", container)
    took = wait_for("CRASHED", lambda: state_of(docked.api, run["id"])["state_type"] == "CRASHED", 30)
    assert docked.engine.inspect(container)["State"]["ExitCode"] == 137
    log.info("CRASHED %.1f s after the kill", took)


def test_the_image_says_what_it_is(engine: Engine, image: str) -> None:
    found = engine.inspect(image)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == starloom.__version__
    assert labels["org.opencontainers.image.revision"] == COMMIT
    assert found["Config"]["User"] == "starloom"
    log.info("image of %.0f MB", found["Size"] / 1e6)


def test_an_image_tells_its_health(engine: Engine, image: str) -> None:
    words = ("run", "--detach", "--health-interval", "1s", "--health-start-period", "0s")
    idle = engine.run(*words, image, "sleep", "600")
    lost = engine.run(
        *words, "--health-retries", "1", "-e", "STARLOOM_HEALTH_URL=http://127.0.0.1:9/", image, "sleep", "600"
    )
    wait_for("healthy", lambda: engine.inspect(idle)["State"]["Health"]["Status"] == "healthy", 60)
    wait_for("unhealthy", lambda: engine.inspect(lost)["State"]["Health"]["Status"] == "unhealthy", 60)
    engine.run("rm", "--force", idle, lost)


def test_a_hub_stops_and_removes_its_own_containers_only(
    engine: Engine, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    ours, theirs = (
        engine.run("run", "--detach", "--init", "--label", f"{LABEL}={hub_label(home)}", image, "sleep", "600")
        for home in (tmp_path, tmp_path / "another")
    )
    assert prune(tmp_path, "0s") == 0  # it lives
    assert stop_jobs(tmp_path) == 1
    assert [engine.inspect(container)["State"]["Running"] for container in (ours, theirs)] == [False, True]
    engine.run("kill", theirs)
    assert prune(tmp_path) == 0  # for an hour it can be looked at
    wait_for("the next second", lambda: prune(tmp_path, "0s") == 1, 10)  # the engine counts whole ones
    assert theirs in engine.run("ps", "--all", "--quiet", "--no-trunc")
    assert ours not in engine.run("ps", "--all", "--quiet", "--no-trunc")
    engine.run("rm", theirs)


def test_volunteers_get_the_library_without_prefect(engine: Engine, image: str) -> None:
    volunteer = build(engine, "volunteer", "starloom-volunteer:test")
    assert starloom.__version__ in engine.run("run", "--rm", volunteer, "--version")
    assert "--kernel" in engine.run("run", "--rm", volunteer, "stack", "--help")
    absent = (
        "import importlib.util as u; print([u.find_spec(n) for n in ('prefect', 'psycopg', 'flows', 'tasks')])"
    )
    said = engine.run("run", "--rm", "--entrypoint", "python3", volunteer, "-c", absent)
    assert said == "[None, None, None, None]"
    size = engine.inspect(volunteer)["Size"]
    log.info("volunteers' image of %.0f MB", size / 1e6)
    assert size < engine.inspect(image)["Size"]
