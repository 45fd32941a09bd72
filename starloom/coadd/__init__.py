"""Co-addition: many frames of one field, from unlike telescopes, into one deep image per band and pointing.

Names are loaded on first use, so that ``import starloom.coadd`` stays light for the command line.
"""

from __future__ import annotations

from starloom.loading import on_first_use

_HOME = {
    "COADD_VERSION": "plan",
    "Depth": "depth",
    "DepthFrame": "depth",
    "Engine": "engine",
    "FrameReport": "product",
    "InputFrame": "inputs",
    "PlanFrame": "plan",
    "ProductInfo": "product",
    "StackOptions": "plan",
    "StackPlan": "plan",
    "StackReport": "stack",
    "WorkUnit": "units",
    "assemble_units": "units",
    "make_plan": "planning",
    "read_input": "inputs",
    "run_unit": "units",
    "stack_depth": "depth",
    "stack_files": "stack",
    "write_units": "units",
    "write_preview": "preview",
}

__all__ = [
    "COADD_VERSION",
    "Depth",
    "DepthFrame",
    "Engine",
    "FrameReport",
    "InputFrame",
    "PlanFrame",
    "ProductInfo",
    "StackOptions",
    "StackPlan",
    "StackReport",
    "WorkUnit",
    "assemble_units",
    "make_plan",
    "read_input",
    "run_unit",
    "stack_depth",
    "stack_files",
    "write_preview",
    "write_units",
]

__getattr__ = on_first_use(__name__, _HOME)
