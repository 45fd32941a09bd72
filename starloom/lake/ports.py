"""Free ports on the loopback interface."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from starloom.errors import StarloomError

#: Below the ports that Linux and macOS give to outgoing connections, so that none of ours is taken meanwhile.
PORTS = range(21_000, 32_000)


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def all_free(ports: Iterable[int]) -> bool:
    """Return whether no program on this machine listens at any of the loopback ports."""
    with ExitStack() as held:
        try:
            for port in ports:
                held.enter_context(_bound(port))
        except OSError:
            return False
    return True


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """Return one free loopback port a name; all are held until the last is found, so that none is given twice."""
    chosen: dict[str, int] = {}
    with ExitStack() as held:
        for _ in range(1000):
            port = secrets.choice(PORTS)
            try:
                held.enter_context(_bound(port))
            except OSError:
                continue
            chosen[names[len(chosen)]] = port
            if len(chosen) == len(names):
                return chosen
    raise StarloomError("no free ports on the loopback interface", code="no-free-port", retryable=True)
