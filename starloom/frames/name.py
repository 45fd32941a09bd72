"""The file-name grammar: the name alone attributes a frame to mission, node and start of exposure.

``ObsReq-{id}_TelID-{node}_{ISO 8601 start}.fits[.fz]`` and
``Cal-{bias|dark|flat}_TelID-{node}_{start}.fits[.fz]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from starloom.errors import BadInput

Kind = Literal["light", "bias", "dark", "flat"]

MAX_NAME_LENGTH = 200

# ASCII only: a look-alike letter from another alphabet would be another mission that nobody could tell apart.
# No underscore in an identifier, because it separates the fields; no leading dash or dot, because the name becomes
# an argument, a file and a key.
_ID = r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}"
_START = (
    r"(?P<y>\d{4})-?(?P<mo>\d{2})-?(?P<d>\d{2})"
    r"T(?P<h>\d{2}):?(?P<mi>\d{2}):?(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?(?:Z|[+-]00:?00)?"
)
_NAME = re.compile(
    rf"(?:ObsReq-(?P<mission>{_ID})|Cal-(?P<cal>bias|dark|flat))"
    rf"_TelID-(?P<node>{_ID})_{_START}\.fits(?P<fz>\.fz)?",
    re.ASCII,
)


class BadName(BadInput):
    """A file name that does not follow the grammar."""

    code = "bad-name"
    hint = (
        "Name it ObsReq-{id}_TelID-{node}_{start}.fits, e.g. ObsReq-550_TelID-T42_20251201T013000.fits, or "
        "Cal-{bias|dark|flat}_TelID-{node}_{start}.fits, e.g. Cal-dark_TelID-T42_20251201T013000.fits, "
        "with the start of the exposure in UTC."
    )


@dataclass(frozen=True)
class FrameName:
    """What a frame's name says.

    Attributes
    ----------
    kind
        ``light`` for a mission's frame, else the kind of calibration frame.
    mission
        The mission's id (``ObsReq``); None for calibration frames.
    node
        The telescope's id (``TelID``).
    start_utc
        Start of the exposure, aware, UTC, to the microsecond.
    compressed
        Whether the name ends in ``.fz``.
    """

    kind: Kind
    mission: str | None
    node: str
    start_utc: datetime
    compressed: bool


def parse_name(name: str) -> FrameName:
    """Read a file name.

    Parameters
    ----------
    name
        The bare name, without any folder. Basic and extended ISO 8601 are accepted, with up to nine digits of a
        second's fraction (kept to the microsecond, truncated) and an optional UTC designator.

    Raises
    ------
    BadName
        The name does not follow the grammar, or its date does not exist.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise BadName(f"file name of {len(name)} characters, at most {MAX_NAME_LENGTH} are allowed")
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadName(f"file name {name!r} does not follow the grammar")
    for part in (match["mission"], match["node"]):
        if part is not None and (".." in part or part.endswith(".")):
            raise BadName(f"file name {name!r}: the id {part!r} could be read as a path")
    fraction = (match["f"] or "").ljust(6, "0")[:6]
    try:
        start = datetime(
            int(match["y"]),
            int(match["mo"]),
            int(match["d"]),
            int(match["h"]),
            int(match["mi"]),
            int(match["s"]),
            int(fraction),
            tzinfo=UTC,
        )
    except ValueError as error:
        raise BadName(f"file name {name!r}: no such time: {error}") from error
    return FrameName(
        kind=match["cal"] or "light",  # type: ignore[arg-type]
        mission=match["mission"],
        node=match["node"],
        start_utc=start,
        compressed=match["fz"] is not None,
    )


def format_name(frame: FrameName) -> str:
    """Write a name in the canonical form: basic ISO 8601, a fraction only where there is one.

    Raises
    ------
    BadName
        A field cannot stand in a name (so that what is written can always be read again).
    ValueError
        The start time is naive, or not UTC.
    """
    if frame.start_utc.utcoffset() != timedelta(0):
        raise ValueError("start_utc must be aware and in UTC")
    if frame.kind not in get_args(Kind):
        raise BadName(f"unknown kind of frame {frame.kind!r}")
    start = frame.start_utc.strftime("%Y%m%dT%H%M%S").rjust(15, "0")
    if frame.start_utc.microsecond:
        start += f".{frame.start_utc.microsecond:06d}".rstrip("0")
    head = f"ObsReq-{frame.mission}" if frame.kind == "light" else f"Cal-{frame.kind}"
    name = f"{head}_TelID-{frame.node}_{start}.fits" + (".fz" if frame.compressed else "")
    if parse_name(name) != frame:
        raise BadName(f"{name!r} would not be read as it is meant")
    return name
