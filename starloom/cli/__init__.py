"""``starloom …``: the command line. Every command takes ``--json`` and ends with a meaningful exit code.

Exit codes: 0 done, 1 refused or failed for good, 2 wrong usage, 3 something did not answer (try again),
130 interrupted.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from starloom import interruption
from starloom.disk import is_full
from starloom.errors import BadInput, StarloomError


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; errors raised on purpose become one clear message and an exit code."""
    interruption.listen()  # before the imports, in which an interruption is most often dropped
    # A command imports a hundred thousand objects that stay; looking through them for garbage again and again took
    # 0.3 s of a stack of twelve frames.
    gc.set_threshold(50_000, 20, 20)
    # Work is shared out by frames and tiles. A BLAS's own threads, made when numpy is imported, would spin beside.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from starloom.cli.app import app
    from starloom.cli.opening import close_all
    from starloom.telemetry import begin

    begin()
    words = list(sys.argv[1:] if args is None else args)
    try:
        code = _run(app, words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read us has read enough (`| head`). The interpreter would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    finally:
        close_all()
    raise SystemExit(code)


def _run(app: Any, words: list[str]) -> int:
    import typer

    try:
        return int(app(words, standalone_mode=False) or 0)
    except StarloomError as error:
        return _tell(error, words)
    except typer.Abort:
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        return _tell(_explained(error), words)
    except Exception as error:
        # Typer brings a copy of click, older ones import it: the class has one name and two homes.
        if "ClickException" not in {kind.__name__ for kind in type(error).__mro__}:
            raise
        return _wrong_usage(error, words)


def _tell(error: StarloomError, words: Sequence[str]) -> int:
    """Print an error for people, and as the one JSON document where that was asked for."""
    from rich.console import Console

    from starloom.cli.output import say_error

    if "--json" in words:
        sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
    say_error(error.as_dict(), to=Console(stderr=True))
    return 3 if error.retryable else 1


def _explained(error: OSError) -> StarloomError:
    """Turn an error of the operating system, which no room below has explained, into ours."""
    what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    if is_full(error):
        return StarloomError(what, code="disk-full", hint="Free some space, then try again.", retryable=True)
    if isinstance(error, PermissionError):
        return BadInput(what, code="not-permitted", hint="Check the owner and mode of the file or folder.")
    return BadInput(what, code="os-error", hint="Check the path, and the disk it is on.")


def _wrong_usage(error: Any, words: Sequence[str]) -> int:
    """Print click's own words on a wrong option or argument."""
    if "--json" in words and type(error).__name__ != "NoArgsIsHelpError":
        hint = "`starloom COMMAND --help` shows what it takes."
        body = {"code": "wrong-usage", "message": error.format_message(), "hint": hint, "retryable": False}
        sys.stdout.write(json.dumps({"error": body}) + "\n")
    from typer.rich_utils import rich_format_error

    rich_format_error(error)
    return int(error.exit_code)
