"""The three buckets of a lake: which key lies where, and what each bucket must be.

``inbox`` is written by nodes and emptied by ingest; ``raw`` keeps every version under an object lock; everything
that can be made again is in ``products``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minio.commonconfig import ENABLED, GOVERNANCE, Filter
from minio.error import S3Error
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    LifecycleConfig,
    NoncurrentVersionExpiration,
    Rule,
    Transition,
)
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.versioningconfig import VersioningConfig

from starloom.errors import StarloomError

KINDS = ("inbox", "raw", "products")
_KIND_OF = {"inbox": "inbox", "raw": "raw", "quarantine": "raw"}
#: Long past any upload that is still alive, and past the sweep's own grace.
ABORT_UPLOADS_DAYS = 7
#: Receipts are written over again and again; nobody pins a version of one.
OLD_RECEIPTS_DAYS = 7


def kind_of(key: str) -> str:
    """Return which of `KINDS` holds a key."""
    return _KIND_OF.get(key.split("/", 1)[0], "products")


def kinds_under(prefix: str) -> tuple[str, ...]:
    """Return which buckets may hold keys that start with a prefix, in the order of `KINDS`."""
    return (kind_of(prefix),) if "/" in prefix else KINDS


@dataclass(frozen=True)
class Cold:
    """When raw frames move to a cheaper storage class, and to which."""

    after_days: int
    storage_class: str


def make_bucket(client: Any, name: str, kind: str, region: str, lock_days: int, cold: Cold | None = None) -> None:
    """Create a bucket of a kind, or bring one that is there to what it must be.

    Raises
    ------
    StarloomError
        ``lake-no-lock``: a raw bucket that is there already cannot take an object lock; ``lake-no-classes``: the
        store has no such storage class.
    """
    locked = kind == "raw" and lock_days > 0
    if not client.bucket_exists(name):
        try:
            client.make_bucket(name, location=region, object_lock=locked)
        except S3Error as error:
            # Two hubs may prepare one lake at the same time.
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
    if kind != "inbox" and client.get_bucket_versioning(name).status != ENABLED:
        client.set_bucket_versioning(name, VersioningConfig(ENABLED))
    if locked:
        _lock(client, name, lock_days)
    try:
        client.set_bucket_lifecycle(name, _lifecycle(kind, cold))
    except S3Error as error:
        if cold is None or error.code not in {"NotImplemented", "InvalidStorageClass", "MalformedXML"}:
            raise
        raise StarloomError(
            f"bucket {name}: this store moves nothing to {cold.storage_class}: {error.message}",
            code="lake-no-classes",
            hint="Set STARLOOM_LAKE_COLD_AFTER_DAYS=0, or STARLOOM_LAKE_COLD_CLASS to a class that it has.",
        ) from error


def shortcomings(client: Any, name: str, kind: str, lock_days: int) -> list[str]:
    """Return what a bucket lacks of what `make_bucket` gives it, a sentence each."""
    if not client.bucket_exists(name):
        return [f"bucket {name} is not there"]
    found = []
    if kind != "inbox" and client.get_bucket_versioning(name).status != ENABLED:
        found.append(f"{name} keeps no versions")
    if kind == "raw" and lock_days > 0:
        held = _locked_days(client, name)
        if held is None:
            found.append(f"{name} has no object lock")
        elif held < lock_days:
            found.append(f"{name} is locked for {held} days, not {lock_days}")
    rules = client.get_bucket_lifecycle(name)
    if rules is None or not any(rule.abort_incomplete_multipart_upload for rule in rules.rules):
        found.append(f"unfinished uploads to {name} never expire")
    return found


def _locked_days(client: Any, name: str) -> int | None:
    """Return the default retention of a bucket, days; None where it has none."""
    try:
        current = client.get_object_lock_config(name)
    except S3Error as error:
        if error.code not in {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}:
            raise
        return None
    if not current.duration:
        return None
    return int(current.duration) * (1 if str(current.duration_unit) == str(DAYS) else 365)


def _lock(client: Any, name: str, days: int) -> None:
    """Set the default retention. GOVERNANCE: an operator with the right can still obey a court, by saying so."""
    try:
        current = client.get_object_lock_config(name)
        if (current.mode, current.duration, str(current.duration_unit)) == (GOVERNANCE, days, str(DAYS)):
            return
    except S3Error as error:
        if error.code != "ObjectLockConfigurationNotFoundError":
            raise
    try:
        client.set_object_lock_config(name, ObjectLockConfig(GOVERNANCE, days, DAYS))
    except S3Error as error:
        raise StarloomError(
            f"bucket {name} takes no object lock: {error.message}",
            code="lake-no-lock",
            hint="It was created without one: create it anew, or set STARLOOM_LAKE_RAW_LOCK_DAYS=0.",
        ) from error


def _lifecycle(kind: str, cold: Cold | None) -> Any:
    rules = [
        Rule(
            ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id="unfinished-uploads",
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
                days_after_initiation=ABORT_UPLOADS_DAYS
            ),
        )
    ]
    if kind == "products":
        rules.append(
            Rule(
                ENABLED,
                rule_filter=Filter(prefix="receipts/"),
                rule_id="old-receipts",
                noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=OLD_RECEIPTS_DAYS),
            )
        )
    if kind == "raw" and cold is not None:
        rules.append(
            Rule(
                ENABLED,
                rule_filter=Filter(prefix="raw/"),
                rule_id="cold",
                transition=Transition(days=cold.after_days, storage_class=cold.storage_class),
            )
        )
    return LifecycleConfig(rules)
