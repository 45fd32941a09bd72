"""The archive's metadata as Parquet files beside PostgreSQL: what scans over all frames cost in each.

After `archive_scale fill`, with DuckDB (``pip install duckdb``; no dependency of the hub's)::

    python -m benchmarks.archive_parquet --frames 1000000

Printed: size of the rows in both, seconds of three questions about all frames, each warm, the median of five.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import psycopg
import pyarrow.csv as csv
import pyarrow.parquet as pq

from benchmarks.archive_scale import Server

#: What an analyst asks about: a row a frame, without keys and headers.
ROWS = """
    SELECT f.id, f.node_id, f.obs_req, f.band, f.start_utc, f.exposure_s, f.received_at, s.ra_deg, s.dec_deg,
        s.scale_arcsec, s.rms_px, s.matches, p.zero_point_mag, p.fwhm_arcsec, p.sky_adu, p.limiting_mag,
        p.n_sources
    FROM frame f JOIN solution s ON s.frame_id = f.id AND s.current
    JOIN photometry p ON p.frame_id = f.id AND p.current
"""
QUESTIONS = {
    "zero point and seeing by node and month": (
        "SELECT node_id, date_trunc('month', start_utc) AS m, avg(zero_point_mag), avg(fwhm_arcsec), count(*) "
        "FROM {rows} GROUP BY node_id, m"
    ),
    "exposure by square degree of the sky": (
        "SELECT floor(ra_deg), floor(dec_deg), sum(exposure_s) FROM {rows} GROUP BY 1, 2"
    ),
    "the deepest hundred frames": "SELECT id, limiting_mag FROM {rows} ORDER BY limiting_mag DESC, id LIMIT 100",
}
ROUNDS = 5


def seconds(ask: Callable[[], Any]) -> float:
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def export(connection: psycopg.Connection[Any], path: Path) -> None:
    """Write the rows as one Parquet file."""
    buffer = io.BytesIO()
    with connection.cursor().copy(f"COPY ({ROWS}) TO STDOUT (FORMAT csv, HEADER)") as copy:
        for part in copy:
            buffer.write(part)
    buffer.seek(0)
    pq.write_table(csv.read_csv(buffer), path, compression="zstd", row_group_size=100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path, default=Path("/tmp/scale"))
    said = parser.parse_args()
    server = Server(said.home)
    server.start()
    path = said.home / f"frames_{said.frames}.parquet"
    with psycopg.connect(server.dsn(f"frames_{said.frames}"), autocommit=True) as connection:
        export(connection, path)
        weighed = connection.execute(
            "SELECT sum(pg_total_relation_size(c)) FROM unnest(ARRAY['frame', 'solution', 'photometry']) c"
        ).fetchone()
        print(f"{said.frames} frames: {(weighed or (0,))[0] / 1e6:.0f} MB in PostgreSQL, all columns and indexes,")
        print(f"{path.stat().st_size / 1e6:.0f} MB as Parquet ({ROWS.count(',') + 1} columns)\n")
        lake = duckdb.connect()
        print("| question | PostgreSQL s | DuckDB on Parquet s |\n|---|---|---|")
        for name, question in QUESTIONS.items():
            here = seconds(lambda q=question: connection.execute(q.format(rows=f"({ROWS}) r")).fetchall())
            there = seconds(lambda q=question: lake.execute(q.format(rows=f"read_parquet('{path}')")).fetchall())
            print(f"| {name} | {here:.2f} | {there:.3f} |")


if __name__ == "__main__":
    main()
