"""The child of `starloom.frames.examiner`: a file's path on every line it reads, one line of JSON for each.

Run as ``python -m starloom.frames.examiner_child LIMITS``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import sys
import time
import traceback
from dataclasses import asdict
from functools import partial
from typing import Any

from starloom.errors import BadInput
from starloom.frames.examiner import Limits
from starloom.frames.opening import Bounds
from starloom.frames.validate import examine

#: Files that may be open at once: the frame, what a gzip unpacks to, the pipes, and a few of Python's own.
OPEN_FILES = 64


def main() -> None:
    """Answer until the other end of the pipe is closed."""
    limits = Limits.model_validate_json(sys.argv[1])
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    faulthandler.enable()
    _limit("CORE", 0)
    _limit("NOFILE", OPEN_FILES)
    _limit("NPROC", 0)  # it starts nothing
    _limit("FSIZE", Bounds().max_file_bytes)
    for line in sys.stdin.buffer:
        said = _answer(json.loads(line), limits)
        answers.write(json.dumps(said).encode() + b"\n")
        answers.flush()
        if "exhausted" in said:
            sys.exit()  # what has run out of memory once is not to be trusted with the next file


def _answer(path: str, limits: Limits) -> dict[str, Any]:
    _allow(limits, 0)
    try:
        done = examine(path, foresee=partial(_allow, limits))
    except BadInput as refused:
        return {"refused": refused.as_dict()}
    except MemoryError:
        return {"exhausted": True}
    except Exception:  # noqa: BLE001 - the other side reports it
        return {"unexpected": traceback.format_exc(limit=-5)}
    info = {key: value for key, value in asdict(done.info).items() if key != "path"}
    return {"info": info, "header": done.header.as_json(), "profile": done.header.profile}


def _allow(limits: Limits, pixels: int) -> None:
    """Set what an image of so many pixels may take, counted from now."""
    _limit("AS", limits.memory_of(pixels))
    _limit("CPU", math.ceil(time.process_time() + limits.cpu_of(pixels)))


def _limit(name: str, value: int) -> None:
    try:
        import resource
    except ImportError:  # no Unix: the clock of the other side still holds
        return
    which = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(which)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # a system without this limit
        resource.setrlimit(which, (soft, hard))


if __name__ == "__main__":
    main()
