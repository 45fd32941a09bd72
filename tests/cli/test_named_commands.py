"""Commands that hints and pages name: each is there, for whoever reads of it types it."""

from __future__ import annotations

import re

import typer

from starloom.cli.app import app
from starloom.dispatch.services import checkout

_NAMED = re.compile(r"`starloom ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")


def test_every_command_that_a_hint_or_a_page_names_is_there() -> None:
    known = getattr(typer.main.get_command(app), "commands", {})
    root, unknown = checkout(), set()
    places = ("starloom/**/*.py", "flows/*.py", "tasks/*.py", "docs/*.md", "README.md")
    for path in (path for place in places for path in root.glob(place)):
        for command, part in _NAMED.findall(path.read_text(encoding="utf-8")):
            parts = getattr(known.get(command), "commands", None)
            if command not in known or (parts is not None and part and part not in parts):
                unknown.add(f"{path.relative_to(root)}: starloom {command} {part}".rstrip())
    assert unknown == set()
