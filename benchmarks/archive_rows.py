"""An archive of any size on PostgreSQL, made by the database itself; see `archive_rows.sql` for what is in it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from starloom.archive import Archive
from starloom.archive.positions import cells_of

FIELDS = 5000
HALF_FIELD_DEG = 0.2
#: Of a network that has sent ten million frames in five years.
PER_DAY = 5500
SCRIPT = Path(__file__).with_name("archive_rows.sql")

_FRAMES = """
CREATE UNLOGGED TABLE made_frame AS
SELECT k, id, node, instrument, at, light, unsolved, disposition, sha, 'M' || mission AS m,
    mission % {fields} AS field,
    light AND NOT unsolved AND disposition = 'active' AND k >= 40 AS done,
    'raw/' || node || '/' || to_char(at, 'YYYYMMDD') || '/' || sha || '.fits.fz' AS raw
FROM (
    SELECT k, md5('frame' || k) AS id, md5('sha' || k) || md5('256' || k) AS sha, 1 + b % 500 AS instrument,
        'T' || lpad((1 + b % 500)::text, 3, '0') AS node, now() - k * interval '1 day' / {per_day} AS at,
        k / 2000 * 20 + c % 20 AS mission, a % 100 >= 8 AS light, a % 100 >= 8 AND a / 100 % 100 < 2 AS unsolved,
        CASE WHEN k < 40 THEN 'active' WHEN a / 10000 % 100 < 2 THEN 'duplicate'
             WHEN a / 10000 % 100 = 2 THEN 'quarantined' ELSE 'active' END AS disposition
    FROM (
        SELECT k, hashint8(k) & 2147483647 AS a, hashint8(k + 1000000000000) & 2147483647 AS b,
            hashint8(k + 2000000000000) & 2147483647 AS c
        FROM generate_series(0, {frames} - 1) k
    ) drawn
) made
"""
#: Foreign keys come back without a look at rows that are known to be right.
_DEFINED = """
SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid), c.contype::text
FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
WHERE n.nspname = 'public' AND c.contype IN ('f', 'p', 'u') AND c.conrelid <> 'alembic_version'::regclass
ORDER BY c.contype <> 'f', c.contype
"""
_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""
_SEQUENCES = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = 'public' AND column_default LIKE 'nextval%'
"""


def fill(url: str, frames: int, *, per_day: float = PER_DAY, workers: int = 2) -> None:
    """Fill an empty database with rows of so many frames, its schema at the newest.

    Parameters
    ----------
    url
        SQLAlchemy URL of PostgreSQL.
    frames
        A multiple of 2000.
    per_day
        Frames a day: the number sets how far back they reach.
    workers
        Statements and indexes made at once.
    """
    if frames % 2000:
        raise ValueError("a multiple of 2000 frames, please")
    archive = Archive(url)
    archive.migrate()
    archive.dispose()
    dsn = url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_FRAMES.format(fields=FIELDS, per_day=per_day, frames=frames))
        _targets(connection)
        defined = connection.execute(_DEFINED).fetchall()
        indexes = connection.execute(_INDEXES).fetchall()
        for table, name, _, _ in defined:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
    script = SCRIPT.read_text().replace(":frames", str(frames)).replace(":per_day", str(per_day))
    for i, part in enumerate(script.split("\n----\n")):
        # Without keys and indexes the first part's rows are found by a look at all of them: they are few.
        _run(dsn, [text for text in part.split(";;") if text.strip()], 1 if i == 0 else workers)
    keys = [row for row in defined if row[3] != "f"]
    _run(dsn, [f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}" for table, name, text, _ in keys], workers)
    _run(dsn, [text for _, text in indexes], workers)
    foreign = [row for row in defined if row[3] == "f"]
    _run(
        dsn, [f"ALTER TABLE {table} ADD CONSTRAINT {name} {text} NOT VALID" for table, name, text, _ in foreign], 1
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table, column in connection.execute(_SEQUENCES).fetchall():
            connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), "
                f"(SELECT coalesce(max({column}), 0) + 1 FROM {table}))"
            )
        connection.execute("DROP TABLE made_frame; DROP TABLE target")
        connection.execute("VACUUM (ANALYZE)")


def _targets(connection: psycopg.Connection[Any]) -> None:
    """Write down the fields: where they lie, a footprint, and the HEALPix cells that it touches."""
    connection.execute("CREATE TABLE target (n INT, ra FLOAT, dec FLOAT, footprint JSON, cells BIGINT[])")
    rng = np.random.default_rng(1)
    with connection.cursor().copy("COPY target FROM STDIN") as copy:
        for n in range(FIELDS):
            ra, dec = rng.uniform(0, 360), float(np.degrees(np.arcsin(rng.uniform(-0.95, 0.95))))
            half = HALF_FIELD_DEG / np.cos(np.radians(dec))
            corners = [
                [(ra + i * half) % 360, dec + j * HALF_FIELD_DEG] for i, j in ((1, -1), (-1, -1), (-1, 1), (1, 1))
            ]
            copy.write_row((n, ra, dec, json.dumps(corners), cells_of(corners)[:4]))


def _run(dsn: str, statements: list[str], workers: int) -> None:
    def execute(statement: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            # No trigger, no foreign key: the rows say themselves what these would.
            connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '1GB'")
            connection.execute(statement)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(execute, statements))
