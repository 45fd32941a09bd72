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
    frames = sorted(TRES1.glob("tres1-*.fits.fz"))
    if not frames:
        raise BadInput(
            f"no sample frames in {TRES1}",
            code="samples-missing",
            hint="The sample frames are in the source repository only.",
        )
    return frames
