"""Series of a camera whose every fault is known, as stacks, and masters of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from numpy.typing import NDArray

from starloom.calibration.calibrated_file import Planes
from starloom.calibration.combining import FrameStack
from starloom.calibration.masters import MasterFrame
from starloom.calibration.sensor import sensor_pixels

Stacker = Callable[..., FrameStack]


@pytest.fixture
def stacked(tmp_path: Path) -> Iterator[Stacker]:
    """Put frames into a `FrameStack`, each with the same header."""
    with ExitStack() as open_stacks:
        count = 0

        def stack(frames: Sequence[NDArray[Any]], header: fits.Header | None = None) -> FrameStack:
            nonlocal count
            folder = tmp_path / f"stack{count}"
            folder.mkdir()
            count += 1
            made = open_stacks.enter_context(FrameStack(folder))
            for frame in frames:
                made.add(sensor_pixels(frame, header or fits.Header()))
            return made

        yield stack


def planes(master: MasterFrame) -> Planes:
    """A master as it is read from its file."""
    return Planes(master.data, fits.Header(), master.mask, master.variance)
