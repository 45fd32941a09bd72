"""Who may do what in the lake: nodes, workers, readers, each with a key of its own and no more than it needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starloom.errors import BadInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}", re.ASCII)
_ARN = "arn:aws:s3:::"
#: What a reader sees: what the network publishes, not what passes between a node and the hub.
READABLE = ("stacks", "packages", "solved", "calibrated", "masters", "sources", "quicklook")


@dataclass(frozen=True)
class Grant:
    """A user of the lake and what it may do.

    Attributes
    ----------
    user
        Name of the user and of its policy.
    policy
        As S3 writes policies.
    probe
        A key that it may ask for, whether or not anything lies there: the answer says that the grant is in force.
    """

    user: str
    policy: dict[str, Any]
    probe: str


def node_grant(node: str, prefix: str) -> Grant:
    """Return what a node may do: write and resume under its inbox, read its receipts.

    No reading, listing or deleting of objects, its own included; unfinished uploads are listed only under its
    own inbox, which is what resuming needs.

    Raises
    ------
    BadInput
        ``bad-node``: the id could widen a policy, or stands in no file name.
    """
    user, inbox = node_user(node), f"inbox/{node}/*"
    statements = [
        _allow([f"{prefix}-inbox/{inbox}"], "PutObject", "ListMultipartUploadParts", "AbortMultipartUpload"),
        _allow([f"{prefix}-inbox"], "ListBucketMultipartUploads", prefixes=[inbox]),
        _allow([f"{prefix}-products/receipts/{node}/*"], "GetObject"),
    ]
    return Grant(user, _policy(statements), f"receipts/{node}/credential-check.json")


def worker_grant(name: str, prefix: str) -> Grant:
    """Return what the hub's own runs may do: all that the steps do, and never delete or unlock what was observed.

    Raw frames and quarantined files can be read and added. Buckets, users and policies are out of reach:
    ``starloom up`` and ``tidy``'s abortion of stale uploads apart, nothing of the hub needs them.

    Raises
    ------
    BadInput
        ``bad-name``.
    """
    buckets = [f"{prefix}-{kind}" for kind in ("inbox", "raw", "products")]
    everything = [f"{bucket}/*" for bucket in buckets]
    statements = [
        _allow(buckets, "ListBucket", "GetBucketLocation", "ListBucketMultipartUploads"),
        _allow(
            everything,
            *("GetObject", "GetObjectVersion", "PutObject", "ListMultipartUploadParts", "AbortMultipartUpload"),
        ),
        _allow([f"{prefix}-inbox/*", f"{prefix}-products/*"], "DeleteObject"),
        # A copy gets no retention by itself (see `starloom.lake.s3`); shortening one takes a right of its own.
        _allow([f"{prefix}-raw/*"], "GetObjectRetention", "PutObjectRetention"),
    ]
    return Grant(_user("worker", name), _policy(statements), "raw/credential-check")


def reader_grant(name: str, prefix: str) -> Grant:
    """Return what a scientist or volunteer may do: read and list raw frames and what was made of them.

    Raises
    ------
    BadInput
        ``bad-name``.
    """
    products = [f"{prefix}-products/{part}/*" for part in READABLE]
    statements = [
        _allow([*products, f"{prefix}-raw/raw/*"], "GetObject", "GetObjectVersion"),
        _allow([f"{prefix}-products"], "ListBucket", prefixes=[f"{part}/*" for part in READABLE]),
        _allow([f"{prefix}-raw"], "ListBucket", prefixes=["raw/*"]),
    ]
    return Grant(_user("reader", name), _policy(statements), "stacks/credential-check")


#: Roles that are not nodes.
ROLES: dict[str, Callable[[str, str], Grant]] = {"reader": reader_grant, "worker": worker_grant}


def node_user(node: str) -> str:
    """Return the name of a node's user and policy.

    Raises
    ------
    BadInput
        ``bad-node``: the id could widen a policy, or stands in no file name.
    """
    # A `*` in a node's id would be a wildcard in its policy, a space or newline another command of the shell.
    if not _NAME.fullmatch(node) or ".." in node:
        raise BadInput(
            f"node id {node!r}: letters, digits, dots and dashes only, at most 64",
            code="bad-node",
            hint="Use the TelID of the node's file names.",
        )
    return f"node-{node}"


def _user(role: str, name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadInput(
            f"key name {name!r}: letters, digits, dots and dashes only, at most 64",
            code="bad-name",
            hint="Name it for who will hold it, e.g. `survey-team`.",
        )
    return f"{role}-{name}"


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(resources: list[str], *actions: str, prefixes: list[str] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "Effect": "Allow",
        "Action": [f"s3:{action}" for action in actions],
        "Resource": [_ARN + resource for resource in resources],
    }
    if prefixes is not None:
        said["Condition"] = {"StringLike": {"s3:prefix": prefixes}}
    return said
