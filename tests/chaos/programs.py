"""The hub's programs under a supervisor that can kill one: real servers, `kill -9`, a short downtime."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: In the environment of every program of a site and of all that they start: how the last of them is found.
MARK = "STARLOOM_CHAOS_SITE"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_program(name: str) -> str:
    found = shutil.which(name)
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if found is None and not candidates:
        raise FileNotFoundError(f"{name} not found: install Debian's `postgresql`")
    return found or str(candidates[-1])


def postgres_user() -> str:
    """PostgreSQL refuses to run as root; Debian's package brings the user it wants."""
    return "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def end(processes: Sequence[psutil.Process], number: int = signal.SIGKILL) -> int:
    """Send a signal to processes that may be gone by now; return how many were there."""
    told = 0
    for process in processes:
        try:
            process.send_signal(number)
            told += 1
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return told


def marked(site: Path) -> list[psutil.Process]:
    """Return the living processes that carry the site's mark, but PostgreSQL's, which overwrite theirs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(site) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@dataclass
class Program:
    """One program of the hub.

    Parameters
    ----------
    name
        Names its log.
    command
        Its command line, asked for at every start.
    env
        Its environment.
    ready
        Whether it serves; asked before the programs behind it are first started.
    before
        Called before every start; what it raises postpones the start.
    """

    site: Path
    name: str
    command: Callable[[], Sequence[str]]
    env: Mapping[str, str]
    cwd: Path
    ready: Callable[[], bool] = lambda: True
    before: Callable[[], None] = lambda: None
    user: str | None = None
    starts: int = 0
    ends: int = 0
    """How often it ended though nobody had killed it."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _not_before: float = 0.0

    @property
    def log(self) -> Path:
        return self.site / "logs" / f"{self.name}.log"

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.before()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n== start {self.starts + 1}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                list(self.command()),
                env={**self.env, MARK: str(self.site)},
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user if os.geteuid() == 0 else None,
            )
        self.starts += 1

    def look_after(self) -> None:
        """Start it again if it is down and its downtime is over."""
        if self.is_alive() or time.monotonic() < self._not_before:
            return
        if self._process is not None and self._not_before == 0.0:
            self.ends += 1
        try:
            self.start()
            self._not_before = 0.0
        except Exception as problem:  # noqa: BLE001 - as a supervisor does: whatever it is, again
            with self.log.open("a") as log:
                log.write(f"== not started: {problem}\n")
            self._not_before = time.monotonic() + 2.0

    def tree(self) -> list[psutil.Process]:
        """Return the program and all that descend from it."""
        if self._process is None or not self.is_alive():
            return []
        try:
            me = psutil.Process(self._process.pid)
            return [me, *me.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, downtime_s: float, *, alone: bool = False) -> int:
        """Kill it outright, with its descendants or alone; return how many processes died."""
        victims = self.tree()
        killed = end(victims[:1] if alone else victims)
        self._not_before = time.monotonic() + downtime_s
        if self._process is not None:
            self._process.wait(timeout=30)
        return killed

    def wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if not self.is_alive() or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{self.name} is not ready:\n{tail}")
            time.sleep(0.2)
