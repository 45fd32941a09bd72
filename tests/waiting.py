"""Wait for what comes in its own time; no test depends on how long that is."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    what: Callable[[], bool], otherwise: Callable[[], object] = lambda: "it has not come", timeout_s: float = 120.0
) -> None:
    """Poll, and say `otherwise` if it has not come in the end."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)
