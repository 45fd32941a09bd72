"""What a node may do in the lake."""

from __future__ import annotations

import re
from typing import Any

from starloom.errors import BadInput

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}", re.ASCII)


def node_policy(node: str, prefix: str) -> dict[str, Any]:
    """Return what a node may do, as an S3 policy: write and resume under its inbox, read its receipts.

    No reading, listing or deleting of objects, its own included; unfinished uploads are listed only under its
    own inbox, which is what resuming needs.
    """
    inbox = f"inbox/{node}/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
                "Resource": [f"arn:aws:s3:::{prefix}-inbox/{inbox}"],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucketMultipartUploads"],
                "Resource": [f"arn:aws:s3:::{prefix}-inbox"],
                "Condition": {"StringLike": {"s3:prefix": [inbox]}},
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{prefix}-products/receipts/{node}/*"],
            },
        ],
    }


def user_of(node: str) -> str:
    """Return the name of a node's user and policy.

    Raises
    ------
    BadInput
        ``bad-node``: the id could widen a policy, or stands in no file name.
    """
    # A `*` in a node's id would be a wildcard in its policy, a space or newline another command of the shell.
    if not _NODE.fullmatch(node) or ".." in node:
        raise BadInput(
            f"node id {node!r}: letters, digits, dots and dashes only, at most 64",
            code="bad-node",
            hint="Use the TelID of the node's file names.",
        )
    return f"node-{node}"
