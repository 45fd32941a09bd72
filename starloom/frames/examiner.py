"""Strangers' files are read in a child process: what it costs is bounded, and what kills it kills no run.

The checks of `starloom.frames.validate` bound what they read and allocate by themselves. The child is for what
they cannot promise: decoders and WCS code in C that a hostile file may crash or keep busy. It starts once and
takes file after file; it is given no secret (its environment is a short list of harmless variables), and what it
answers is JSON that is checked, never a pickle.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from starloom.errors import BadInput, StarloomError
from starloom.frames.answers import NormalisedHeader
from starloom.frames.opening import refuse
from starloom.frames.validate import Examined, FrameInfo

#: Of an answer; the longest header says far less.
MAX_ANSWER_BYTES = 4 << 20
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT")


class Limits(BaseModel):
    """What reading one file may take.

    Attributes
    ----------
    memory_bytes
        Largest address space of the child, itself included (about 190 MB).
    bytes_per_pixel
        Address space for each pixel that an image claims, where that is more: 16-bit pixels take 6 bytes to
        decode, doubles in one gzip tile 61.
    cpu_s, pixels_per_cpu_s
        CPU seconds of any file, and pixels for which a second is added: 73 million of 16 bits are decoded and
        hashed in one, 5 million gzipped doubles.
    wall_s
        Seconds of the clock; plenty, for a machine may be busy with other things.
    """

    model_config = ConfigDict(frozen=True)

    memory_bytes: int = 512 << 20
    bytes_per_pixel: int = 80
    cpu_s: float = 10.0
    pixels_per_cpu_s: float = 1e6
    wall_s: float = 600.0

    def memory_of(self, pixels: int) -> int:
        """Return the address space for an image, bytes."""
        return max(self.memory_bytes, (192 << 20) + self.bytes_per_pixel * pixels)

    def cpu_of(self, pixels: int) -> float:
        """Return the CPU seconds for an image."""
        return self.cpu_s + pixels / self.pixels_per_cpu_s


class _Refusal(BaseModel):
    code: str = Field(max_length=64, pattern=r"^[a-z0-9-]+$")
    message: str
    hint: str


class _Info(BaseModel):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nbytes: int = Field(ge=0)
    shape: tuple[int, int]
    dtype: str = Field(max_length=16)
    compressed: bool
    pixel_digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Said(BaseModel):
    value: Any = None
    keyword: str | None = None
    confidence: Literal["high", "medium", "low"] | None = None
    note: str = ""


class _Answer(BaseModel):
    refused: _Refusal | None = None
    exhausted: bool = False
    unexpected: str = ""
    info: _Info | None = None
    header: dict[str, _Said] = Field(default_factory=dict)
    profile: str = ""


class _Died(Exception):
    """The child gave no answer."""

    def __init__(self, fault: str, *, for_good: bool = False) -> None:
        super().__init__(fault)
        self.fault = fault
        self.for_good = for_good


class Examiner:
    """One child process, started when it is first needed and again whenever it has died.

    May be shared between threads; files are read one after the other.

    Parameters
    ----------
    limits
        What reading one file may take.
    program
        What to start instead of our own child.
    """

    def __init__(self, limits: Limits | None = None, program: Sequence[str] | None = None) -> None:
        self.limits = limits or Limits()
        self._program = program or [
            *(sys.executable, "-P", "-m", "starloom.frames.examiner_child"),
            self.limits.model_dump_json(),
        ]
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def examine(self, path: Path) -> Examined:
        """Check and identify a file from outside, and read its header.

        Raises
        ------
        BadInput
            With the codes of `starloom.frames.inspect_file`; ``hostile-file``: reading it took more memory or time
            than any frame of its size does, or killed the child twice.
        StarloomError
            ``unexpected``: an error of ours; the message says where.
        """
        with self._lock:
            try:
                answer = self._ask(path)
            except _Died as first:
                if first.for_good:
                    raise _hostile(path, first.fault) from None
                # Once may be somebody else's doing: a machine without memory, an operator's kill.
                try:
                    answer = self._ask(path)
                except _Died as second:
                    raise _hostile(path, second.fault) from None
        return self._understood(path, answer)

    def close(self) -> None:
        """End the child; it starts again if it is needed."""
        with self._lock:
            self._end()

    def _understood(self, path: Path, answer: _Answer) -> Examined:
        if answer.refused is not None:
            raise BadInput(answer.refused.message, code=answer.refused.code, hint=answer.refused.hint)
        if answer.exhausted:
            raise _hostile(path, "took more memory than any frame of its size")
        if answer.info is None:
            raise StarloomError(
                f"{path.name}: {answer.unexpected.strip()}",
                code="unexpected",
                hint="Report this with the file; it is tried again.",
                retryable=True,
            )
        info = FrameInfo(path=path, **answer.info.model_dump())
        said = {name: entry.model_dump() for name, entry in answer.header.items()}
        return Examined(info, NormalisedHeader.from_json(said, answer.profile))

    def _ask(self, path: Path) -> _Answer:
        child = self._running()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(str(path)).encode() + b"\n")
            child.stdin.flush()
            line = self._line(child, time.monotonic() + self.limits.wall_s)
            return _Answer.model_validate_json(line)
        except ValidationError:
            self._end()
            raise _Died("made the program that read it answer nonsense") from None
        except (BrokenPipeError, EOFError):
            code = self._end()
            raise _Died(_fault(code), for_good=code == -_XCPU) from None
        except BaseException:
            self._end()  # whatever it would still answer belongs to no question
            raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # Threads of a linear-algebra library would each reserve address space.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            self._program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C at a terminal is for us, who close the pipe
        )
        return self._child

    def _line(self, child: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert child.stdout is not None
        poll = select.poll()
        poll.register(child.stdout, select.POLLIN)
        said = bytearray()
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                self._end()
                raise _Died(f"could not be read to its end in {self.limits.wall_s:g} s")
            # A second at a time: Prefect ends a task that is out of time between two Python instructions.
            if not poll.poll(1000 * min(left, 1.0)):
                continue
            part = os.read(child.stdout.fileno(), 1 << 16)
            if not part:
                raise EOFError
            said += part
            if len(said) > MAX_ANSWER_BYTES:
                self._end()
                raise _Died("made the program that read it answer without end")
        return bytes(said)

    def _end(self) -> int | None:
        """Kill the child if it lives; return how it ended."""
        child, self._child = self._child, None
        if child is None:
            return None
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        try:
            # The pipe is closed a moment before the exit code is known.
            return child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


_XCPU = int(getattr(signal, "SIGXCPU", 24))


def _fault(code: int | None) -> str:
    if code == -_XCPU:
        return "took more CPU time than any frame of its size"
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return f"killed the program that read it ({how})"


def _hostile(path: Path, fault: str) -> BadInput:
    return refuse(
        path,
        fault,
        "hostile-file",
        "Send the exposure as the capture program wrote it; if it is that, tell the operator, who has the file.",
    )


@cache
def _shared() -> Examiner:
    examiner = Examiner()
    atexit.register(examiner.close)
    return examiner


def examine_apart(path: Path) -> Examined:
    """Examine a file in this process's one child; see `Examiner.examine`."""
    return _shared().examine(path)
