"""How large a hub must be: a table from what a frame was measured to cost.

``python benchmarks/sizing.py``, or ``python benchmarks/sizing.py --frames 2e6 --megapixels 26 --hours 10`` for a
night of one's own. Where the numbers of `Cost` come from says docs/scale.md; the rest is division.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a frame costs. CPU seconds of a core of the machine that was measured.

    Parameters
    ----------
    pixels_s, stack_s
        A frame of 24 Mpix through the four steps with masters, and its share of a stack; both grow with pixels.
    worker_s, prefect_s, database_s, store_s
        What is around the pixels, by program, whatever the frame's size.
    run_s, api_run_s
        One run of a flow, start and end: of its own process, and of Prefect's server.
    batch
        Frames of a run.
    raw_byte_per_px, kept_byte_per_px
        Compressed raw frame; what is kept of it beside: solved copy with mask and variance.
    requests
        Requests to the object store, one stack included.
    row_kb
        A frame's rows in the archive, indexes included.
    """

    pixels_s: float = 5.3
    stack_s: float = 0.5
    worker_s: float = 0.084
    prefect_s: float = 0.03
    database_s: float = 0.03
    store_s: float = 0.02
    run_s: float = 7.0
    api_run_s: float = 0.43
    batch: int = 64
    raw_byte_per_px: float = 1.05
    kept_byte_per_px: float = 1.3
    requests: float = 16.0
    row_kb: float = 3.7


@dataclass(frozen=True)
class Night:
    """A night of a network."""

    name: str
    nodes: int
    frames: float
    megapixels: float = 24.0
    hours: float = 10.0
    nights: int = 300
    """A year."""


NIGHTS = (
    Night("a club", 10, 2e3),
    Night("a network", 500, 1e5),
    Night("a large one", 5_000, 1e6),
    Night("the internet", 50_000, 1e7),
    Night("survey scale", 500_000, 1e8),
)
#: Of a core, what may be busy on average so that a burst is no backlog.
BUSY = 0.6


def row(night: Night, cost: Cost) -> list[str]:
    """Return a row of the table."""
    seconds = 3600 * night.hours
    rate = night.frames / seconds
    size = night.megapixels / 24.0
    worker = size * (cost.pixels_s + cost.stack_s) + cost.worker_s + cost.run_s / cost.batch
    pixels = 1e6 * night.megapixels * night.frames * night.nights
    return [
        night.name,
        f"{night.nodes:,}",
        f"{night.frames:,.0f}",
        short(rate),
        short(pixels * cost.raw_byte_per_px / 1e15),
        short(pixels * (cost.raw_byte_per_px + cost.kept_byte_per_px) / 1e15),
        f"{math.ceil(rate * worker / BUSY):,}",
        f"{math.ceil(rate * (cost.prefect_s + cost.api_run_s / cost.batch) / BUSY):,}",
        f"{math.ceil(rate * cost.database_s / BUSY):,}",
        short(night.frames * night.nights * cost.row_kb / 1e9),
        f"{rate * cost.requests:,.0f}",
        f"{math.ceil(rate * cost.store_s / BUSY):,}",
    ]


def short(value: float) -> str:
    """Return a number in two digits, or without a fraction where it is large."""
    return f"{value:,.2g}" if value < 10 else f"{value:,.0f}"


HEAD = (
    "", "nodes", "frames a night", "a second", "raw PB a year", "all PB a year", "worker cores",
    "Prefect API cores", "database cores", "archive TB a year", "S3 requests a second", "S3 cores",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=float, help="frames a night")
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--hours", type=float, default=10.0)
    said = parser.parse_args()
    nights = NIGHTS
    if said.frames is not None:
        nights = (Night("yours", said.nodes, said.frames, said.megapixels, said.hours),)
    print("| " + " | ".join(HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for night in nights:
        print("| " + " | ".join(row(night, Cost())) + " |")


if __name__ == "__main__":
    main()
