"""The embedded services: started as children that outlive the command, stopped by pid, never by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starloom import interruption
from starloom.errors import StarloomError, Unavailable

#: SeaweedFS takes 16 s to end when asked to.
STOP_WAIT_S = 20.0
LOG_TAIL_LINES = 8


def checkout() -> Path:
    """Return the folder that holds ``prefect.yaml`` and ``flows/``.

    Raises
    ------
    StarloomError
        ``no-checkout``: only the library is installed, without the flows.
    """
    root = Path(__file__).parents[2]
    if not (root / "prefect.yaml").is_file():
        raise StarloomError(
            f"no prefect.yaml in {root}",
            code="no-checkout",
            hint="The hub runs from a checkout or its image; a wheel holds the library alone.",
        )
    return root


def free_port(preferred: int, address: str = "127.0.0.1") -> int:
    """Return the preferred port of an address of this machine if nothing listens there, else a free one.

    Raises
    ------
    StarloomError
        ``no-port``: none is free, or the address is not this machine's.
    """
    for wanted in (preferred, 0):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StarloomError(
        f"no free port on {address}", code="no-port", hint="Is STARLOOM_BIND_ADDRESS an address of this machine?"
    )


#: Set in the environment of every service and inherited by whatever it starts: how `stop` finds the rest.
MARK = "STARLOOM_SERVICE"


def _started_at(pid: int) -> str | None:
    """Return when a living process started: a pid alone may be somebody else's by now."""
    if not Path("/proc/self/stat").exists():  # not Linux
        said = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state, _, started = said.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else started.replace(" ", "")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _marked(mark: str) -> list[int]:
    """Return the living processes whose environment carries the mark (Linux; elsewhere none are found)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            carries = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if carries and _started_at(int(folder.name)) is not None:
            found.append(int(folder.name))
    return found


@dataclass(frozen=True)
class Service:
    """One embedded program and where its pid and log are kept.

    Parameters
    ----------
    home
        The hub's home.
    name
        Names pid file and log.
    """

    home: Path
    name: str

    @property
    def pid_file(self) -> Path:
        """Pid and start time of the running program."""
        return self.home / "run" / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """Everything the program wrote, appended over restarts."""
        return self.home / "logs" / f"{self.name}.log"

    @property
    def mark(self) -> str:
        """What the environment of the program and of all it starts says."""
        return f"{self.home.absolute()}:{self.name}"

    @property
    def pid(self) -> int | None:
        """Pid of the running program, None when it does not run."""
        try:
            said, started = self.pid_file.read_text().split()
            pid = int(said)
        except (OSError, ValueError):
            return None
        return pid if _started_at(pid) == started else None

    def start(self, command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None) -> None:
        """Start the program in its own session unless it runs already."""
        if self.pid is not None:
            return
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._end_the_marked()  # what a service that was killed outright has left behind
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                list(command),
                env={**env, MARK: self.mark},
                cwd=cwd or self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _CHILDREN[child.pid] = child
        try:
            self.pid_file.write_text(f"{child.pid} {_started_at(child.pid) or 0}")
        except BaseException:  # also Ctrl-C: without its pid file nobody could stop it
            _signal_group(child.pid, signal.SIGKILL)
            raise

    def wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``ready()``.

        Raises
        ------
        Unavailable
            The program ended or the time is up; the message carries the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            interruption.check()
            _reap()
            if self.pid is None or time.monotonic() > deadline:
                what = "ended" if self.pid is None else f"is not ready after {timeout_s:.0f} s"
                raise Unavailable(
                    f"{self.name} {what}:\n{self.tail()}",
                    code="service-failed",
                    hint=f"The whole log is {self.log_file}.",
                )
            time.sleep(0.2)

    def stop(self) -> bool:
        """Ask the program and its children to end, then make them; True if it ran."""
        pid = self.pid
        if pid is not None:
            _signal_group(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_WAIT_S
            while self.pid is not None and time.monotonic() < deadline:
                _reap()
                time.sleep(0.1)
            if self.pid is not None:
                _signal_group(pid, signal.SIGKILL)
        self._end_the_marked()
        _reap()
        self.pid_file.unlink(missing_ok=True)
        return pid is not None

    def _end_the_marked(self) -> None:
        """End what the program left behind: Prefect's worker starts every run in a session of its own."""
        deadline = time.monotonic() + STOP_WAIT_S / 3
        number = signal.SIGTERM
        while left := _marked(self.mark):
            for pid in left:
                _signal_process(pid, number)
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            _reap()
            time.sleep(0.2)

    def tail(self) -> str:
        """Return the end of the log."""
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-LOG_TAIL_LINES:])


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _reap() -> None:
    for pid, child in list(_CHILDREN.items()):
        if child.poll() is not None:
            del _CHILDREN[pid]


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _signal_process(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def run_program(command: Sequence[str], env: Mapping[str, str], *, cwd: Path, what: str) -> str:
    """Run a program to its end and return what it printed.

    Raises
    ------
    StarloomError
        ``program-failed`` with the end of its output.
    """
    try:
        done = subprocess.run(
            list(command), env=dict(env), cwd=cwd, capture_output=True, text=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired as late:
        raise StarloomError(f"{what} did not end within {late.timeout:.0f} s", code="program-failed") from late
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise StarloomError(f"{what} failed:\n{output}", code="program-failed")
    return done.stdout


def python(*arguments: str) -> list[str]:
    """Return the command line of a module run by this interpreter."""
    return [sys.executable, "-m", *arguments]
