"""What receipts in the lake say of frames: the names that a lost archive knew."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from starloom.lake import Lake, ObjectMissing

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Receipt:
    """The part of a receipt that brings a frame back.

    Parameters
    ----------
    name
        The frame's file name.
    frame_id
        Its id in the archive that wrote the receipt.
    sha256
        Of the bytes that were filed; empty for a frame that was refused.
    state, code, hint
        What had become of it.
    """

    name: str
    frame_id: str
    sha256: str
    state: str
    code: str
    hint: str


def names_of(lake: Lake, node: str) -> Iterator[str]:
    """Yield the names of the node's frames that have a receipt."""
    prefix = f"receipts/{node}/"
    for item in lake.list(prefix):
        yield item.key.removeprefix(prefix).removesuffix(".json")


def read(lake: Lake, node: str, name: str) -> Receipt | None:
    """Return the receipt of a frame; None where there is none that can be read."""
    try:
        said: Any = json.loads(lake.get_bytes(f"receipts/{node}/{name}.json", max_bytes=MAX_BYTES))
        return Receipt(
            name=name,
            frame_id=str(said["frame_id"]),
            sha256=str(said.get("sha256") or ""),
            state=str(said.get("state") or ""),
            code=str(said.get("code") or ""),
            hint=str(said.get("hint") or ""),
        )
    except (ObjectMissing, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_all(lake: Lake, node: str, without: Collection[str]) -> list[Receipt]:
    """Return the node's receipts of all names but those given."""
    wanted = [name for name in names_of(lake, node) if name not in without]
    return [found for name in wanted if (found := read(lake, node, name)) is not None]
