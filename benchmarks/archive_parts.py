"""What the archive's questions would cost if `frame` were parted by time.

From the repository's root, on an archive that ``python -m benchmarks.archive_scale fill --frames 1000000`` made::

    python -m benchmarks.archive_parts --frames 1000000 --days 7

A schema of its own gets a copy of `frame`, a partition for every ``--days``, with the same indexes; a search path
puts it before the real one, and the hub's code asks both. Indexes that are unique are not so there: PostgreSQL
wants the time in every unique constraint of a parted table, and a question that needs such a constraint fails.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.exc import DBAPIError

from benchmarks.archive_asks import ASKS, keys
from benchmarks.archive_scale import Server, measure, vacuum
from starloom.archive import Archive

SCHEMA = "parted"


def part(dsn: str, days: float) -> int:
    """Copy `frame` into a parted table; return how many parts it has."""
    with psycopg.connect(dsn) as connection:
        run = connection.execute
        run(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        run(f"CREATE SCHEMA {SCHEMA}")
        run(f"CREATE TABLE {SCHEMA}.frame (LIKE public.frame INCLUDING DEFAULTS) PARTITION BY RANGE (received_at)")
        bounds: tuple[datetime, datetime] | None
        bounds = run("SELECT min(received_at), max(received_at) FROM public.frame").fetchone()
        assert bounds is not None
        count, begin = 0, bounds[0]
        while begin <= bounds[1]:
            end = begin + timedelta(days=days)
            values = f"FROM ('{begin.isoformat()}') TO ('{end.isoformat()}')"
            run(f"CREATE TABLE {SCHEMA}.frame_{count} PARTITION OF {SCHEMA}.frame FOR VALUES {values}")
            count, begin = count + 1, end
        run(f"INSERT INTO {SCHEMA}.frame SELECT * FROM public.frame")
        indexes = run(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'frame'"
        ).fetchall()
        for (definition,) in indexes:
            run(definition.replace("UNIQUE ", "", 1).replace("ON public.frame", f"ON {SCHEMA}.frame", 1))
    return count


def asked(url: str, count: int) -> dict[str, dict[str, Any] | str]:
    """Return what each question costs, or why it cannot be asked."""
    archive = Archive(url)
    chosen = keys(archive, count)
    found: dict[str, dict[str, Any] | str] = {}
    for name in ASKS:
        try:
            found[name] = measure(archive, name, chosen)
        except DBAPIError as refused:
            found[name] = str(refused.orig).splitlines()[0]
        except AssertionError:
            found[name] = "answers otherwise"
    archive.dispose()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("/tmp/scale"))
    parser.add_argument("--frames", type=int, default=1_000_000, help="which of the archives")
    parser.add_argument("--days", type=float, default=7.0, help="of a part")
    parser.add_argument("--keys", type=int, default=40)
    said = parser.parse_args()
    server = Server(said.home)
    server.start()
    database = f"frames_{said.frames}"
    parts = part(server.dsn(database), said.days)
    vacuum(server, said.frames)
    whole = asked(server.url(database), said.keys)
    parted = asked(f"{server.url(database)}?options=-csearch_path%3D{SCHEMA},public", said.keys)
    with psycopg.connect(server.dsn(database)) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    print(f"| question | whole: CPU ms, pages | {parts} parts: CPU ms, pages | pages, ratio |\n|---|---|---|---|")
    for name, one in whole.items():
        other = parted[name]
        if isinstance(one, str) or isinstance(other, str):
            print(f"| {name} | | {other} | |")
            continue
        cells = [f"{cost['cpu_p50_ms']:.1f}, {cost['pages']:.0f}" for cost in (one, other)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {other['pages'] / one['pages']:.1f} |")


if __name__ == "__main__":
    main()
