"""Frames as they arrive: the file-name grammar."""

from starloom.frames.name import BadName, FrameName, format_name, parse_name

__all__ = ["BadName", "FrameName", "format_name", "parse_name"]
