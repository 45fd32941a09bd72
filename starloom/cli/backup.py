"""``starloom backup | restore | reconcile``: the archive kept, brought back, and compared with the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_archive, open_hub, open_hub_to_restore
from starloom.cli.output import JsonOption, emit_json, emit_record, progress, say
from starloom.errors import Conflict

if TYPE_CHECKING:
    from starloom.dispatch.embedded import Embedded

_SHOWN = 10


def backup(
    where: Annotated[str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Where backups are kept.")],
    keep: Annotated[int, typer.Option(min=0, help="Remove all but the newest so many; 0 removes none.")] = 0,
    json: JsonOption = False,
) -> None:
    """Back the archive up while the hub goes on: a dump, and a manifest with its hash and the rows of every table.

    Example: starloom backup /backups --keep 14
    """
    from starloom.backup import take
    from starloom.cli.opening import open_settings

    with progress.status("backing up"):
        made = take(open_settings(), open_archive(), where, keep=keep)
    result = {
        "where": made.where,
        "taken_at": made.manifest.taken_at,
        "schema": made.manifest.schema_revision,
        "bytes": sum(file.bytes for file in made.manifest.files),
        "rows": sum(made.manifest.rows.values()),
        "removed": made.removed,
    }
    if json:
        emit_json({**result, "manifest": made.manifest})
        return
    say(f"{made.where}: {result['rows']} rows, {result['bytes']} bytes, schema {result['schema']}.")
    if made.removed:
        say(f"Removed: {', '.join(made.removed)}.")


def restore(
    where: Annotated[
        str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="A backup, or where they are kept.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Give up what the archive holds now.")] = False,
    json: JsonOption = False,
) -> None:
    """Load a backup (the newest of its place) into the archive, and reconcile it with the lake.

    Nothing may be using the archive: `starloom down` first. Afterwards `starloom up` takes everything up again.

    Example: starloom restore /backups
    """
    from starloom.backup import restore as load
    from starloom.dispatch.embedded import Embedded
    from starloom.recovery.reconciling import hold_back
    from starloom.recovery.reconciling import reconcile as compare
    from starloom.settings import default_home

    embedded = Embedded(default_home())
    _refuse_running(embedded)
    with progress.status("restoring") as shown, embedded.lake_alone():
        hub = open_hub_to_restore()
        hub.lake.ping()  # an archive without its lake is of no use, and the epochs are asked of it
        manifest = load(hub.settings, hub.archive, where, force=force)
        shown.update("raising the epochs past what the lake holds")
        hold_back(hub)
        shown.update("reconciling with the lake")
        report = compare(hub)
    if json:
        emit_json({"taken_at": manifest.taken_at, "rows": manifest.rows, "reconciled": vars(report)})
        return
    say(f"The archive is as it was at {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC, at the newest schema.")
    _tell(vars(report))
    say("→ `starloom up` takes up what waits.")


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare archive and lake: frames that no row speaks of, objects that are gone, stacks that were forgotten.

    Exit code 1: raw frames are missing or cannot be named.

    Example: starloom reconcile --dry-run
    """
    from starloom.recovery.reconciling import reconcile as compare

    with progress.status("comparing lake and archive"):
        report = compare(open_hub(), dry_run=dry_run)
    if json:
        emit_json(vars(report))
    elif report.clean:
        say(f"Archive and lake agree. {report.orphans} orphans, which `tidy` removes past the grace.")
    else:
        _tell(vars(report))
    if report.raw_missing or report.frames_nameless:
        raise typer.Exit(1)


def _refuse_running(embedded: Embedded) -> None:
    running = sorted(name for name, pid in embedded.pids().items() if pid and name != "lake")
    if running:
        raise Conflict(
            f"{', '.join(running)} of this home may use the archive",
            code="archive-in-use",
            hint="`starloom down` stops them.",
        )


def _tell(report: dict[str, Any]) -> None:
    """Print a report; of a long list the beginning."""
    rows = {}
    for name, value in report.items():
        if isinstance(value, list) and value:
            more = f", … {len(value) - _SHOWN} more" if len(value) > _SHOWN else ""
            rows[name] = f"{len(value)}: {', '.join(value[:_SHOWN])}{more}"
        elif isinstance(value, int) and not isinstance(value, bool) and value:
            rows[name] = str(value)
    emit_record(rows, title="Archive and lake")
