"""Ctrl-C at a moment at which Python drops the exception that it raises."""

from __future__ import annotations

import subprocess
import sys

LOST = """
import signal
from starloom import interruption
from starloom.demo.watching import wait_until

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would be born deaf
interruption.listen()
try:
    Finalized()
    print("goes on", flush=True)
    wait_until("nothing", lambda: False, 60, lambda: "")
except KeyboardInterrupt:
    print("heard")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)


def test_an_interruption_that_python_drops_is_heard_at_the_next_wait() -> None:
    done = run(LOST)
    assert done.stdout.splitlines() == ["goes on", "heard"]
    assert "Exception ignored in" in done.stderr


def test_an_ignored_interruption_stays_ignored() -> None:
    # As a shell starts its background jobs.
    done = run(
        "import signal; from starloom import interruption; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "interruption.listen(); signal.raise_signal(signal.SIGINT); interruption.check(); print('goes on')"
    )
    assert done.stdout == "goes on\n"
