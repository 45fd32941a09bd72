"""Real frames kept beside the code; their origin and licence stand in each folder's README.md."""

from __future__ import annotations

from pathlib import Path

from starloom.errors import BadInput

TRES1 = Path(__file__).parent / "tres1_umo"


def tres1_frames() -> list[Path]:
    """Return the fourteen light frames of TrES-1, in the order they were taken.

    Raises
    ------
    BadInput
        ``samples-missing``: the installation has no sample frames (wheels leave them out).
    """
    return _found("tres1-[0-9][0-9][0-9].fits.fz")


def tres1_darks() -> list[Path]:
    """Return the five darks of the same night and exposure, in the order they were taken.

    Raises
    ------
    BadInput
        ``samples-missing``.
    """
    return _found("tres1-[0-9][0-9][0-9]d.fits.fz")


def _found(pattern: str) -> list[Path]:
    frames = sorted(TRES1.glob(pattern))
    if not frames:
        raise BadInput(
            f"no sample frames in {TRES1}",
            code="samples-missing",
            hint="The sample frames are in the source repository only.",
        )
    return frames
