"""The child that reads strangers' files: what kills it, keeps it busy or fills its memory costs one frame."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.errors import BadInput, StarloomError
from starloom.frames import Examiner, Limits, examine
from starloom.sky.samples import tres1_frames

Starter = Callable[..., Examiner]
#: Answers nothing that was asked: reads a path, then does what it is told on the command line.
ACTOR = "import os, sys, time\nfor line in sys.stdin:\n    {act}\n    sys.stdout.flush()"


@pytest.fixture
def start() -> Iterator[Starter]:
    made: list[Examiner] = []

    def start(act: str = "", **limits: float) -> Examiner:
        program = [sys.executable, "-I", "-S", "-c", ACTOR.format(act=act)] if act else None
        made.append(Examiner(Limits(**limits), program))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for examiner in made:
        examiner.close()


def child_of(examiner: Examiner) -> int:
    assert examiner._child is not None
    return examiner._child.pid


def refusal(examiner: Examiner, path: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        examiner.examine(path)
    return caught.value


def test_it_sees_what_this_process_would_see(start: Starter, tmp_path: Path) -> None:
    examiner = start()
    light = tres1_frames()[0]
    here, apart = examine(light), examiner.examine(light)
    assert apart.info == here.info
    assert apart.header.as_json() == here.header.as_json()
    assert (apart.header.profile, apart.header.value("start_utc")) == ("maxim@1", here.header.value("start_utc"))
    (tmp_path / "page.fits").write_bytes(b"<html>")
    refused = refusal(examiner, tmp_path / "page.fits")
    assert (refused.code, "web page" in refused.message, bool(refused.hint)) == ("not-fits", True, True)
    first = child_of(examiner)
    examiner.examine(light)
    assert child_of(examiner) == first


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
        ("print('{}x')", "nonsense"),
        ("print('[' * 100000, end='')\n    while True: print('x' * 100000, end='')", "without end"),
        ("time.sleep(60)", "0.5 s"),
    ],
)
def test_what_kills_it_twice_is_hostile(start: Starter, act: str, said: str) -> None:
    examiner = start(act, wall_s=0.5 if "sleep" in act else 60.0)
    refused = refusal(examiner, tres1_frames()[0])
    assert (refused.code, refused.retryable) == ("hostile-file", False)
    assert said in refused.message
    assert "operator" in refused.hint


def test_one_death_is_not_held_against_a_frame(start: Starter, tmp_path: Path) -> None:
    """Somebody else may have killed it: the frame is tried again in a new child."""
    once = tmp_path / "died"
    act = f"open({str(once)!r}, 'x') and os._exit(9) if not os.path.exists({str(once)!r}) else os._exit(4)"
    examiner = start(act)
    assert "exit code 4" in refusal(examiner, tres1_frames()[0]).message
    real = start()
    real.examine(tres1_frames()[0])
    os.kill(child_of(real), signal.SIGKILL)
    assert real.examine(tres1_frames()[0]).info.shape == (736, 1092)


def test_a_file_that_keeps_it_busy_is_cut_off() -> None:
    """Our own child, with a decoder that never comes to an end: a file that takes a second today takes half of it
    on next year's machine."""
    code = (
        "from starloom.frames import examiner_child as child\nreal = child.examine\n"
        "def examine(path, **options):\n    while 'endless' in path: pass\n    return real(path, **options)\n"
        "child.examine = examine\nchild.main()"
    )
    limits = Limits(cpu_s=3.0)
    examiner = Examiner(limits, [sys.executable, "-P", "-c", code, limits.model_dump_json()])
    try:
        refused = refusal(examiner, Path("endless.fits"))
        assert (refused.code, "CPU" in refused.message) == ("hostile-file", True)
        assert examiner.examine(tres1_frames()[0]).info.dtype == "uint16"
    finally:
        examiner.close()


def test_a_file_that_fills_its_memory_is_refused(start: Starter, tmp_path: Path) -> None:
    path = tmp_path / "wide.fits"
    rng = np.random.default_rng(1)
    fits.PrimaryHDU(rng.integers(0, 9999, (6000, 6000), dtype=np.int16)).writeto(path)
    examiner = start(bytes_per_pixel=0, memory_bytes=220 << 20)
    refused = refusal(examiner, path)
    assert (refused.code, "memory" in refused.message) == ("hostile-file", True)
    assert examiner.examine(tres1_frames()[0]).info.dtype == "uint16"
    assert start().examine(path).info.shape == (6000, 6000)  # a large frame gets what a large frame needs


def test_it_knows_no_secret(monkeypatch: pytest.MonkeyPatch, start: Starter) -> None:
    monkeypatch.setenv("STARLOOM_LAKE_SECRET_KEY", "hidden")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "hidden")
    examiner = start()
    examiner.examine(tres1_frames()[0])
    assert b"hidden" not in Path(f"/proc/{child_of(examiner)}/environ").read_bytes()


def test_it_starts_nothing_writes_no_core_and_opens_little(start: Starter) -> None:
    examiner = start()
    examiner.examine(tres1_frames()[0])
    limits = Path(f"/proc/{child_of(examiner)}/limits").read_text()
    soft = {line[:26].strip(): line[26:47].strip() for line in limits.splitlines()}
    assert soft["Max core file size"] == "0"
    assert soft["Max processes"] == "0"
    assert soft["Max open files"] == "64"
    assert soft["Max address space"] == str(512 << 20)


def test_an_error_of_ours_is_no_refusal(start: Starter) -> None:
    """What nobody foresaw is tried again and reported, and no frame is refused for it."""
    examiner = start('print(\'{"unexpected": "KeyError: x"}\')')
    with pytest.raises(StarloomError) as caught:
        examiner.examine(tres1_frames()[0])
    assert (caught.value.code, caught.value.retryable) == ("unexpected", True)
    assert "KeyError: x" in caught.value.message


def test_an_interrupted_question_is_not_answered_later(start: Starter) -> None:
    """The next file must not get the answer that the one before was cut off from."""

    class Interrupted(BaseException): ...

    examiner = start("time.sleep(9)")
    examiner._line = lambda *_: (_ for _ in ()).throw(Interrupted())  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        examiner.examine(tres1_frames()[0])
    assert examiner._child is None


def test_threads_take_turns(start: Starter) -> None:
    examiner = start()
    frames = tres1_frames()[:4]
    seen: dict[Path, str] = {}
    threads = [
        threading.Thread(target=lambda path=path: seen.update({path: examiner.examine(path).info.sha256}))
        for path in frames
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {path: examine(path).info.sha256 for path in frames}


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom starloom.frames import examine_apart\nfrom starloom.frames import examiner\n"
        "from starloom.sky.samples import tres1_frames\nexamine_apart(tres1_frames()[0])\n"
        "print(examiner._shared()._child.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(said.stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
