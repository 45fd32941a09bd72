"""What a look at the metrics costs beside a long history: ``python -m benchmarks.metrics URL`` (empty PostgreSQL).

Frames are rows alone; nine of ten of the last day are READY, the others wait, failed or were refused.
"""

from __future__ import annotations

import argparse
import statistics
import time

from sqlalchemy import text

from starloom.archive import Archive
from starloom.telemetry.metrics import archive_metrics

DAYS = 1000
#: Frames ``:first`` to ``:last``, received between ``:newest`` and ``:oldest`` days ago by 500 nodes.
FRAMES = """
INSERT INTO frame (id, name, node_id, obs_req, kind, ingest, calibrate, solve, measure, disposition,
                   disposition_code, solve_code, flags, attempts, version, raw_bytes, start_utc, received_at,
                   ready_at, next_attempt_at)
SELECT md5(i::text), 'ObsReq-' || i / 100 || '_TelID-N' || i % 500 || '.fits.fz', 'N' || i % 500, (i / 100)::text,
       'light', 'ok', 'ok', CASE i % 40 WHEN 0 THEN 'failed' WHEN 1 THEN 'pending' ELSE 'ok' END,
       CASE WHEN i % 40 < 2 THEN 'pending' ELSE 'ok' END,
       CASE i % 40 WHEN 2 THEN 'quarantined' ELSE 'active' END, CASE i % 40 WHEN 2 THEN 'truncated' END,
       CASE i % 40 WHEN 0 THEN 'too-few-stars' END, '[]', 0, 1, 20000000, at, at,
       CASE WHEN i % 40 > 2 THEN at END,
       CASE WHEN i % 40 = 1 AND :waits THEN now() END
FROM (SELECT i, now() - (:newest + (:oldest - :newest) * random()) * interval '1 day' AS at
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i) AS received
"""
MISSIONS = """
INSERT INTO mission (id, title, status, parameters, status_changed_at, created_at)
SELECT i::text, '', CASE WHEN i % 100 = 0 THEN 'OPEN' ELSE 'STACKED' END, '{}', now(), now()
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i
"""


def main() -> None:
    """Fill an empty archive step by step, and time a look after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="postgresql+psycopg://… of an empty database")
    parser.add_argument(
        "--history", type=int, nargs="+", default=[0, 1_000_000], help="frames before the last day"
    )
    parser.add_argument("--day", type=int, default=100_000, help="frames of the last day")
    parser.add_argument("--looks", type=int, default=20)
    said = parser.parse_args()
    archive = Archive(said.url)
    archive.migrate()
    fill(archive, 1, said.day, 0.0, 1.0, waits=True)
    filled = 0
    for history in said.history:
        if history > filled:
            fill(archive, said.day + filled + 1, said.day + history, 1.0, float(DAYS), waits=False)
            filled = history
        look(archive)  # warm
        pages = pages_read(archive)
        took = [look(archive) for _ in range(said.looks)]
        pages = (pages_read(archive) - pages) // said.looks
        print(
            f"history {history:>9,}  day {said.day:,}: {pages:,} pages, median {statistics.median(took):.3f} s, "
            f"longest {max(took):.3f} s",
            flush=True,
        )
    archive.dispose()


def fill(archive: Archive, first: int, last: int, newest: float, oldest: float, *, waits: bool) -> None:
    """Add frames, and a mission for each hundred of them."""
    with archive.transaction() as session:
        values = {"first": first, "last": last, "newest": newest, "oldest": oldest, "waits": waits}
        session.connection().execute(text(FRAMES), values)
        session.connection().execute(text(MISSIONS), {"first": first // 100 + 1, "last": last // 100})
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def look(archive: Archive) -> float:
    """Return the seconds of one look."""
    begun = time.perf_counter()
    list(archive_metrics(archive))
    return time.perf_counter() - begun


def pages_read(archive: Archive) -> int:
    """Return how many pages of 8 kB the database has looked at so far, in memory or on disk."""
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        time.sleep(2)  # other connections of the pool flush their counts within a second
        return int(
            connection.execute(
                text("SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()")
            ).scalar_one()
        )


if __name__ == "__main__":
    main()
