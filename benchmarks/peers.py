"""Running ours and a peer in turn, and reporting ratios: this machine may be shared, seconds alone say little."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Wall-clock and CPU seconds (children included) of one run."""

    wall_s: float
    cpu_s: float


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(work: Callable[[], Any]) -> Cost:
    """Run once and return what it cost."""
    wall, cpu = time.perf_counter(), _cpu_s()
    work()
    return Cost(time.perf_counter() - wall, _cpu_s() - cpu)


def compare(
    contenders: dict[str, Callable[[], Any]], *, rounds: int, unit: int, what: str
) -> list[dict[str, Any]]:
    """Run all contenders in turn, ``rounds`` times, and return one row each; the first one is ours.

    Parameters
    ----------
    contenders
        Name to work; every call must do the whole job again.
    unit
        How many things one call handles; costs are given per thing.
    what
        Name of that thing, e.g. ``frame``.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            costs[name].append(measure(work))
    cpu = {name: statistics.median(c.cpu_s for c in found) / unit for name, found in costs.items()}
    wall = {name: statistics.median(c.wall_s for c in found) / unit for name, found in costs.items()}
    ours = next(iter(contenders))
    return [
        {
            "": name,
            f"CPU-s per {what}": round(cpu[name], 4),
            f"wall s per {what}": round(wall[name], 4),
            "CPU ratio to ours": round(cpu[name] / cpu[ours], 2),
            "rounds": rounds,
        }
        for name in contenders
    ]


def program(*command: str) -> None:
    """Run a peer's program to its end; its failure is ours to see."""
    subprocess.run(command, check=True, capture_output=True)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a Markdown table, or JSON with ``--json``."""
    if "--json" in sys.argv:
        print(json.dumps({"title": title, "rows": list(rows)}))
        return
    head = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(row[key]) for key in head)} |")
