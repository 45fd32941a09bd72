"""Prefect's Docker worker with a thread beside it that removes containers which have ended.

``python -m starloom.dispatch.docker_worker start --pool NAME --type docker`` takes what ``prefect worker`` takes.
Ended containers are kept for an hour, for ``docker logs``; the hub starts some 4,000 a day.
"""

from __future__ import annotations

import logging
import runpy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from starloom.dispatch.pool import LABEL, hub_label
from starloom.settings import default_home

log = logging.getLogger("starloom.docker_worker")

PRUNE_EVERY_S = 300.0
KEEP = "1h"
STOP_WAIT_S = 10


def prune(home: Path, keep: str = KEEP) -> int:
    """Remove this hub's containers that have ended and were made longer ago than ``keep``; return how many.

    Raises
    ------
    DockerException, RequestException
        The engine does not answer.
    """
    client = docker.from_env()
    try:
        gone = client.containers.prune(filters={"label": f"{LABEL}={hub_label(home)}", "until": keep})
    finally:
        client.close()
    return len(gone["ContainersDeleted"] or [])


def stop_jobs(home: Path) -> int:
    """Stop this hub's containers that still run, and return how many; their runs are CRASHED or taken up again.

    Raises
    ------
    DockerException, RequestException
        The engine does not answer.
    """
    client = docker.from_env()
    try:
        living = client.containers.list(filters={"label": f"{LABEL}={hub_label(home)}"})
        with ThreadPoolExecutor(max_workers=max(1, len(living))) as pool:
            list(pool.map(lambda container: container.stop(timeout=STOP_WAIT_S), living))
    finally:
        client.close()
    return len(living)


def _keep_pruning(home: Path) -> None:
    waiting = threading.Event()
    while not waiting.wait(PRUNE_EVERY_S):
        try:
            prune(home)
        except (DockerException, RequestException) as error:
            # The worker itself fails louder; the next time removes what was left.
            log.warning("ended containers were not removed: %s", error)


def main() -> None:
    """Run ``prefect worker`` in this process, so that whoever ends it ends the worker."""
    threading.Thread(target=_keep_pruning, args=(default_home(),), name="prune", daemon=True).start()
    sys.argv = ["prefect", "worker", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
