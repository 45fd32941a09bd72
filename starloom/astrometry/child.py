"""Programs of others, on a short leash: CPU, wall clock, memory and output are bounded, and nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a solver may need: index files are mapped, not read, but they count as address space.
MEMORY_BYTES = 4 << 30
OUTPUT_BYTES = 64 << 20
TAIL_BYTES = 4000

# Sets the limits and becomes the program. A launcher instead of `preexec_fn`, which may deadlock in a process with
# threads; -I and -S keep it from importing anything of ours, so that it costs 10 ms.
_LAUNCHER = """
import os, resource, sys
cpu, memory, output, *argv = sys.argv[1:]
for name, limit in (("CPU", cpu), ("AS", memory), ("FSIZE", output), ("CORE", 0)):
    which, soft = getattr(resource, "RLIMIT_" + name), int(limit)
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    try:
        # A second between the two: SIGXCPU may be caught, SIGKILL may not.
        resource.setrlimit(which, (soft, soft + 1 if name == "CPU" and hard == resource.RLIM_INFINITY else soft))
    except (ValueError, OSError):
        pass  # a system without this limit: the wall clock still holds
try:
    os.execvp(argv[0], argv)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(127)
"""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Parameters
    ----------
    code
        Exit code; negative: the signal that killed it; None: it ran past the wall-clock limit.
    tail
        The last of what it said on both channels.
    """

    code: int | None
    tail: str

    @property
    def fault(self) -> str:
        """What went wrong, in words; empty when it ended well."""
        if self.code == 0:
            return ""
        if self.code is None:
            return "hung and was killed"
        if self.code == -getattr(signal, "SIGXCPU", 24) or (self.code == -signal.SIGKILL):
            return "was killed at its CPU limit"
        if self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        last = self.tail.strip().splitlines()[-1:] or [""]
        return f"ended with code {self.code}" + (f": {last[0][:120]}" if last[0] else "")


def run_limited(
    argv: Sequence[str | Path],
    *,
    folder: Path,
    cpu_s: float,
    wall_s: float,
    memory_bytes: int = MEMORY_BYTES,
    environment: dict[str, str] | None = None,
) -> Ended:
    """Run a program in a session of its own and wait for it; whatever it leaves running is killed.

    Parameters
    ----------
    argv
        Program and arguments; no shell sees them.
    folder
        Where it runs and where its output is kept: a temporary folder that the caller removes.
    cpu_s, wall_s
        Seconds of CPU and of the clock after which it is killed, each on its own.
    memory_bytes
        Largest address space.
    environment
        Its environment; ours by default.

    Notes
    -----
    Output goes to a bounded file, because a pipe that is read to its end holds all of what a mad program prints.
    """
    said = folder / "output.txt"
    limits = [str(max(round(cpu_s), 1)), str(memory_bytes), str(OUTPUT_BYTES)]
    with said.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *limits, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(timeout=wall_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # The group outlives its leader where a program started others, and an interrupt must not leave it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return Ended(code, _tail(said))


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        return file.read().decode(errors="replace")
