"""The list of a frame's sources as a table, with units and the meaning of its magnitudes in the metadata."""

from __future__ import annotations

import json
from enum import IntFlag
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class SourceFlag(IntFlag):
    """What is the matter with a source; 0 is a clean one."""

    SATURATED = 1
    BLENDED = 2
    MASKED = 4
    EDGE = 8


#: Unit and meaning of every column.
COLUMNS = {
    "x": ("px", "0-based pixel centre along the row"),
    "y": ("px", "0-based pixel centre along the column"),
    "ra_deg": ("deg", "right ascension, ICRS, at the frame's epoch"),
    "dec_deg": ("deg", "declination, ICRS, at the frame's epoch"),
    "ra_err_arcsec": ("arcsec", "1-sigma error along right ascension (on the sky), of the centroid alone"),
    "dec_err_arcsec": ("arcsec", "1-sigma error along declination, of the centroid alone"),
    "flux_adu": ("adu", "total flux: aperture sum times the correction at the source's place"),
    "flux_err_adu": ("adu", "1-sigma error of flux_adu without the zero point's"),
    "snr": ("", "flux over its error"),
    "mag": ("mag", "magnitude of a star of the reference colour"),
    "mag_err": ("mag", "1-sigma error of mag without the zero point's"),
    "band": ("", "band of mag"),
    "fwhm_px": ("px", "full width at half maximum"),
    "ellipticity": ("", "1 - b/a"),
    "theta_deg": ("deg", "long axis, from +x towards +y"),
    "background_adu": ("adu", "level of the sky under the source"),
    "peak_adu": ("adu", "brightest pixel, sky included"),
    "flags": ("", "1 saturated, 2 blended, 4 masked pixels in the core, 8 aperture over the edge"),
    "saturated": ("", "whether the core is clipped"),
    "calibrator": ("", "whether the zero point rests on it"),
}


def sources_table(columns: dict[str, NDArray[Any]], *, band: str | None, meaning: dict[str, Any]) -> pa.Table:
    """Return the sources of a frame.

    Parameters
    ----------
    columns
        Every column of `COLUMNS` but ``band``, all of shape ``(n,)``.
    band
        Band of the magnitudes, the same for all.
    meaning
        What the magnitudes mean (zero point, band, catalogue, colour term …), kept as JSON under ``photometry``.
    """
    count = len(columns["x"])
    fields, arrays = [], []
    for name, (unit, about) in COLUMNS.items():
        if name == "band":
            array: Any = pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(count, np.int8) if band else [None] * count, pa.int8()), pa.array([band or ""])
            )
        else:
            # What is not known is null, as Parquet has it, and not NaN.
            array = pa.array(columns[name], from_pandas=True)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata={"unit": unit, "description": about}))
    schema = pa.schema(fields, metadata={"photometry": json.dumps(meaning)})
    return pa.Table.from_arrays(arrays, schema=schema)
