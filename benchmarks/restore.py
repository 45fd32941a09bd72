"""How long a backup, a restore and a reconciliation take, by the number of frames in the archive.

``python benchmarks/restore.py --frames 100000 [--archive postgresql+psycopg://…] [--objects 10000]``

Every frame has a solution, a photometry and a raw key; ``--objects`` of them lie in a folder lake (a byte each),
and the archive knows of one in a hundred of these nothing. A frame that comes back costs its processing on top.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import insert

from starloom import backup
from starloom.archive import frames as rows
from starloom.archive.models import Frame, Mission, Photometry, Solution
from starloom.frames.step import RAW_NAME
from starloom.hub import Hub
from starloom.lake import keys
from starloom.recovery.epochs import fence, in_the_lake
from starloom.recovery.reconciling import reconcile
from starloom.settings import Settings

NODES = 100
PAGE = 5000
START = datetime(2026, 1, 1, tzinfo=UTC)


def frame_of(number: int) -> dict[str, Any]:
    node, start = f"T{number % NODES}", START + timedelta(seconds=30 * number)
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "id": sha256[:32], "name": f"ObsReq-{number // 50}_TelID-{node}_{start:%Y%m%dT%H%M%S}.fits.fz",
        "node_id": node, "obs_req": str(number // 50), "mission_id": str(number // 50), "start_utc": start,
        "raw_key": keys.raw(node, start, sha256, compressed=True), "raw_sha256": sha256, "pixel_digest": sha256,
        "ready_at": start, "header": {name: {"value": number, "card": name} for name in "abcdefghij"},
        **dict.fromkeys(("ingest", "calibrate", "solve", "measure"), "ok"),
    }  # fmt: skip


def fill(hub: Hub, count: int, objects: int) -> None:
    """Write missions, frames, solutions and photometry, and the raw objects of the first frames."""
    for first in range(0, count, PAGE):
        some = [frame_of(number) for number in range(first, min(first + PAGE, count))]
        missions = sorted({frame["obs_req"] for frame in some})
        known = [f for i, f in enumerate(some) if first + i >= objects or (first + i) % 100]
        with hub.archive.transaction() as session:
            connection = session.connection()
            connection.execute(
                insert(Mission), [{"id": m, "parameters": {}} for m in missions if int(m) * 50 >= first]
            )
            connection.execute(insert(Frame), known)
            connection.execute(insert(Solution), [solution_of(first + i, f["id"]) for i, f in enumerate(known)])
            connection.execute(
                insert(Photometry), [photometry_of(first + i, f["id"]) for i, f in enumerate(known)]
            )
        for number, frame in enumerate(some, first):
            if number < objects:
                hub.lake.put_bytes(b"x", frame["raw_key"], metadata={RAW_NAME: frame["name"]})


def solution_of(number: int, frame_id: str) -> dict[str, Any]:
    said = dict.fromkeys(("ra_deg", "dec_deg", "scale_arcsec", "rotation_deg", "rms_arcsec", "rms_px"), 1.0)
    wcs = {f"A_{i}_{j}": 1e-5 for i in range(4) for j in range(4)}
    footprint = [[1.0, 1.0]] * 4
    names = {"solver": "x", "catalog": "x", "code_version": "x", "parity": 1, "matches": 50, "order": 3}
    return {"id": number + 1, "frame_id": frame_id, "wcs": wcs, "footprint": footprint, **said, **names}


def photometry_of(number: int, frame_id: str) -> dict[str, Any]:
    said = dict.fromkeys(("fwhm_px", "fwhm_arcsec", "sky_adu", "sky_sigma_adu"), 1.0)
    return {"id": number + 1, "frame_id": frame_id, "solution_id": number + 1, **said}


def timed(what: str, act: Callable[[], Any], times: dict[str, float]) -> Any:
    began = time.monotonic()
    result = act()
    times[what] = round(time.monotonic() - began, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--archive", default="", help="URL of an empty database; SQLite without one")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="starloom-restore-") as folder:
        home = Path(folder)
        hub = Hub.open(Settings(home=home, archive_url=SecretStr(said.archive)))
        hub.archive.migrate()
        hub.lake.prepare()
        fill(hub, said.frames, said.objects)
        times: dict[str, float] = {}
        place = str(home / "backups")
        kept = timed("backup", lambda: backup.take(hub.settings, hub.archive, place), times)
        timed("load", lambda: backup.restore(hub.settings, hub.archive, place, force=True), times)
        timed("fence", lambda: fence(hub.archive, in_the_lake(hub.lake), every=True), times)
        report = timed("reconcile", lambda: reconcile(hub), times)
        with hub.archive.session() as session:
            found = len(rows.due(session, 10**6))
        size = sum(file.bytes for file in kept.manifest.files)
        print(json.dumps({"frames": said.frames, "dump_mb": size // 10**6, "found_again": found, **times}))
        assert len(report.frames_registered) == found
        hub.archive.dispose()


if __name__ == "__main__":
    main()
