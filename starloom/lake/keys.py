"""The key of every object in the lake: written here and nowhere else.

One namespace covers all stores; the first part says what the object is (``inbox``, ``raw``, ``quarantine``,
``masters``, ``calibrated``, ``solved``, ``sources``, ``quicklook``, ``stacks``, ``receipts``, ``packages``) and,
on S3, which bucket holds it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import datetime, timedelta

from starloom.errors import BadInput

#: S3's own limit, UTF-8 bytes.
MAX_KEY_BYTES = 1024
#: What every usual file system (and SeaweedFS's filer) takes as one name, UTF-8 bytes.
MAX_PART_BYTES = 255
ANNOUNCEMENT_SUFFIX = ".announce.json"

_DATE = re.compile(r"\d{8}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OF_FRAME = re.compile(r"(?:calibrated|solved|sources|quicklook)/[^/]+/\d{8}/([^/]+)/[^/]+", re.ASCII)
_OF_STACK = re.compile(r"stacks/([^/]+)/r(\d+)/e(\d+)/.*", re.ASCII | re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._\-]+")


class BadKey(BadInput):
    """A key that no object of the lake may have."""

    code = "bad-key"
    hint = "Parts of a key are not empty, hold no control characters, slashes or `..`, and have at most 255 bytes."


def check(key: str) -> str:
    """Return the key unchanged if an object may have it.

    Raises
    ------
    BadKey
        A part is empty, ``.``, starts with two dots, or holds a control character or backslash; or the whole is
        too long.
    """
    for part in key.split("/"):
        _part(part, key)
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadKey(f"key of {len(key.encode())} bytes, at most {MAX_KEY_BYTES} are allowed: {key[:80]!r}…")
    return key


def _part(part: str, whole: str | None = None) -> str:
    """Return one part of a key unchanged; ``Cc Cf Cs Zl Zp`` also hold what turns text around or breaks lines."""
    shown = whole if whole is not None else part
    if not part or part == "." or ".." in part or "/" in part or "\\" in part:
        raise BadKey(f"key {shown!r}: the part {part!r} is empty or could be read as a path")
    if any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in part):
        raise BadKey(f"key {shown!r}: control characters")
    if len(part.encode()) > MAX_PART_BYTES:
        raise BadKey(f"key {shown[:80]!r}…: a part of more than {MAX_PART_BYTES} bytes")
    # SeaweedFS keeps the versions of `x` in the folder `x.versions` and running uploads in `.uploads`: an object
    # of such a name would be taken for the store's own.
    if part.endswith(".versions") or part == ".uploads":
        raise BadKey(f"key {shown!r}: {part!r} is a name the object store keeps for itself")
    return part


def _join(*parts: str) -> str:
    return check("/".join(_part(part) for part in parts))


def _day(start_utc: datetime) -> str:
    if start_utc.utcoffset() != timedelta(0):
        raise ValueError("start_utc must be aware and in UTC")
    return f"{start_utc:%Y%m%d}".rjust(8, "0")


def _digest(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise BadKey(f"{sha256!r} is not the lower-case hexadecimal SHA-256 of an object")
    return sha256


def slug(text: str) -> str:
    """Return a key-safe form of any text: itself where it is safe, else with a hash so that no two collide.

    ``V`` -> ``V``; ``T42:Clear`` -> ``T42-Clear-1f0c6a2b``.
    """
    safe = _UNSAFE.sub("-", text).strip("-.")[:64]
    if text and safe == text and ".." not in text and not text.endswith(".versions"):
        return text
    safe = re.sub(r"\.{2,}", ".", safe).removesuffix(".versions")
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{mark}" if safe else mark


def inbox(node: str, date_yyyymmdd: str, name: str) -> str:
    """Return where a node puts a frame on a day (of the upload, UTC)."""
    if not _DATE.fullmatch(date_yyyymmdd):
        raise BadKey(f"{date_yyyymmdd!r} is not a date of the form YYYYMMDD")
    return _join("inbox", node, date_yyyymmdd, name)


def announcement(inbox_key: str) -> str:
    """Return the key of the small object that announces an inbox object."""
    return check(inbox_key + ANNOUNCEMENT_SUFFIX)


def parse_inbox(key: str) -> tuple[str, str, str]:
    """Read an inbox key.

    Returns
    -------
    node, date, name
        As given to `inbox`; the name of an announcement keeps its suffix.

    Raises
    ------
    BadKey
        The key is not of the form ``inbox/{node}/{YYYYMMDD}/{name}``.
    """
    parts = check(key).split("/")
    if len(parts) != 4 or parts[0] != "inbox" or not _DATE.fullmatch(parts[2]):
        raise BadKey(
            f"key {key!r} is not of the form inbox/{{node}}/{{YYYYMMDD}}/{{name}}",
            hint="Send frames with `starloom submit`, or upload to inbox/{node}/{YYYYMMDD}/{file name}.",
        )
    return parts[1], parts[2], parts[3]


def raw(node: str, start_utc: datetime, sha256: str, *, compressed: bool) -> str:
    """Return the immutable place of a frame's bytes; it ends in their SHA-256."""
    name = _digest(sha256) + (".fits.fz" if compressed else ".fits")
    return _join("raw", node, _day(start_utc), name)


def quarantine(node: str, sha256: str, name: str) -> str:
    """Return where the bytes of a refused frame are kept; the name is a stranger's, so it is made safe."""
    return _join("quarantine", node, _digest(sha256), slug(name))


def calibrated(node: str, start_utc: datetime, frame_id: str, attempt_or_digest: str | int) -> str:
    """Return where one attempt's calibrated pixels lie, with mask and variance."""
    return _join("calibrated", node, _day(start_utc), frame_id, f"{attempt_or_digest}.fits.fz")


def master(node: str, instrument_id: int, kind: str, sha256: str) -> str:
    """Return where a master calibration frame lies; it ends in the SHA-256 of its bytes."""
    return _join("masters", node, f"{instrument_id:d}", kind, _digest(sha256) + ".fits.fz")


def solved(node: str, start_utc: datetime, frame_id: str, attempt_or_digest: str | int) -> str:
    """Return where one attempt's solved frame lies; another attempt has another key, so readers see no change."""
    return _join("solved", node, _day(start_utc), frame_id, f"{attempt_or_digest}.fits.fz")


def sources(node: str, start_utc: datetime, frame_id: str, attempt_or_digest: str | int) -> str:
    """Return where one attempt's source list lies."""
    return _join("sources", node, _day(start_utc), frame_id, f"{attempt_or_digest}.parquet")


def quicklook(node: str, start_utc: datetime, frame_id: str, attempt_or_digest: str | int) -> str:
    """Return where the page that shows a frame and its solution lies."""
    return _join("quicklook", node, _day(start_utc), frame_id, f"{attempt_or_digest}.png")


def frame_of(key: str) -> str | None:
    """Return the id of the frame that an object was made of; None where its key names none."""
    match = _OF_FRAME.fullmatch(key)
    return match[1] if match else None


def stack(mission: str, n: int, epoch: int, band: str, pointing: int, track: str = "sidereal") -> str:
    """Return where a product of revision ``n``, written by the holder of ``epoch``, lies."""
    return _product(mission, n, epoch, band, pointing, track, ".fits")


def preview(mission: str, n: int, epoch: int, band: str, pointing: int, track: str = "sidereal") -> str:
    """Return where a product's preview lies: beside it."""
    return _product(mission, n, epoch, band, pointing, track, ".png")


def _product(mission: str, n: int, epoch: int, band: str, pointing: int, track: str, suffix: str) -> str:
    moving = "" if track == "sidereal" else f"_{slug(track)}"
    return _join("stacks", mission, f"r{n:d}", f"e{epoch:d}", f"{slug(band)}_p{pointing:d}{moving}{suffix}")


def stack_of(key: str) -> tuple[str, int, int] | None:
    """Return mission, revision number and epoch of a product's key; None where it is none."""
    match = _OF_STACK.fullmatch(key)
    return (match[1], int(match[2]), int(match[3])) if match else None


def receipt(node: str, name: str) -> str:
    """Return where the hub's word to a node about a frame lies."""
    return _join("receipts", node, f"{name}.json")


def package(mission: str, n: int, name: str) -> str:
    """Return where a file of the data package of a mission's revision lies."""
    return _join("packages", mission, f"r{n:d}", name)
