"""``starloom doctor``: is this hub as it should be?"""

from __future__ import annotations

from typing import Annotated

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, console, emit_json, progress, say
from starloom.errors import BadInput

_MARKS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "problem": "[red]problem[/red]"}


def doctor(
    only: Annotated[
        list[str] | None, typer.Option(help="machine, archive, lake or prefect; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check everything the hub rests on; say what was found, why it matters, what to do. Exit code 1: a problem.

    Example: starloom doctor --only lake
    """
    from starloom.doctor import GROUPS, examine

    if unknown := sorted(set(only or ()) - set(GROUPS)):
        raise BadInput(
            f"there is no group {', '.join(unknown)}", code="no-such-check", hint=f"There are {', '.join(GROUPS)}."
        )
    settings = open_settings()
    findings = []
    with progress.status("looking") as shown:
        for finding in examine(settings, only or ()):
            shown.update(f"{finding.group}: {finding.check}")
            findings.append(finding)
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if json:
        emit_json({"well": not problems, "findings": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            console.print(f"{_MARKS[finding.level]} {finding.group}: {finding.check}", end=": ", highlight=False)
            say(finding.found)
            if finding.level != "ok":
                say(f"        {finding.why}\n        → {finding.remedy}")
        say(f"{len(findings)} checks, {problems} problems, {warnings} warnings.")
    if problems:
        raise typer.Exit(1)
