"""The lake: reached, its buckets as they were promised, closed to strangers, on a clock that agrees."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx

from starloom.doctor.archive import MAX_SKEW_S
from starloom.doctor.finding import Check, Group, Trouble
from starloom.lake import Lake, connect
from starloom.scrubbing import second_copy
from starloom.settings import Settings

TIMEOUT_S = 10.0
#: Old versions of receipts are removed by the bucket's own rule, so that a probe leaves nothing behind for long.
PROBE = "receipts/.doctor/{}.json"


def _is_s3(settings: Settings) -> bool:
    return settings.lake_url.startswith("s3://")


def answers(settings: Settings) -> str:
    """Reach the lake with the hub's own key."""
    connect(settings).ping()
    return f"{settings.lake_url} {settings.lake_endpoint}".strip()


def buckets_keep_their_promise(settings: Settings) -> str:
    """Look for versions, object lock and lifecycle rules."""
    if not _is_s3(settings):
        if settings.environment == "production":
            raise Trouble(
                "a folder keeps no versions and locks nothing",
                "Use an S3 store for a hub of a network.",
                "warning",
            )
        return "a folder: it keeps no versions and locks nothing"
    from starloom.lake.s3 import S3Lake

    lake = connect(settings)
    assert isinstance(lake, S3Lake)
    if wrong := list(lake.shortcomings()):
        raise Trouble(
            "; ".join(wrong), "`starloom up` sets them; a lock needs a bucket that was created with one."
        )
    lock = (
        f"raw is locked for {settings.lake_raw_lock_days} days"
        if settings.lake_raw_lock_days
        else "no lock is set"
    )
    return f"versions are kept, {lock}, unfinished uploads expire"


def takes_and_gives(settings: Settings) -> str:
    """Write, read and delete a small object that nobody looks for."""
    return _probe(connect(settings))


def _probe(lake: Lake) -> str:
    key, wanted = PROBE.format(uuid4().hex), uuid4().bytes
    lake.put_bytes(wanted, key)
    try:
        if lake.get_bytes(key, max_bytes=1024) != wanted:
            raise Trouble("what was read is not what was written", "Look at the store's own log and disks.")
    finally:
        lake.delete(key)
    if lake.stat(key) is not None:
        raise Trouble("an object that was deleted is still there", "Look at the store's own log.")
    return "an object was written, read and deleted"


def strangers_are_refused(settings: Settings) -> str:
    """Ask for the raw bucket's listing without any key."""
    if not _is_s3(settings):
        return "a folder is as open as its mode"
    bucket = f"{settings.lake_url.removeprefix('s3://').strip('/')}-raw"
    answer = httpx.get(f"{settings.lake_endpoint.rstrip('/')}/{bucket}?list-type=2", timeout=TIMEOUT_S)
    if answer.status_code < 400:
        raise Trouble(
            f"whoever reaches {settings.lake_endpoint} can list {bucket} without a key",
            "Close the bucket to anonymous users, and change every key.",
        )
    return f"no key, no listing ({answer.status_code})"


def clock_agrees(settings: Settings) -> str:
    """Compare the store's clock, by which uploads and orphans age, with this machine's."""
    if not _is_s3(settings):
        return "this machine's own"
    answer = httpx.head(settings.lake_endpoint, timeout=TIMEOUT_S)
    now = datetime.now(UTC)
    said = answer.headers.get("date")
    if said is None:
        raise Trouble("the store does not say what time it is", "Look at its clock by hand.", "warning")
    # The header counts whole seconds.
    skew = abs((now - parsedate_to_datetime(said)).total_seconds())
    if skew > MAX_SKEW_S + 1.0:
        raise Trouble(f"the lake's clock differs by {skew:.0f} s", "Set both machines' clocks by NTP.")
    return "within two seconds"


def is_copied(settings: Settings) -> str:
    """Reach the store of the second copy of raw frames."""
    copy = second_copy(settings)
    if copy is None:
        if settings.environment != "production":
            return "none is configured"
        raise Trouble(
            "there is no second copy of the raw frames",
            "Set STARLOOM_RAW_COPY_URL to a store elsewhere; `tidy` fills it.",
            "warning",
        )
    copy.ping()
    return settings.raw_copy_url


GROUP = Group(
    "lake",
    Check("answers", "Frames and stacks lie there.", answers),
    (
        Check(
            "buckets", "Versions and locks are what keeps raw frames from being lost.", buckets_keep_their_promise
        ),
        Check("write and read", "A full or read-only store parks everything.", takes_and_gives),
        Check("strangers", "Nobody without a key may read or write.", strangers_are_refused),
        Check("clock", "Signed requests are refused, and orphans age wrongly, where clocks differ.", clock_agrees),
        Check("second copy", "A store that is lost takes its frames along.", is_copied),
    ),
)
