"""What the archive's questions cost as it grows to ten million frames, on PostgreSQL.

From the repository's root::

    python -m benchmarks.archive_scale fill --frames 1000000
    python -m benchmarks.archive_scale fill --frames 10000000
    python -m benchmarks.archive_scale ask --keys 200
    python -m benchmarks.archive_scale figures
    python -m benchmarks.archive_scale queries > benchmarks/queries.sql
    python -m benchmarks.archive_scale stop

The server lives in ``--home`` and stays up until `stop`. Each size has a database of its own; both have the same
number of frames a day, so that the smaller is the larger one when it was younger. `ask` writes ``ask.json`` into
the home and prints a table: the statements' time in the database and the pages that they touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.archive_asks import ASKS, Key, Statement, ask, keys, normalised
from benchmarks.archive_rows import fill
from starloom.archive import Archive
from tests.chaos.programs import free_port, postgres_program, postgres_user

#: Keys whose statements are run once more under EXPLAIN, for the pages that they touch.
EXPLAINED = 10
#: Keys that are asked for before the clock runs.
WARM = 5
HEAD = """\
-- What flows, relay, sweep, tidy, status and the command line ask of the archive, as PostgreSQL gets it.
-- Values are `?`. Written by `python -m benchmarks.archive_scale queries` while the code ran; what is called under
-- each name says `benchmarks/archive_asks.py`, and `tests/archive/test_queries.py` holds all to the code.
"""


class Server:
    """A PostgreSQL of one home, started on demand."""

    def __init__(self, home: Path) -> None:
        self.data = home / "postgres"
        self._port = home / "port"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{int(self._port.read_text())}/{database}"

    def dsn(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "")

    def _control(self, *words: str) -> None:
        user = {"user": postgres_user()} if os.geteuid() == 0 else {}
        command = [postgres_program("pg_ctl"), "-D", str(self.data), "-w", "-t", "300", *words]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd="/", **user)

    def start(self) -> None:
        user = {"user": postgres_user()} if os.geteuid() == 0 else {}
        if not self.data.exists():
            self.data.mkdir(parents=True, mode=0o700)
            if user:
                shutil.chown(self.data, user=postgres_user())
            command = [
                postgres_program("initdb"),
                "-D",
                str(self.data),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
            self._port.write_text(str(free_port()))
        if (self.data / "postmaster.pid").exists():
            return
        # Buffers of its own; nothing here must survive a power cut.
        options = (
            f"-p {int(self._port.read_text())} -k {self.data} -c listen_addresses=127.0.0.1 -c shared_buffers=2GB "
            "-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c wal_level=minimal "
            "-c max_wal_senders=0 -c max_wal_size=4GB -c effective_cache_size=8GB -c random_page_cost=1.1 "
            "-c jit=off"
        )
        self._control("-l", str(self.data / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._control("-m", "fast", "stop")


def sizes(server: Server) -> list[int]:
    """Return the numbers of frames for which there is a database."""
    with psycopg.connect(server.dsn("postgres")) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'frames_%'").fetchall()
    return sorted(int(name.removeprefix("frames_")) for (name,) in found)


def make(server: Server, frames: int) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        for name in ("in_the_making", f"frames_{frames}"):
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute("CREATE DATABASE in_the_making")
        began = time.monotonic()
        fill(server.url("in_the_making"), frames)
        connection.execute(f"ALTER DATABASE in_the_making RENAME TO frames_{frames}")
    print(f"{frames} frames in {time.monotonic() - began:.0f} s")


def measure(archive: Archive, name: str, chosen: list[Key]) -> dict[str, Any]:
    """Return milliseconds in the database over the keys, and 8-kB pages touched, of one ask.

    A key is asked for twice: ``first_p95_ms`` is of the first time, when its pages may still be on the disk,
    ``p50_ms`` and ``p95_ms`` of the second. ``cpu_p50_ms`` and ``cpu_p95_ms`` are what the database's process took
    of a core the second time: what holds on a machine that others keep busy.
    """
    with archive.engine.connect() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    for key in chosen[:WARM]:
        ask(archive, name, key)  # statements prepared, catalogue read
    first, warm, cpu, statements = [], [], [], 0
    for key in chosen:
        for times in (first, warm):
            before = on_cpu_ms(backend)
            heard = ask(archive, name, key)
            took = on_cpu_ms(backend) - before
            times.append(1e3 * sum(said.seconds for said in heard))
            statements = len(heard)
        cpu.append(took)
    pages = [buffers(archive, ask(archive, name, key)) for key in chosen[:EXPLAINED]]
    return {
        "statements": statements,
        "p50_ms": float(np.percentile(warm, 50)),
        "p95_ms": float(np.percentile(warm, 95)),
        "first_p95_ms": float(np.percentile(first, 95)),
        "cpu_p50_ms": float(np.percentile(cpu, 50)),
        "cpu_p95_ms": float(np.percentile(cpu, 95)),
        "pages": float(np.median(pages)),
    }


def on_cpu_ms(process: int) -> float:
    """Return the milliseconds that a process has had of a core."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e6


def buffers(archive: Archive, heard: list[Statement]) -> int:
    """Return the pages that statements touch, by EXPLAIN in one transaction that is rolled back."""
    total = 0
    with archive.engine.connect() as connection:
        for said in heard:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {said.sql}", said.values)
            root = plan.scalar_one()[0]["Plan"]
            total += root["Shared Hit Blocks"] + root["Shared Read Blocks"]
        connection.rollback()
    return total


def vacuum(server: Server, frames: int) -> None:
    """Take out dead rows: an earlier `ask` leaves more of them in the work indexes than there is work."""
    with psycopg.connect(server.dsn(f"frames_{frames}"), autocommit=True) as connection:
        connection.execute("VACUUM (INDEX_CLEANUP ON, ANALYZE)")


def compare(server: Server, count: int, out: Path, only: list[str]) -> None:
    found: dict[str, dict[int, Any]] = {
        name: {} for name in ASKS if not only or any(part in name for part in only)
    }
    for frames in sizes(server):
        vacuum(server, frames)
        archive = Archive(server.url(f"frames_{frames}"))
        chosen = keys(archive, count)
        for name in found:
            found[name][frames] = measure(archive, name, chosen)
            print(f"{frames:>9} {name}: {found[name][frames]}", file=sys.stderr)
        archive.dispose()
        out.write_text(json.dumps(found, indent=1))
    print_table(found)


def print_table(found: dict[str, dict[int, Any]]) -> None:
    numbers = sorted({frames for row in found.values() for frames in row})
    print(
        "| ask | statements |"
        + "".join(f" warm p50, p95; first p95; CPU p50, p95 ms at {n:.0e} | pages |" for n in numbers)
        + " growth of pages |"
    )
    print("|---" * (3 + 2 * len(numbers)) + "|")
    for name, row in found.items():
        form = "{p50_ms:.1f}, {p95_ms:.1f}; {first_p95_ms:.1f}; {cpu_p50_ms:.1f}, {cpu_p95_ms:.1f} | {pages:.0f}"
        cells = [form.format(**row[n]) for n in numbers if n in row]
        last, first = row[numbers[-1]], row[numbers[0]]
        growth = last["pages"] / first["pages"]
        print(f"| {name} | {last['statements']} | " + " | ".join(cells) + f" | {growth:.2f} |")


def figures(server: Server) -> None:
    """Print what each table and its indexes weigh."""
    query = """
        SELECT relname, reltuples::bigint, pg_table_size(oid) / 1e6, pg_indexes_size(oid) / 1e6
        FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 3 DESC LIMIT 12
    """
    for frames in sizes(server):
        print(f"\n{frames} frames\n\n| table | rows | MB | indexes MB |\n|---|---|---|---|")
        with psycopg.connect(server.dsn(f"frames_{frames}")) as connection:
            for name, rows, table, indexes in connection.execute(query).fetchall():
                print(f"| {name} | {rows} | {table:.0f} | {indexes:.0f} |")
            (total,) = connection.execute("SELECT pg_database_size(current_database()) / 1e9").fetchone() or (0,)
        print(f"\nall: {total:.1f} GB")


def named_queries(archive: Archive) -> dict[str, list[str]]:
    """Return the statements of every ask, each once, over a few keys."""
    chosen = keys(archive, 3)
    return {
        name: list(dict.fromkeys(normalised(said.sql) for key in chosen for said in ask(archive, name, key)))
        for name in ASKS
    }


def as_text(queries: dict[str, list[str]]) -> str:
    """Return named queries as `queries.sql` holds them."""
    parts = [f"-- {name}\n" + "".join(f"{sql};\n" for sql in statements) for name, statements in queries.items()]
    return HEAD + "\n" + "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["fill", "ask", "figures", "queries", "stop"])
    parser.add_argument("--home", type=Path, default=Path("/tmp/scale"))
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--only", action="append", default=[], help="asks whose names contain this")
    said = parser.parse_args()
    server = Server(said.home)
    if said.what == "stop":
        server.stop()
        return
    server.start()
    if said.what == "fill":
        make(server, said.frames)
    elif said.what == "ask":
        compare(server, said.keys, said.home / "ask.json", said.only)
    elif said.what == "figures":
        figures(server)
    else:
        archive = Archive(server.url(f"frames_{sizes(server)[0]}"))
        print(as_text(named_queries(archive)), end="")


if __name__ == "__main__":
    main()
