"""``build-masters``: an instrument has sent calibration frames, or lights enough to learn its defects from."""

from __future__ import annotations

from prefect import flow

from tasks.masters import build_masters as build
from tasks.masters import calibrate_again


@flow(name="build-masters", flow_run_name="masters of instrument {instrument_id}", persist_result=False)
def build_masters(instrument_id: int) -> dict[str, int]:
    """Build the instrument's masters; frames that had none are offered again, or done again by themselves."""
    rows = build(instrument_id)
    return {
        "built": sum(row["state"] == "current" for row in rows),
        "failed": sum(row["state"] == "failed" for row in rows),
        "frames_again": calibrate_again(instrument_id),
    }
