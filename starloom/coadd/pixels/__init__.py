"""The co-add's way to pixels: any span of any kind of FITS frame, at the cost of its pixels."""

from starloom.coadd.pixels.source import FrameSource, open_source

__all__ = ["FrameSource", "open_source"]
