"""``starloom …``: the command line. Every command takes ``--json`` and ends with a meaningful exit code.

Exit codes: 0 done, 1 refused or failed for good, 2 wrong usage, 3 something did not answer (try again),
130 interrupted.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console

from starloom.errors import StarloomError


def main() -> None:
    """Run the command line; errors raised on purpose become one clear message and an exit code."""
    from starloom.cli.app import app

    try:
        app()
    except StarloomError as error:
        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
        console = Console(stderr=True)
        console.print(f"[red]error[/red] \\[{error.code}] {error.message}", highlight=False)
        if error.hint:
            console.print(f"[dim]→ {error.hint}[/dim]", highlight=False)
        raise SystemExit(3 if error.retryable else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
