"""Quicklook: one page that shows a frame, what was found on it, and whether to believe it.

`starloom.quicklook.files` makes the page of a file, `starloom.quicklook.step` that of a frame of the hub; both
bring an `Overlay` (what is drawn over the pixels) and a `Summary` (what stands beside them) to `page`.
"""

from __future__ import annotations

from starloom.quicklook.overlay import Overlay, overlay
from starloom.quicklook.page import page
from starloom.quicklook.summary import Summary, summarise

__all__ = ["Overlay", "Summary", "overlay", "page", "summarise"]
