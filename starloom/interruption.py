"""Ctrl-C that is heard: Python drops a `KeyboardInterrupt` raised in a finalizer or a weak reference's callback.

Every import ends in such a callback, so a program that is interrupted while it imports may go on as if nothing had
been. A command that waits for minutes asks `check` while it waits.
"""

from __future__ import annotations

import signal
from types import FrameType

_heard: list[int] = []


def listen() -> None:
    """Remember interruptions from now on; one that is ignored (a shell's background job) or handled stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise `KeyboardInterrupt` if one came up since `listen` was called, and was dropped."""
    if _heard:
        raise KeyboardInterrupt


def _interrupt(number: int, _: FrameType | None) -> None:
    _heard.append(number)
    raise KeyboardInterrupt
