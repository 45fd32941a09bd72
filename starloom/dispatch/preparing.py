"""What a hub needs once before it works: tables, buckets, and what Prefect must know; nothing is started here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from starloom.archive import Archive
from starloom.dispatch.deploying import Say, register
from starloom.dispatch.rest import PrefectApi
from starloom.errors import Unavailable
from starloom.lake import connect
from starloom.refcat.shipped import tycho2
from starloom.settings import Settings


def prepare_stores(settings: Settings, say: Say) -> None:
    """Bring the archive's tables up to date and create what the lake lacks; both may be repeated."""
    say("archive: migrate")
    archive = Archive(settings.archive_url.get_secret_value())
    try:
        archive.migrate()
    finally:
        archive.dispose()
    say("lake: prepare buckets")
    lake = connect(settings)
    try:
        lake.prepare()
    finally:
        lake.close()


def set_up(settings: Settings, env: Mapping[str, str], root: Path, say: Say, *, wait_s: float = 120.0) -> None:
    """Prepare archive, lake and Prefect that others run: one server (compose), or a cluster.

    The star catalogue's store is made here, too, once for all that share its cache: it takes 0.8 GB for some
    seconds, which a relay's container does not have when `starloom doctor` is called in it.

    Parameters
    ----------
    env
        Environment of Prefect's programs, `starloom.dispatch.embedded.program_environment`.
    root
        Folder of prefect.yaml and the flows.
    wait_s
        How long the stores, and then Prefect, may take to answer, seconds.

    Raises
    ------
    Unavailable
        One does not answer in time.
    StarloomError
        What `starloom.dispatch.deploying.register` raises.
    """
    _await(lambda: prepare_stores(settings, say), wait_s)
    say("prefect: wait for an answer")
    _await(lambda: _ask_prefect(settings), wait_s)
    register(settings, env, root, say)
    say("star catalogue: make its store")
    tycho2(settings.refcat_cache)


def _await(work: Callable[[], None], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            work()
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _ask_prefect(settings: Settings) -> None:
    with PrefectApi.from_settings(settings) as api:
        if not api.is_healthy():
            raise Unavailable(f"Prefect at {settings.prefect_api_url} does not answer", code="prefect-unavailable")
