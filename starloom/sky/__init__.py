"""Synthetic telescopes and nights with known truth, and a real set of frames, for tests and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starloom.sky.field import Sky, field_sky
    from starloom.sky.network import NetworkTruth, make_network
    from starloom.sky.night import Exposure, write_frame
    from starloom.sky.render import FrameTruth, Rendered, Trail
    from starloom.sky.samples import tres1_darks, tres1_frames
    from starloom.sky.telescope import Telescope

_HOME = {
    "Exposure": "night",
    "FrameTruth": "render",
    "NetworkTruth": "network",
    "Rendered": "render",
    "Sky": "field",
    "Telescope": "telescope",
    "Trail": "render",
    "field_sky": "field",
    "make_network": "network",
    "tres1_darks": "samples",
    "tres1_frames": "samples",
    "write_frame": "night",
}

__all__ = [
    "Exposure",
    "FrameTruth",
    "NetworkTruth",
    "Rendered",
    "Sky",
    "Telescope",
    "Trail",
    "field_sky",
    "make_network",
    "tres1_darks",
    "tres1_frames",
    "write_frame",
]


def __getattr__(name: str) -> Any:
    # Deferred: these modules pull in astropy and scipy, which the command line has no time for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
