"""Services: started once, found by pid and start time, stopped with everything they have started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from starloom.dispatch import embedded, services
from starloom.dispatch.embedded import Embedded, plain_environment, write_env_file
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.overview import overview
from starloom.dispatch.services import Service, free_port, run_program
from starloom.errors import Conflict, StarloomError, Unavailable
from starloom.settings import load_settings

#: Starts a child in its group and one in a session of its own, as Prefect's worker does, and tells their pids.
PARENT = """
import subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
pids = [subprocess.Popen(sleeper).pid, subprocess.Popen(sleeper, start_new_session=True).pid]
print(*pids, flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def await_log(service: Service) -> str:
    deadline = time.monotonic() + 10
    while not service.log_file.is_file() or not service.log_file.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return service.log_file.read_text()


def is_alive(pid: int) -> bool:
    return services._started_at(pid) is not None


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[[str], Service]]:
    made: list[Service] = []

    def make(name: str) -> Service:
        made.append(Service(tmp_path / "home", name))
        return made[-1]

    yield make
    for service in made:
        service.stop()


def test_stop_ends_the_program_and_all_it_has_started(make_service: Callable[[str], Service]) -> None:
    service = make_service("parent")
    assert service.pid is None
    service.start(program(PARENT), plain_environment())
    pid = service.pid
    assert pid is not None
    children = [int(child) for child in await_log(service).split()]
    service.start(program(PARENT), plain_environment())
    assert service.pid == pid  # it runs already
    assert service.stop()
    assert not any(is_alive(one) for one in (pid, *children))
    assert not service.pid_file.exists()
    assert not service.stop()


def test_what_a_killed_program_left_behind_ends_with_the_next_start(
    make_service: Callable[[str], Service],
) -> None:
    service, neighbour = make_service("parent"), make_service("other")
    neighbour.start(program("import time; time.sleep(600)"), plain_environment())
    service.start(program(PARENT), plain_environment())
    children = [int(child) for child in await_log(service).split()]
    pid = service.pid
    assert pid is not None
    os.kill(pid, 9)
    while is_alive(pid):
        time.sleep(0.02)
    service.start(program("import time; time.sleep(600)"), plain_environment())
    assert not any(is_alive(child) for child in children)
    assert service.pid is not None
    assert neighbour.pid is not None


def test_a_program_deaf_to_sigterm_is_killed(
    make_service: Callable[[str], Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STOP_WAIT_S", 0.3)
    service = make_service("deaf")
    service.start(program(DEAF), plain_environment())
    await_log(service)
    pid = service.pid
    assert pid is not None
    assert service.stop()
    assert not is_alive(pid)


def test_a_stale_pid_file_means_nobody_and_nobody_is_killed(make_service: Callable[[str], Service]) -> None:
    service = make_service("stale")
    service.pid_file.parent.mkdir(parents=True)
    with subprocess.Popen(program("import time; time.sleep(60)")) as stranger:
        for said in (f"{stranger.pid} 1", f"{stranger.pid}", "", "nonsense here", "999999999 5"):
            service.pid_file.write_text(said)
            assert service.pid is None
            assert not service.stop()
            assert not service.pid_file.exists()
        assert stranger.poll() is None
        stranger.kill()


def test_a_program_that_ends_early_is_told_with_its_last_words(make_service: Callable[[str], Service]) -> None:
    service = make_service("short")
    service.start(program("raise SystemExit('port 1 is taken')"), plain_environment())
    with pytest.raises(Unavailable, match="port 1 is taken") as caught:
        service.wait(lambda: False, 20)
    assert caught.value.code == "service-failed"
    with pytest.raises(Unavailable, match="no log"):
        make_service("never").wait(lambda: False, 1)


def test_a_port_is_reused_when_it_is_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken


def test_a_program_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(StarloomError, match=r"(?s)baking failed:.*no flour"):
        run_program(program("raise SystemExit('no flour')"), plain_environment(), cwd=tmp_path, what="baking")


def test_the_env_file_is_merged_and_private(tmp_path: Path) -> None:
    path = tmp_path / "home" / "hub.env"
    write_env_file(path, {"A": "1", "B": "x=y"})
    write_env_file(path, {"A": "2"})
    assert path.read_text() == "A=2\nB=x=y\n"
    assert path.stat().st_mode & 0o077 == 0


def test_up_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Embedded(tmp_path / "home")
    hub.home.mkdir()
    hub.service("lake").start(program("import time; time.sleep(600)"), plain_environment())
    before = hub.service("lake").pid

    def interrupted(self: Embedded, root: Path, say: object) -> None:
        self.service("worker").start(program("import time; time.sleep(600)"), plain_environment())
        with pytest.raises(Conflict) as caught:
            self.up()  # a second one meanwhile
        assert caught.value.code == "up-runs-already"
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedded, "_up", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            hub.up()
        assert hub.pids() == {"lake": before, "prefect": None, "worker": None, "relay": None}
        assert hub.down() == ["lake"]
    finally:
        hub.down()


def test_status_tells_a_relay_that_lives_from_one_that_hangs(tmp_path: Path) -> None:
    def relay_row() -> dict[str, object]:
        rows = overview(load_settings(tmp_path))["services"]
        return next(row for row in rows if row["service"] == "relay")

    assert relay_row()["state"] == "down"
    heartbeat = Heartbeat(tmp_path, "relay")
    heartbeat.beat(trouble="the archive sleeps")
    assert relay_row()["state"] == "up"
    assert "the archive sleeps" in str(relay_row()["detail"])
    heartbeat.path.write_text('{"at": "2020-01-01T00:00:00+00:00", "pid": 1, "trouble": ""}')
    assert relay_row()["state"] == "down"  # nobody runs here, and what ran elsewhere fell silent
    service = Embedded(tmp_path).service("relay")
    service.start(program("import time; time.sleep(600)"), plain_environment())
    try:
        assert relay_row()["state"] == "silent"
    finally:
        service.stop()
    heartbeat.path.write_text("half a fi")
    assert heartbeat.read() is None


def test_programs_get_a_clean_prefect_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    settings = load_settings(tmp_path).model_copy(update={"prefect_api_url": "http://127.0.0.1:1/api"})
    env = embedded.program_environment(settings, tmp_path)
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:1/api"
    assert env["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"
    assert env["PREFECT_LOGGING_EXTRA_LOGGERS"] == "starloom"


def test_the_server_alone_gets_the_key_of_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(tmp_path)
    assert embedded.ENCRYPTION_KEY not in embedded.server_environment(settings, tmp_path)
    monkeypatch.setenv(embedded.ENCRYPTION_KEY, "an operator's")
    assert embedded.server_environment(settings, tmp_path)[embedded.ENCRYPTION_KEY] == "an operator's"
    assert embedded.ENCRYPTION_KEY not in embedded.program_environment(settings, tmp_path)
