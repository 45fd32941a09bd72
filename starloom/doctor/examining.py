"""Examine the hub, group by group."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from starloom.doctor import archive, lake, machine, prefect
from starloom.doctor.finding import Finding
from starloom.settings import Settings

GROUPS = {group.name: group for group in (machine.GROUP, archive.GROUP, lake.GROUP, prefect.GROUP)}


def examine(settings: Settings, only: Collection[str] = ()) -> Iterator[Finding]:
    """Make every check and yield what it found, as it is found; changes nothing that stays.

    Parameters
    ----------
    only
        Names of groups; all of them where it is empty.
    """
    for name, group in GROUPS.items():
        if not only or name in only:
            yield from group.findings(settings)
