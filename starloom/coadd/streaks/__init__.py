"""Trails of satellites and aircraft: found in the frames before they are stacked, described by segments.

Each frame is compared with the median of the others (`significance`), lines are sought in the coarse image of what
it has too much (`radon`, `lines`), and measured on the frame's own pixels (`profile`); `find` does it for a plan.
"""

from starloom.coadd.streaks.find import find_streaks

__all__ = ["find_streaks"]
