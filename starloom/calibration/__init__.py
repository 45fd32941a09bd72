"""Calibration: colour mosaics into planes, and what a header says about the calibration a frame has had."""

from __future__ import annotations

from starloom.calibration.mosaic import (
    MosaicLayout,
    calibration_state,
    mosaic_layout,
    plane_origins,
    plane_wcs,
    resampled_cards,
    split_bayer,
    superpixels,
)

__all__ = [
    "MosaicLayout",
    "calibration_state",
    "mosaic_layout",
    "plane_origins",
    "plane_wcs",
    "resampled_cards",
    "split_bayer",
    "superpixels",
]
