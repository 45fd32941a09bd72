"""``starloom demo``: two missions from frames to published stacks, on this machine, with nothing to configure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows


def demo(
    home: Annotated[Path, typer.Option(help="Folder of the demo; an earlier demo's is replaced.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave all services running.")] = False,
    json: JsonOption = False,
) -> None:
    """Take 14 real frames and a simulated network's night through the whole hub."""
    from rich.console import Console

    from starloom.demo.story import play

    shown = Console(stderr=True)
    with shown.status("starting") as status:

        def say(text: str) -> None:
            status.update(text)
            if not shown.is_terminal and not text.startswith(("frames:", "mission ")):
                shown.print(text, highlight=False)

        outcome = play(home.absolute(), say, keep=keep)
    if json:
        emit_json(outcome.as_json())
        return
    for mission in outcome.missions:
        rows = [
            {"revision": p["revision"], "band": p["band"], **_pick(p["summary"]), "file": p["sci"]}
            for p in [*mission["earlier"], *mission["products"]]
        ]
        emit_rows(
            rows,
            ["revision", "band", "n_used", "n_frames", "exposure_s", "zero_point_err", "file"],
            as_json=False,
            title=f"Mission {mission['id']}: {mission['status']}, frames {mission['frames']}",
        )
    refused = [row for row in outcome.frames if row["state"] != "ready" or set(row["flags"]) - {"uncalibrated"}]
    emit_rows(refused, ["name", "state", "code", "flags"], as_json=False, title="Frames with something to say")
    console.print(f"report: {outcome.report}", highlight=False, soft_wrap=True)
    if keep:
        console.print(f"Prefect UI: {outcome.ui}   stop with: STARLOOM_HOME={outcome.home} starloom down")
    console.print(f"done in {outcome.elapsed_s:.0f} s")


def _pick(summary: dict[str, object] | None) -> dict[str, object]:
    wanted = ("n_used", "n_frames", "exposure_s", "zero_point_err")
    return {key: (summary or {}).get(key) for key in wanted}
