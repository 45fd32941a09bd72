"""Frames as they arrive: name, validation, pixels, lossless compression, header normalisation."""

from starloom.frames.answers import Entry, NormalisedHeader
from starloom.frames.examiner import Examiner, Limits, examine_apart
from starloom.frames.header import describe_file, header_table
from starloom.frames.name import BadName, FrameName, format_name, parse_name
from starloom.frames.normalising import normalise
from starloom.frames.opening import Bounds
from starloom.frames.packing import Compression, compress
from starloom.frames.pixels import pixel_digest, read_frame, read_header
from starloom.frames.validate import Examined, FrameInfo, examine, inspect_file, sha256_of

__all__ = [
    "BadName",
    "Bounds",
    "Compression",
    "Entry",
    "Examined",
    "Examiner",
    "FrameInfo",
    "FrameName",
    "Limits",
    "NormalisedHeader",
    "compress",
    "describe_file",
    "examine",
    "examine_apart",
    "format_name",
    "header_table",
    "inspect_file",
    "normalise",
    "parse_name",
    "pixel_digest",
    "read_frame",
    "read_header",
    "sha256_of",
]
